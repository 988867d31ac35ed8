"""Checks of a received model that need no runtime: digests, and a manifest that names what was signed with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import ManifestError
from engines.manifest import MANIFEST_NAME, Manifest
from onboard.files import sha256_file
from onboard.models.errors import ModelRefused

_PUSH = "push it again"


def check_files(folder: Path, files: Mapping[str, Any]) -> None:
    """Holds every file of a model's folder against its signed digest and size, as they are on the disk now.

    Raises:
        ModelRefused: one is another, or is missing.
    """
    for name, facts in files.items():
        try:
            size, digest = (folder / name).stat().st_size, sha256_file(folder / name)
        except OSError as error:
            raise ModelRefused(f"{name} cannot be read ({error.strerror})", _PUSH) from error
        if (size, digest) != (facts["bytes"], facts["sha256"]):
            raise ModelRefused(f"{name} has {size:,} bytes of SHA-256 {digest[:12]}, signed is another", _PUSH)


def checked_manifest(folder: Path, name: str, version: str, files: Mapping[str, Any]) -> Manifest:
    """The manifest of a received model, if it is one that this software can fly.

    Raises:
        ModelRefused: it cannot be read, is of an unknown version, names files that were not signed with it, says
            another name than its list, or has no golden tile.
    """
    try:
        manifest = Manifest.load(folder / MANIFEST_NAME)
    except ManifestError as error:
        where = f"{error.key}: " if error.key else ""
        raise ModelRefused(f"its manifest is refused: {where}{error.problem}", error.remedy) from error
    if (manifest.name, manifest.version) != (name, version):
        problem = f"its manifest says {manifest.name} {manifest.version}, its signed list {name} {version}"
        raise ModelRefused(problem, "sign the folder again")
    if manifest.golden is None:
        raise ModelRefused("it has no golden tile: nothing tells whether it computes right", "record one, sign again")
    for entry in manifest.files:
        signed = files.get(entry.file)
        if signed is None or signed["sha256"] != entry.sha256:
            raise ModelRefused(f"its manifest names another {entry.file} than was signed", "sign the folder again")
    return manifest
