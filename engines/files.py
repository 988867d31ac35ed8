"""Atomic, durable replacement of files: a power cut leaves either the old file or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def synced_folder(folder: Path) -> None:
    """Makes the folder's entries (creations, renames) durable."""
    _sync(folder, os.O_DIRECTORY)


def synced_file(path: Path) -> None:
    """Makes the file's bytes durable."""
    _sync(path, 0)


def replace_file(path: Path, content: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Writes a file beside `path` and renames it to `path`: a reader sees the old content or the new one.

    Args:
        path: of the file; its folder must exist.
        content: all of it.
        mode: permissions of the new file.
        durable: sync file and folder, so that the new content survives a power cut once this returns.

    Raises:
        OSError: the disk is full or failed; the old file is unchanged.
    """
    new = path.with_name(f"{path.name}.new")
    # Left by a process that was killed in here: O_EXCL, which follows no link, would refuse it.
    new.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                # Bytes before the name: after a power cut the name must not lead to an empty file.
                os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        # On a full disk the half-written file would hold the space that is short.
        new.unlink(missing_ok=True)
        raise
    if durable:
        # The rename is an entry of the folder, which a sync of the file does not cover (fsync(2)).
        synced_folder(path.parent)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
