"""Writing files so that a power cut finds either the old state or the new one."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from pathlib import Path

from onboard.errors import StorageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_CHUNK = 4 << 20


def storage_error(error: OSError, path: Path) -> StorageError:
    """Our word for an operating-system failure while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(path, "the disk is full", "make room and run the same command again; it continues")
    reason = (error.strerror or str(error)).lower()
    return StorageError(path, f"cannot write: {reason}", "mend the disk or choose another --out")


def write_all(descriptor: int, data: bytes | memoryview, path: Path) -> None:
    """Writes every byte at the file's position.

    Raises:
        StorageError: the disk is full or failed.
    """
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise storage_error(error, path) from error


def synced_folder(folder: Path) -> None:
    """Makes the folder's entries (creations, renames) durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def synced_file(path: Path) -> None:
    """Makes the file's bytes durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_folder(staged: Path, final: Path) -> None:
    """Puts a finished folder at its place by one rename; afterwards `staged` is gone or holds what stood there.

    Both must lie on one file system. An existing folder is exchanged in the same instant (renameat2), so a reader
    sees the old one whole or the new one whole.
    """
    for path in sorted(staged.iterdir()):
        synced_file(path)
    synced_folder(staged)
    try:
        if final.exists():
            _exchange(staged, final)
        else:
            staged.rename(final)
    except OSError as error:
        raise storage_error(error, final) from error
    synced_folder(final.parent)
    synced_folder(staged.parent)


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(other))
    # Some network file systems know no exchange: two renames, with the old folder kept until the new one stands.
    aside = one.with_name(one.name + ".old")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; reads 4 MiB at a time."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()
