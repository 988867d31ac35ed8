"""Files of jobs and maps: complete writes, folders published by one rename, locks between processes, digests."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from engines.files import synced_file, synced_folder
from onboard.errors import StorageError

if TYPE_CHECKING:
    from typing_extensions import Self

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_CHUNK = 4 << 20


def storage_error(error: OSError, path: Path) -> StorageError:
    """An operating-system failure while writing `path`, as an error that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(path, "the disk is full", "make room and run the same command again; it continues")
    reason = (error.strerror or str(error)).lower()
    return StorageError(path, f"cannot write: {reason}", "repair the disk or choose another --out")


def is_hidden(path: Path) -> bool:
    """Whether a part of the path is hidden: it begins with a dot, or is the `__MACOSX` of macOS's zips.

    macOS writes a `._NAME` beside each file that it zips or copies to foreign disks: attributes under the ending of an
    image. Of a path with folders that nobody delivered, give the part below them.
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def write_all(descriptor: int, data: bytes | memoryview, path: Path) -> None:
    """Writes every byte at the file's position.

    Raises:
        StorageError: the disk is full or failed.
    """
    view = memoryview(data)
    try:
        while view:
            # os.write may take less than all, on a disk that is nearly full for one.
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise storage_error(error, path) from error


def pwrite_all(descriptor: int, data: bytes | memoryview, at: int, path: Path) -> None:
    """Writes every byte from byte ``at`` of the file on.

    Raises:
        StorageError: the disk is full or failed.
    """
    view = memoryview(data)
    try:
        while view:
            # As os.write; and Linux writes 2 GiB at most in one call.
            size = os.pwrite(descriptor, view, at)
            view, at = view[size:], at + size
    except OSError as error:
        raise storage_error(error, path) from error


def pread_into(descriptor: int, view: memoryview, at: int, path: Path) -> None:
    """Fills ``view`` with the bytes from byte ``at`` of the file on.

    Raises:
        StorageError: the file ends before.
        OSError: the disk failed.
    """
    while view:
        # Linux reads 2 GiB at most in one call.
        size = os.preadv(descriptor, [view], at)
        if size == 0:
            problem = f"was shortened: it ends before byte {at + len(view):,}"
            raise StorageError(path, problem, "run the same command again: what is missing is made anew")
        view, at = view[size:], at + size


class FileLock:
    """A lock between processes, held until `close` or the end of the process, however that comes (flock).

    Args:
        path: of the lock's file, made if missing and never removed.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        # The file stays for ever: if it were removed, two processes could hold locks on two files of this name.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Not POSIX record locks: those are lost when any descriptor of the file is closed in this process.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the lock up."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def publish_folder(staged: Path, final: Path) -> None:
    """Puts a finished folder at its place by one rename; afterwards `staged` is gone or holds what stood there.

    Both must lie on one file system. An existing folder is exchanged in the same instant (renameat2), so a reader
    sees the old one whole or the new one whole.
    """
    # Files, their names, the rename, both parents, in this order: the new name never shows files without their bytes.
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


def _exchange(first: Path, second: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(second))
    # Some network file systems know no exchange: two renames, with the old folder kept until the new one stands.
    aside = first.with_name(first.name + ".old")
    second.rename(aside)
    first.rename(second)
    aside.rename(first)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; reads 4 MiB at a time."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()
