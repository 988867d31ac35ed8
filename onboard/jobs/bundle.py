"""A scene of several files in intake: an archive, a form with files beside the scene, or files of the inbox."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from engines.files import synced_folder
from onboard.errors import SceneRefused
from onboard.files import storage_error
from onboard.jobs.archive import KEPT, is_archive, unpack
from onboard.jobs.intake import INCOMING, IncomingFile, check_room
from onboard.jobs.scene_folder import FILES, SCENE_FILE, TIFF_ENDINGS, only_needed
from onboard.mapping.scene_files import digest_of_all, scene_digests
from onboard.settings import Settings

# Bytes written between two checks of the free space.
_CHECK_EVERY_BYTES = 16 << 20


class IncomingBundle:
    """Files of one scene below a folder of their own, durable; `remove` ends it, whatever became of it.

    Args:
        folder: with the delivered files; what the scene does not need goes.

    Attributes:
        path: the file that the scene is opened by.
        sha256: of all files together; of one file its own, so that it is known as if it had come alone.
        bytes: of all files.

    Raises:
        SceneRefused: the files are not one scene.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = only_needed(folder)
        # The files were synced as they were written. Their names are durable only once their folders are.
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                synced_folder(path)
        digests = scene_digests(self.path)
        self.sha256 = digest_of_all(digests)
        self.bytes = sum((self.path.parent / name).stat().st_size for name in digests)
        # One plain GeoTIFF out of an archive is the same scene as that file sent by itself: same digest, same folder.
        self._is_single = len(digests) == 1 and self.path.suffix.lower() in TIFF_ENDINGS

    def move_into(self, folder: Path) -> None:
        """Puts the files into a scene's folder by one rename."""
        if self._is_single:
            self.path.rename(folder / SCENE_FILE)
        else:
            self.folder.rename(folder / FILES)

    def remove(self) -> None:
        """Removes what is still there."""
        shutil.rmtree(self.folder, ignore_errors=True)


def new_folder(settings: Settings) -> Path:
    """An empty folder for incoming files, removed at the next start if nobody does before."""
    folder = settings.scenes_dir / INCOMING / f"{uuid.uuid4().hex}.files"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise storage_error(error, folder) from error
    return folder


def bundle_of(
    settings: Settings, file: IncomingFile, *, name: str = "", beside: Mapping[str, Path] | None = None
) -> IncomingFile | IncomingBundle:
    """A finished upload as the scene it is: the file itself, or a bundle that takes its place.

    Args:
        settings: of the service.
        file: the upload, a GeoTIFF, a description of tiles, a zip or a tar; it is gone where a bundle is given.
        name: the file's own, which files beside it are named after.
        beside: further files by their plain names; they are moved.

    Raises:
        SceneRefused: the files are not one scene.
        StorageError: the disk is full or failed.
    """
    archive = is_archive(file.path)
    if not archive and not beside:
        return file
    folder = new_folder(settings)
    try:
        if archive:
            unpack(file.path, folder, limit=settings.max_upload_bytes, before_write=SpaceCheck(settings))
        else:
            file.path.rename(folder / plain_name(name or SCENE_FILE))
        for beside_name, path in (beside or {}).items():
            target = folder / plain_name(beside_name)
            if target.exists():
                raise SceneRefused(target, f"{beside_name!r} was sent twice", "give each file its own name")
            path.rename(target)
        bundle = IncomingBundle(folder)
    # The folder goes with what was moved into it; the upload itself is the caller's to remove.
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    file.remove()
    return bundle


def plain_name(name: str) -> str:
    """A file's name as its sender has it, where it is one that a scene's files may have.

    Raises:
        SceneRefused: it leads to another folder, is hidden, or names another kind of file.
    """
    plain = name.replace("\\", "/").rpartition("/")[2] if name[1:3] == ":\\" else name  # some browsers send whole paths
    path = Path(plain)
    if "/" in plain or "\\" in plain or "\0" in plain or plain.startswith(".") or len(plain.encode()) > 255:
        raise SceneRefused(path, f"{name[:100]!r} is no plain file name", "send names without folders")
    if path.suffix.lower() not in KEPT:
        raise SceneRefused(path, f"{name[:100]!r} belongs to no scene", "send GeoTIFFs and what GDAL reads beside them")
    return plain


class SpaceCheck:
    """Checks the free space every _CHECK_EVERY_BYTES bytes that are written."""

    def __init__(self, settings: Settings) -> None:
        # The first piece is checked too.
        self._settings, self._since = settings, _CHECK_EVERY_BYTES

    def __call__(self, more: int) -> None:
        """Counts bytes that are about to be written; raises NoRoom where they would reach the reserve."""
        self._since += more
        if self._since >= _CHECK_EVERY_BYTES:
            check_room(self._settings, more)
            self._since = 0
