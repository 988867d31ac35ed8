"""Digests of a scene's files: its own, and of every file beside it that decides its map's place or valid pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from onboard.files import sha256_file
from onboard.scene.mosaic import files_of


def scene_digests(scene: Path) -> dict[str, str]:
    """SHA-256 of each file by its path below the scene's folder, the scene's own file first.

    Raises:
        SceneRefused: its description names files that are not there.
        OSError: a file cannot be read.
    """
    return {path.relative_to(scene.parent).as_posix(): sha256_file(path) for path in files_of(scene)}


def digest_of_all(digests: Mapping[str, str]) -> str:
    """One digest of several files: of the lines that `sha256sum` writes, sorted by name; of one file its own."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def scene_sha256(scene: Path) -> str:
    """The digest of a scene: of its file where that is all, else of all its files.

    Raises:
        SceneRefused, OSError: as :func:`scene_digests`.
    """
    return digest_of_all(scene_digests(scene))
