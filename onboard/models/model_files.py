"""Files of models by their SHA-256: parts that grow, whole files, and folders of links that engines open.

A file's name is its digest, so equal files of two models are one, and what is here need not come again. A part becomes
a file by one rename after its digest was found right; a model's folder appears whole, by one rename.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engines.files import synced_file, synced_folder
from onboard.errors import NoRoom
from onboard.files import sha256_file, storage_error, write_all

PART = ".part"
_COPY_BYTES = 1 << 20


class ModelFiles:
    """The folder of models. Any number of processes may read; one, the API, writes.

    Args:
        folder: DATA_DIR/models.
        reserve: bytes that stay free beside what comes.
    """

    def __init__(self, folder: Path, reserve: int) -> None:
        self.folder, self._reserve = folder, reserve
        self._parts, self._files, self._units = folder / "incoming", folder / "files", folder / "units"

    def prepare(self) -> None:
        """Makes the folders and removes what a cut left of folders and files that were being made."""
        for folder in (self._parts, self._files, self._units):
            folder.mkdir(parents=True, exist_ok=True)
        # Folders of links alone: files and parts are untouched.
        for left in (*self._parts.glob("*.new"), *self._parts.glob("*.gone")):
            shutil.rmtree(left, ignore_errors=True)
        # Made of differences that stand beside them; the process that made them has ended with ours.
        for left in self._parts.glob("*.made"):
            left.unlink(missing_ok=True)
        # A folder that is made is no more durable than a file: its name is the parent's to keep.
        synced_folder(self.folder)
        synced_folder(self.folder.parent)

    def unit(self, model_id: str) -> Path:
        """Folder of a model whose files are all here."""
        return self._units / model_id

    def folders(self) -> list[Path]:
        """Folders of all models whose files were whole."""
        return sorted(path for path in self._units.iterdir() if path.is_dir())

    def file(self, sha256: str) -> Path:
        """Where the whole file of this digest is, or would be."""
        return self._files / sha256

    def holds(self, sha256: str) -> bool:
        """Whether the whole file is here."""
        return self.file(sha256).is_file()

    def held_bytes(self, name: str) -> int:
        """Bytes of a part that are here; 0 where it is not begun. ``name`` is a digest, or that of a difference."""
        try:
            return self.part(name).stat().st_size
        except FileNotFoundError:
            return 0

    def part(self, name: str) -> Path:
        """Where a part grows."""
        return self._parts / f"{name}{PART}"

    def difference_part(self, sha256: str, digest: str) -> str:
        """Name of the part of a difference: that of its file, then its own digest."""
        return f"{sha256}.{digest}"

    def differences(self, sha256: str) -> dict[str, int]:
        """Differences of a file that are on their way: bytes that are here, by their digest."""
        paths = self._parts.glob(f"{sha256}.*{PART}")
        return {path.name.split(".")[1]: self.held_bytes(path.name.removesuffix(PART)) for path in paths}

    def made(self, sha256: str) -> Path:
        """A new name each time, where a file is made of a difference."""
        return self._parts / f"{sha256}.{uuid.uuid4().hex}.made"

    def drop_differences(self, sha256: str) -> None:
        """Removes what has come of differences of a file."""
        for digest in self.differences(sha256):
            self.part(self.difference_part(sha256, digest)).unlink(missing_ok=True)

    def append(self, name: str, at: int, chunk: bytes | bytearray) -> int:
        """Writes bytes of a part from byte ``at`` on, durably; returns the part's length.

        Raises:
            NoRoom: they would leave less than the reserve.
            StorageError: the disk is full or failed; what was synced before stays.
        """
        path = self.part(name)
        self.check_room(len(chunk))
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(error, path) from error
        try:
            os.lseek(descriptor, at, os.SEEK_SET)
            write_all(descriptor, memoryview(chunk), path)
            # Before its length is told: the station sends these bytes never again.
            os.fsync(descriptor)
        except OSError as error:
            raise storage_error(error, path) from error
        finally:
            os.close(descriptor)
        return at + len(chunk)

    def check_room(self, wanted: int) -> None:
        """Passes if so many more bytes leave the reserve untouched.

        Raises:
            NoRoom: they do not.
        """
        # The reserve is for work under way: a model must not take the room of a scene that is being mapped.
        free = shutil.disk_usage(self.folder).free
        if free - wanted < self._reserve:
            raise NoRoom(self.folder, wanted=wanted, free=free, reserve=self._reserve)

    def finish(self, sha256: str) -> str:
        """Puts a part that is complete in its place; returns the digest that its bytes have.

        Where that is another one, the part is removed: which byte is wrong cannot be known.

        Raises:
            StorageError: the disk failed.
        """
        return self.take(self.part(sha256), sha256)

    def take(self, path: Path, sha256: str) -> str:
        """As :meth:`finish`, for a file of another name in the same folder."""
        try:
            # Digest, bytes durable, then the name: a file that has its name is whole, whenever the power went.
            digest = sha256_file(path)
            if digest != sha256:
                path.unlink()
                return digest
            synced_file(path)
            path.rename(self.file(sha256))
            synced_folder(self._files)
        except OSError as error:
            raise storage_error(error, path) from error
        return digest

    def adopt(self, source: Path, sha256: str) -> bool:
        """Copies a file from elsewhere aboard if its bytes are those of this digest; False if they are not.

        Raises:
            StorageError: the disk is full or failed.
        """
        path = self._parts / f"{sha256}.copy"
        try:
            _copy(source, path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, path) from error
        return self.take(path, sha256) == sha256

    def build(self, model_id: str, files: Mapping[str, Any]) -> Path:
        """The model's folder, made of links to its files; made anew where it stands.

        Raises:
            StorageError: the disk is full or failed.
        """
        staged, final = self._parts / f"{uuid.uuid4().hex}.new", self.unit(model_id)
        try:
            # Made aside and renamed: a folder among the units is always whole. `prepare` removes what a cut left.
            staged.mkdir()
            for name, facts in files.items():
                _link(self.file(str(facts["sha256"])), staged / name)
            synced_folder(staged)
            # Only a model whose files are awaited comes here: nothing maps from the folder that goes.
            if final.exists():
                self.erase_unit(model_id)
            staged.rename(final)
            synced_folder(self._units)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            raise storage_error(error, final) from error
        return final

    def erase_unit(self, model_id: str) -> None:
        """Removes a model's folder; its files stay until :meth:`sweep`."""
        aside = self._parts / f"{uuid.uuid4().hex}.gone"
        try:
            # Renamed first: removed file by file, a cut would leave half a folder that looks like a model.
            self.unit(model_id).rename(aside)
        except FileNotFoundError:
            return
        synced_folder(self._units)
        shutil.rmtree(aside, ignore_errors=True)

    def sweep(self, wanted: Iterable[str]) -> None:
        """Removes files and parts of digests that nobody wants."""
        kept = set(wanted)
        for folder in (self._files, self._parts):
            for path in folder.iterdir():
                # Every name here begins with the digest of the file that it is for, parts and differences included.
                if path.name.partition(".")[0] not in kept and path.is_file():
                    path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copies a file, durably."""
    with source.open("rb") as old, target.open("wb") as new:
        shutil.copyfileobj(old, new, _COPY_BYTES)
    synced_file(target)


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy on a file system that has none."""
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        # The file itself is gone, or never came: a copy would fail alike.
        raise
    except OSError:
        _copy(source, target)
