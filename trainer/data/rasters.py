"""Images and label files of any usual format, whole or by windows.

GeoTIFFs are read by the reader that flies, so that training sees the bytes that the payload's pipeline would give the
engine (bands by meaning, one stretch per scene). PNG and JPEG have no windows: they are decoded whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from onboard.scene.grid import Window
from onboard.scene.reader import Scene, SceneOptions
from trainer.errors import DataRefused

TIFF_SUFFIXES = {".tif", ".tiff"}


def is_tiff(path: Path) -> bool:
    """Whether the file is one that can be read by windows."""
    return path.suffix.lower() in TIFF_SUFFIXES


def raster_size(path: Path) -> tuple[int, int]:
    """Height and width, from the header alone.

    Raises:
        DataRefused: it is no image.
    """
    with _translated(path):
        if is_tiff(path):
            with rasterio.open(path, driver="GTiff") as source:
                return source.height, source.width
        with Image.open(path) as image:
            return image.height, image.width


def read_pixels(path: Path, window: Window | None = None) -> NDArray[np.uint8]:
    """Red, green and blue, uint8 (3, h, w).

    Raises:
        DataRefused: it cannot be decoded.
        SceneRefused: a GeoTIFF that would not be mapped either.
    """
    with _translated(path):
        if is_tiff(path):
            # Borders do not change pixels: collars are not looked for.
            with Scene.open(path, SceneOptions(collar=False)) as scene:
                return scene.read(window or Window(0, 0, scene.width, scene.height)).pixels
        with Image.open(path) as image:
            return np.ascontiguousarray(np.asarray(_cropped(image, window).convert("RGB")).transpose(2, 0, 1))


def read_label_values(path: Path, *, palette: bool, window: Window | None = None) -> NDArray[Any]:
    """Values of a label file as stored: codes, an integer array (h, w), or colours, uint8 (3, h, w).

    Args:
        path: of the file.
        palette: a palette's colours are wanted instead of the codes that point into it.
        window: part of it.

    Raises:
        DataRefused: it cannot be decoded, or is neither codes nor colours.
    """
    with _translated(path):
        values = _tiff_values(path, palette, window) if is_tiff(path) else _image_values(path, palette, window)
    if values.dtype.kind not in "iub":
        raise DataRefused(path, f"its values are {values.dtype}", "labels must be whole numbers or colours")
    if values.ndim == 3 and values.dtype != np.uint8:
        raise DataRefused(path, f"its colours are {values.dtype}", "write them with 8 bits a band")
    return values


def _image_values(path: Path, palette: bool, window: Window | None) -> NDArray[Any]:
    with Image.open(path) as image:
        part = _cropped(image, window)
        if part.mode == "P" and palette:
            part = part.convert("RGB")
        values: NDArray[Any] = np.asarray(part)
    if values.ndim == 2:
        return values
    if values.shape[2] < 3:
        raise DataRefused(path, f"it is of mode {part.mode}", "labels must be one band of codes, or colours")
    return values[..., :3].transpose(2, 0, 1)


def _tiff_values(path: Path, palette: bool, window: Window | None) -> NDArray[Any]:
    place = None if window is None else RasterWindow(window.col, window.row, window.width, window.height)
    with rasterio.open(path, driver="GTiff") as source:
        if source.count == 2:
            raise DataRefused(path, "it has 2 bands", "labels must be one band of codes, or colours")
        if source.count >= 3:
            colours: NDArray[Any] = source.read([1, 2, 3], window=place)
            return colours
        codes: NDArray[Any] = source.read(1, window=place)
        if not palette or source.colorinterp[0] != rasterio.enums.ColorInterp.palette:
            return codes
        table = np.zeros((256, 3), dtype=np.uint8)
        for code, colour in source.colormap(1).items():
            table[code] = colour[:3]
        return np.ascontiguousarray(table[codes].transpose(2, 0, 1))


def _cropped(image: Image.Image, window: Window | None) -> Image.Image:
    if window is None:
        return image
    return image.crop((window.col, window.row, window.col + window.width, window.row + window.height))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # labels need pixels, not places
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the user's own data, however large
        try:
            yield
        # Pillow tells broken files by any of these.
        except (OSError, RasterioError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise DataRefused(path, f"cannot be read ({error})", "fetch the file again") from error
