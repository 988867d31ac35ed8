"""A model's folder as it goes up: manifest.json and the files that it names for use aboard, each with its digest."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ground.errors import AskedWrong

MANIFEST = "manifest.json"
_LONGEST_MANIFEST = 1 << 20
# Both become parts of paths in the signed list.
_SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_USED_ABOARD = ("model", "encoder", "golden")
"""Entries of the manifest whose files fly; others (a second graph, a card) stay on the ground."""
_USED_OF_A_HEAD = ("model", "golden")


@dataclass(frozen=True)
class UnitFile:
    """A file of a unit."""

    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Unit:
    """A model that goes up.

    Attributes:
        name, version: as its manifest says.
        files: by file name, manifest.json among them.
    """

    name: str
    version: str
    files: dict[str, UnitFile]

    @property
    def digest(self) -> str:
        """Digest of its manifest, by which the satellite names it."""
        return self.files[MANIFEST].sha256

    def targets(self) -> dict[str, UnitFile]:
        """Files by their path in a signed list."""
        return {f"{self.name}/{self.version}/{name}": file for name, file in self.files.items()}


def unit_of(folder: Path) -> Unit:
    """The unit in a model's folder.

    Raises:
        AskedWrong: it is no model's folder, or a file is not the one that its manifest names.
    """
    path = folder / MANIFEST
    try:
        # Read once: name, files and the digest that names the model are of the same bytes.
        raw = path.read_bytes()
        manifest: dict[str, Any] = json.loads(raw) if len(raw) <= _LONGEST_MANIFEST else {}
        name, version = str(manifest["name"]), str(manifest["version"])
        named = _files_named(manifest)
    except OSError as error:
        raise AskedWrong(f"{path}: {(error.strerror or str(error)).lower()}", "name a model's folder") from None
    except (ValueError, KeyError, TypeError):
        raise AskedWrong(f"{path} is no manifest of a model", "name a folder that `trainer export` wrote") from None
    if not _SLUG.fullmatch(name) or not _SLUG.fullmatch(version):
        raise AskedWrong(f"{path}: name and version are {name!r}, {version!r}", "use small letters, digits, _ . -")
    files = {MANIFEST: UnitFile(path, hashlib.sha256(raw).hexdigest(), len(raw))}
    for file, sha256 in named:
        # No slash: a manifest must not have files of elsewhere on this machine sent up.
        if not _FILE.fullmatch(file):
            raise AskedWrong(f"{path} names a file {file!r}", "export the model again")
        files[file] = _checked(folder / file, sha256)
    return Unit(name, version, files)


def _files_named(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """File names and digests in a manifest: of a model of one graph, or of an encoder and all of its heads."""
    entries = [manifest[key] for key in _USED_ABOARD if manifest.get(key)]
    entries += [head[key] for head in manifest.get("heads", ()) for key in _USED_OF_A_HEAD]
    if not entries:
        raise KeyError("model")
    return [(str(entry["file"]), str(entry["sha256"])) for entry in entries]


def file_of(path: Path) -> UnitFile:
    """A file with its digest.

    Raises:
        AskedWrong: it cannot be read.
    """
    try:
        with path.open("rb") as source:
            digest = hashlib.sha256()  # Python 3.10 has no file_digest
            while chunk := source.read(1 << 20):
                digest.update(chunk)
            # The length that was hashed, not one that is asked for separately: the file may be written meanwhile.
            return UnitFile(path, digest.hexdigest(), source.tell())
    except OSError as error:
        raise AskedWrong(f"{path}: {(error.strerror or str(error)).lower()}", "mend it, or name another") from None


def _checked(path: Path, sha256: str) -> UnitFile:
    file = file_of(path)
    if file.sha256 != sha256:
        raise AskedWrong(f"{path} is not the file that {MANIFEST} names", "export the model again")
    return file
