"""Atomic, durable replacement of files: a power cut leaves either the old file or the new one."""

from __future__ import annotations

import errno
import fcntl
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

    Of processes that replace one file at a time, each waits for the one before, and the last one's content stays.

    Raises:
        OSError: the disk is full or failed; the old file is unchanged.
    """
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(_claimed(new, mode), "wb") as file:
        try:
            file.write(content)
            file.flush()
            if durable:
                # Bytes before the name: after a power cut the name must not lead to an empty file.
                os.fsync(file.fileno())
            # Before the file is closed, which ends the lock: until then nobody else writes under this name.
            new.replace(path)
        except BaseException:
            # On a full disk the half-written file would hold the space that is short.
            if _is_still(new, file.fileno()):
                new.unlink()
            raise
    if durable:
        # The rename is an entry of the folder, which a sync of the file does not cover (fsync(2)).
        synced_folder(path.parent)


def _claimed(new: Path, mode: int) -> int:
    """A descriptor of an empty file at ``new`` that no other process writes, until it is closed.

    What a process left there that was killed is removed: a lock ends with its process.
    """
    while True:
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            _remove_left(new)
            continue
        try:
            _lock(descriptor)
            # Between creating and locking another process may have taken it for one that was left.
            if _is_still(new, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove_left(new: Path) -> None:
    """Removes what lies at ``new`` once no process writes it."""
    try:
        # For writing too, which locks on NFS want; so opening does not wait either, were it a named pipe.
        descriptor = os.open(new, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EACCES):
            raise
        # A link, which nothing here makes and which must not be followed; or a file of another user's run.
        new.unlink(missing_ok=True)
        return
    try:
        _lock(descriptor)
        if _is_still(new, descriptor):
            new.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        # Some network and user-space file systems know no locks. One process at a time writes there as well as ever.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that has the name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
