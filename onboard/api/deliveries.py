"""Deliveries that are more than one GeoTIFF: archives, and forms with the files that belong to a scene."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

from engines.files import synced_file
from onboard.api.errors import BadRequest
from onboard.errors import SceneRefused
from onboard.files import storage_error
from onboard.jobs.bundle import SpaceCheck, new_folder, plain_name
from onboard.scene.tiff import TIFF_STARTS
from onboard.settings import Settings

SIDECAR_FIELD = "sidecar"
ARCHIVE_TYPES = frozenset({b"application/zip", b"application/x-zip-compressed", b"application/x-tar"})
MOST_FILES = 1000
_TIFF_OR_ZIP = (*TIFF_STARTS, b"PK\3\4")
_OTHER_ENDINGS = (".xml", ".til", ".tar")


def may_begin_a_scene(start: bytes, media_type: bytes, name: str) -> bool:
    """Whether a body that begins so can be a scene, as far as four bytes tell.

    Args:
        start: the first four bytes.
        media_type: of the body; empty in a form.
        name: of the file in a form; empty elsewhere.
    """
    return start in _TIFF_OR_ZIP or media_type in ARCHIVE_TYPES or Path(name).suffix.lower() in _OTHER_ENDINGS


class FormFiles:
    """Files of a form beside its scene, written as their bytes come; one thread at a time.

    Attributes:
        files: where each lies, by its plain name.
    """

    def __init__(self, settings: Settings) -> None:
        self.files: dict[str, Path] = {}
        self._settings = settings
        self._folder: Path | None = None
        self._open: BinaryIO | None = None
        self._check_space = SpaceCheck(settings)

    def begin(self, name: str) -> None:
        """The next file.

        Raises:
            BadRequest: its name is none that a scene's file may have, comes twice, or there are too many.
            StorageError: the disk is full or failed.
        """
        try:
            name = plain_name(name)
        except SceneRefused as error:
            raise BadRequest(f"form field {SIDECAR_FIELD!r}: {error.advice}") from error
        if name in self.files or len(self.files) >= MOST_FILES:
            raise BadRequest(f"form field {SIDECAR_FIELD!r}: {name!r} comes twice, or over {MOST_FILES} files do")
        if self._folder is None:
            self._folder = new_folder(self._settings)
        # Under a number. `bundle_of` gives it its name when the whole form is here.
        path = self._folder / str(len(self.files))
        try:
            self._open = path.open("xb")
        except OSError as error:
            raise storage_error(error, path) from error
        self.files[name] = path

    def write(self, data: bytes) -> None:
        """More of it.

        Raises:
            StorageError: the disk is full or failed; the reserve is reached.
        """
        self._check_space(len(data))
        if self._open is not None:
            try:
                self._open.write(data)
            except OSError as error:
                raise storage_error(error, Path(os.fsdecode(self._open.name))) from error

    def end(self) -> None:
        """It is whole."""
        if self._open is not None:
            opened, self._open = self._open, None
            try:
                opened.close()
            except OSError as error:
                raise storage_error(error, Path(os.fsdecode(opened.name))) from error

    def finish(self) -> None:
        """Makes all of them durable.

        Raises:
            StorageError: the disk failed.
        """
        # Here and not in `end`, while the sender waits for it: more of the form may come meanwhile.
        for path in self.files.values():
            try:
                synced_file(path)
            except OSError as error:  # noqa: PERF203 -- the first one ends it
                raise storage_error(error, path) from error

    def remove(self) -> None:
        """Removes what is still there."""
        if self._open is not None:
            self._open.close()
            self._open = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
