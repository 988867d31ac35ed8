"""Reads images and label files of common formats, whole or by windows.

GeoTIFFs are read by the onboard reader, so that training uses the same bytes as the engine on board (bands by meaning,
one stretch per scene). PNG and JPEG cannot be read by windows: they are decoded whole, and rotated by their EXIF
orientation, as viewers and labelling tools show them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from rasterio.enums import ColorInterp, Compression, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterWindow

from onboard.scene.grid import Window
from onboard.scene.reader import Scene, SceneOptions
from trainer.errors import DataRefused

TIFF_SUFFIXES = {".tif", ".tiff"}
EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK"}
"""Pillow's modes that it turns into 8-bit RGB without clipping."""
_ON_ITS_SIDE = {5, 6, 7, 8}
"""EXIF orientations that exchange width and height. Source: CIPA DC-008 (Exif 2.32), table 6."""


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
            # One driver: GDAL would otherwise try all it has on whatever stands under this name.
            with rasterio.open(path, driver="GTiff") as source:
                return source.height, source.width
        with Image.open(path) as image:
            # Width and height in the header are those before the EXIF rotation.
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
            return (image.width, image.height) if turned else (image.height, image.width)


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
        if png_bits(path) > 8:
            return _wide_pixels(path, window)
        with Image.open(path) as image:
            if image.mode not in EIGHT_BIT:
                raise DataRefused(path, f"its pixels are of kind {image.mode}", "convert it to 8-bit RGB or to GeoTIFF")
            upright = _cropped(ImageOps.exif_transpose(image), window)
            return np.ascontiguousarray(np.asarray(upright.convert("RGB")).transpose(2, 0, 1))


def _wide_pixels(path: Path, window: Window | None) -> NDArray[np.uint8]:
    """Of a PNG of 16 bits, as of a GeoTIFF of the same pixels: Pillow clips them all to white."""
    # The onboard reader takes GeoTIFFs only. Copied in memory, the pixels get the same stretch as on board.
    with MemoryFile(ext=".tif") as memory:
        with rasterio.open(path, driver="PNG") as source:
            rasterio.shutil.copy(source, memory.name, driver="GTiff", TILED="YES")
        with Scene.open(Path(memory.name), SceneOptions(collar=False)) as scene:
            return scene.read(window or Window(0, 0, scene.width, scene.height)).pixels


def is_jpeg(path: Path) -> bool:
    """Whether the file's pixels are JPEG, by its content: an image of that kind, or a GeoTIFF compressed so.

    Raises:
        DataRefused: it cannot be read.
    """
    with _translated(path):
        if is_tiff(path):
            with rasterio.open(path, driver="GTiff") as source:
                return bool(source.compression == Compression.jpeg)
        with path.open("rb") as file:
            return file.read(3) == b"\xff\xd8\xff"


def png_bits(path: Path) -> int:
    """Bits of a sample of a PNG; 0 for any other file. Source: PNG specification, third edition, 11.2.1 (IHDR)."""
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 25 else 0


@dataclass(frozen=True)
class LabelValues:
    """What a label file holds.

    Attributes:
        values: codes, an integer array (h, w), or colours, uint8 (3, h, w).
        labelled: (h, w), False where the file says that nothing is labelled: transparent, or masked; None where it
            says nothing of the kind.
    """

    values: NDArray[Any]
    labelled: NDArray[np.bool_] | None = None


def read_label_values(path: Path, *, palette: bool, window: Window | None = None) -> LabelValues:
    """Values of a label file as stored.

    Args:
        path: of the file.
        palette: a palette's colours are wanted instead of the codes that point into it.
        window: part of it.

    Raises:
        DataRefused: it cannot be decoded, or is neither codes nor colours.
    """
    with _translated(path):
        if is_tiff(path):
            label = _tiff_values(path, palette, window, "GTiff")
        elif png_bits(path) > 8:
            label = _tiff_values(path, palette, window, "PNG")  # Pillow keeps 8 bits of most kinds
        else:
            label = _image_values(path, palette, window)
    values = label.values
    if values.dtype.kind not in "iub":
        raise DataRefused(path, f"its values are {values.dtype}", "labels must be whole numbers or colours")
    if values.ndim == 3 and values.dtype != np.uint8:
        raise DataRefused(path, f"its colours are {values.dtype}", "write them with 8 bits a band")
    return label


def _image_values(path: Path, palette: bool, window: Window | None) -> LabelValues:
    with Image.open(path) as image:
        part = _cropped(ImageOps.exif_transpose(image), window)
        # Asked before the palette is resolved, which drops transparency.
        labelled = np.asarray(part.convert("RGBA"))[..., 3] != 0 if part.has_transparency_data else None
        # Without this an array of a palette image holds indices, which are codes in their own right.
        if part.mode == "P" and palette:
            part = part.convert("RGB")
        values: NDArray[Any] = np.asarray(part)
        if part.mode == "L" and (bits := png_bits(path)) in (2, 4):
            values = values // (255 // (2**bits - 1))  # Pillow spreads grey of so few bits over 0 to 255
    if values.ndim == 2:
        return LabelValues(values, labelled)
    if part.mode in ("LA", "PA"):
        return LabelValues(values[..., 0], labelled)
    if values.shape[2] < 3:
        raise DataRefused(path, f"it is of mode {part.mode}", "labels must be one band of codes, or colours")
    return LabelValues(values[..., :3].transpose(2, 0, 1), labelled)


def _tiff_values(path: Path, palette: bool, window: Window | None, driver: str) -> LabelValues:
    place = None if window is None else RasterWindow(window.col, window.row, window.width, window.height)
    with rasterio.open(path, driver=driver) as source:
        kinds = source.colorinterp
        alpha = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None
        # Two bands are codes with transparency, or nothing that we know.
        if source.count == 2 and alpha != 2:
            raise DataRefused(path, "it has 2 bands", "labels must be one band of codes, or colours")
        labelled = None
        if alpha is not None:
            labelled = source.read(alpha, window=place) != 0
        # A mask band or a .msk file. A no-data value is not looked at: the class table says what is ignored.
        elif MaskFlags.per_dataset in source.mask_flag_enums[0]:
            labelled = source.dataset_mask(window=place) != 0
        if source.count >= 3:
            colours: NDArray[Any] = source.read([1, 2, 3], window=place)
            return LabelValues(colours, labelled)
        codes: NDArray[Any] = source.read(1, window=place)
        if not palette or kinds[0] != ColorInterp.palette:
            return LabelValues(codes, labelled)
        table = np.zeros((np.iinfo(codes.dtype).max + 1, 3), dtype=np.uint8)  # palettes are of 8 or 16 bits
        for code, colour in source.colormap(1).items():
            table[code] = colour[:3]
        return LabelValues(np.ascontiguousarray(table[codes].transpose(2, 0, 1)), labelled)


def _cropped(image: Image.Image, window: Window | None) -> Image.Image:
    if window is None:
        return image
    return image.crop((window.col, window.row, window.col + window.width, window.row + window.height))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # no georeference is needed
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the user's own data, however large
        try:
            yield
        except Image.DecompressionBombError as error:
            raise DataRefused(
                path, "too large to decode whole", "convert it to GeoTIFF, which is read in parts"
            ) from error
        # Pillow tells broken files by any of these.
        except (OSError, RasterioError, SyntaxError, ValueError, EOFError) as error:
            raise DataRefused(path, f"cannot be read ({error})", "fetch the file again") from error
