"""The data folder: checked before any process works in it, and locked by the process that does."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from onboard.errors import AlreadyRunning, FolderUnusable
from onboard.files import FileLock, storage_error
from onboard.settings import Settings

_FULL = (errno.ENOSPC, errno.EDQUOT)
SUPERVISOR_LOCK, WORKER_LOCK = "supervisor.lock", "worker.lock"
ANOTHER = "set ONBOARD_DATA_DIR to a folder that this user may write"


def check_data_folder(settings: Settings) -> None:
    """Makes the folders of the service, and writes into each of them.

    Raises:
        FolderUnusable: a file stands in a folder's place or a folder in a file's, or nothing can be written.
        StorageError: the disk is full.
    """
    for folder in (
        settings.data_dir, settings.scenes_dir, settings.maps_dir, settings.canvases_dir, settings.telemetry_dir
    ):  # fmt: skip
        _check_folder(folder)
    ledger = settings.ledger_path
    files = [ledger, *(ledger.with_name(ledger.name + ending) for ending in ("-wal", "-shm"))]
    for path in [*files, settings.tokens_path, *(settings.data_dir / name for name in (SUPERVISOR_LOCK, WORKER_LOCK))]:
        _check_file(path)


def hold_data_folder(settings: Settings, name: str) -> FileLock:
    """Locks the data folder for one kind of process; hold the lock for as long as it works there.

    Args:
        settings: of the service.
        name: of the lock: SUPERVISOR_LOCK or WORKER_LOCK.

    Raises:
        AlreadyRunning: another process holds it.
        FolderUnusable: the lock's file cannot be written.
    """
    path = settings.data_dir / name
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        return FileLock(path)
    except BlockingIOError:
        raise AlreadyRunning(settings.data_dir) from None
    except OSError as error:
        raise FolderUnusable(path, f"cannot be written: {(error.strerror or str(error)).lower()}", ANOTHER) from error


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # By writing: permission bits tell nothing of a read-only mount, a full disk or a quota.
        test = folder / f".{uuid.uuid4().hex}.test"
        with test.open("xb") as file:
            file.write(b"written to see whether that is possible")
        test.unlink()
    except OSError as error:
        # No fault of the folder: an operator makes room, and the same settings work.
        if error.errno in _FULL:
            raise storage_error(error, folder) from error
        raise _unusable(folder, error) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise FolderUnusable(path, "is a folder, and a file is kept there", "move it away, and start again")
    # Not by opening it: closing a file again would give up the locks that SQLite may hold on it in this process.
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise FolderUnusable(path, "cannot be read and written", "give it to the user of the service")


def _unusable(path: Path, error: OSError) -> FolderUnusable:
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return FolderUnusable(path, "cannot be a folder: a file stands in its way", "move it away, or " + ANOTHER)
    reason = {errno.EROFS: "it is mounted read-only"}.get(error.errno or 0, (error.strerror or str(error)).lower())
    return FolderUnusable(path, f"cannot be written: {reason}", ANOTHER)
