"""Sources of tiles: GeoTIFFs, read by windows, and ordinary pictures, decoded whole."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from onboard.scene.grid import Window
from onboard.scene.probe import check_file
from onboard.scene.reader import Scene, ScenePixels, open_source
from trainer.data.rasters import EIGHT_BIT, png_bits, raster_size
from trainer.errors import DataRefused

SCENE_ENDINGS = (".tif", ".tiff")
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png")
CONTACT = "contact.png"
"""The contact sheet of a run, the only picture it writes beside its shards."""


class Imagery(Protocol):
    """An open source.

    Attributes:
        width: pixels.
        height: pixels.
        gsd_m: ground size of a pixel in metres, None where it is not known.
    """

    width: int
    height: int
    gsd_m: float | None

    def read(self, window: Window) -> ScenePixels:
        """RGB uint8 (3, h, w) of a window inside the source, and which pixels hold data."""
        ...

    def close(self) -> None:
        """Closes the file."""
        ...


def find_sources(given: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Files as given, and every GeoTIFF, JPEG and PNG below the folders given, each file once.

    A folder's files are sorted by path. Hidden files of folders are left out, and so are the files of a run whose
    ``out`` lies in a given folder. A path that does not exist is returned too; opening it raises an error with its
    name.
    """
    sources: dict[Path, None] = {}
    for path in given:
        own = None if out is None else _own_of_run(path, out)
        below = sorted(path.rglob("*")) if path.is_dir() else []
        # Sorted by path above: the order of a file system differs between machines, and it decides the shards.
        files = [file for file in below if _ending(file) in SCENE_ENDINGS + PICTURE_ENDINGS and file.name[0] != "."]
        sources.update(dict.fromkeys(f for f in files if f.is_file() and not (own and f.is_relative_to(own))))
        if not path.is_dir():
            sources[path] = None
    once: dict[Path, Path] = {}
    for path in sources:
        # A file named twice, or through a link, would only make near-duplicates of itself.
        once.setdefault(path.resolve(), path)
    return list(once.values())


def in_words(path: Path) -> str:
    """A path as valid UTF-8 text for reports: file names may have any bytes, and invalid ones are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _own_of_run(folder: Path, out: Path) -> Path | None:
    """Paths in a folder of sources that belong to the run: ``out`` inside it, or its contact sheet if both are one."""
    whole, place = folder.resolve(), out.resolve()
    if not place.is_relative_to(whole):
        return None
    return folder / CONTACT if place == whole else folder / place.relative_to(whole)


@contextmanager
def opened(path: Path) -> Iterator[Imagery]:
    """Opens a source.

    Raises:
        DataRefused: no file, neither GeoTIFF nor picture, or a picture that cannot be decoded.
        SceneRefused: a GeoTIFF that cannot be read.
    """
    _checked(path)
    imagery: Imagery = _SceneImagery(path) if _ending(path) in SCENE_ENDINGS else _Picture(path)
    try:
        yield imagery
    finally:
        imagery.close()


def size_of(path: Path) -> tuple[int, int]:
    """Width and height from the header alone.

    Raises:
        DataRefused: as of :func:`opened`.
        SceneRefused: as of :func:`opened`.
    """
    _checked(path)
    if _ending(path) in SCENE_ENDINGS:
        with open_source(path) as source:
            return int(source.width), int(source.height)
    with _translated(path):
        height, width = raster_size(path)
        return width, height


class _SceneImagery:
    """A GeoTIFF: one stretch for the whole scene, validity by its own rule."""

    def __init__(self, path: Path) -> None:
        self._scene = Scene.open(path)
        self.width, self.height = self._scene.width, self._scene.height
        self.gsd_m = self._scene.georeference.gsd_m(self.width, self.height)

    def read(self, window: Window) -> ScenePixels:
        return self._scene.read(window)

    def close(self) -> None:
        self._scene.close()


class _Picture:
    """A JPEG or PNG, held decoded: neither can be read in part. Transparent pixels hold no data."""

    def __init__(self, path: Path) -> None:
        with _translated(path), Image.open(path) as stored:
            # Of a PNG of 16 bits a band Pillow takes the upper eight, without a word.
            kind = stored.mode if png_bits(path) <= 8 else f"{stored.mode} of 16 bits"
            if kind not in EIGHT_BIT:
                raise DataRefused(path, f"its pixels are of kind {kind}", "convert it to 8-bit RGB or to GeoTIFF")
            image = ImageOps.exif_transpose(stored)
            clear = image.has_transparency_data
            pixels = np.asarray(image.convert("RGBA" if clear else "RGB"))
        self._pixels: NDArray[np.uint8] = pixels[..., :3]
        self._valid: NDArray[np.bool_] | None = pixels[..., 3] > 0 if clear else None
        self.height, self.width = pixels.shape[:2]
        self.gsd_m: float | None = None

    def read(self, window: Window) -> ScenePixels:
        place = (window.rows, window.cols)
        pixels = np.ascontiguousarray(self._pixels[place].transpose(2, 0, 1))
        return ScenePixels(pixels, None if self._valid is None else self._valid[place])

    def close(self) -> None:
        """Nothing is open."""


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _checked(path: Path) -> None:
    if not path.is_file():
        raise DataRefused(path, "no such file", "give a file or a folder that is there")
    if _ending(path) in SCENE_ENDINGS:
        check_file(path)
    elif _ending(path) not in PICTURE_ENDINGS:
        raise DataRefused(path, "neither GeoTIFF, JPEG nor PNG by its name", "convert it to one of them")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Pillow's many errors as one, in one line."""
    try:
        with warnings.catch_warnings():
            # A picture has to be decoded whole. So large a one is better as a GeoTIFF, which is read by windows.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Odd metadata is of no interest here.
            warnings.simplefilter("ignore", UserWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataRefused(path, "too large to decode whole", "convert it to GeoTIFF, which is read in parts") from error
    # SyntaxError is what Pillow raises at broken PNG chunks.
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, struct.error) as error:
        text = " ".join(str(error).replace(str(path), "the file").split()) or type(error).__name__
        raise DataRefused(path, f"cannot be decoded: {text[:200]}", "the file is damaged; fetch it again") from error
