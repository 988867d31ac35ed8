"""Canvas to map: a Cloud Optimized GeoTIFF with palette, overviews, class names and provenance.

The canvas is described to GDAL by a VRT of our own making (raw band, georeferencing, colour table, tags) and copied by
the COG driver; no pixel passes through Python. Files hold no times, so the same canvas gives the same bytes.
"""

from __future__ import annotations

import shutil
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from engines.manifest import ClassInfo
from onboard.errors import StorageError
from onboard.files import storage_error
from onboard.mapping.canvas import Layer
from onboard.mapping.malloc import keep_freed_memory
from onboard.scene.gdal_env import GDAL_ENV
from onboard.scene.georeference import Georeference
from onboard.scene.storable_crs import storable
from onboard.scene.vrt import add_georeference

# Measured on maps of real scenes: docs/decisions/0002 has the table.
COG_OPTIONS: Mapping[str, str] = {
    "COMPRESS": "ZSTD",
    "LEVEL": "17",
    "BLOCKSIZE": "512",
    "OVERVIEWS": "FORCE_USE_EXISTING",
    "NUM_THREADS": "ALL_CPUS",
    "BIGTIFF": "IF_SAFER",
    "COPY_SRC_MDD": "YES",
}
CONFIDENCE_OPTIONS: Mapping[str, str] = {**COG_OPTIONS, "LEVEL": "9"}
# Overviews by 2, 4, 8, ... double a class map, whose edges stay as long as they were; by 8, 32, ... they add a sixth.
FIRST_OVERVIEW, NEXT_OVERVIEW = 8, 4
_OVERVIEW_PIXELS = 512


def write_map(
    layer: Layer, target: Path, *, georeference: Georeference, classes: tuple[ClassInfo, ...], tags: Mapping[str, str]
) -> None:
    """Writes the class raster as a COG.

    Args:
        layer: class codes (height, width), 0 where there is no data.
        target: the file to write; its folder must exist.
        georeference: carried over as it was in the scene.
        classes: code, title and colour of each class.
        tags: provenance, written as dataset tags.

    Raises:
        StorageError: the disk is full or failed.
    """
    names = {"CLASS_0": "no data"} | {f"CLASS_{item.code}": item.title for item in classes}
    source = _described(layer, georeference, dict(tags) | names, colours=colour_table(classes))
    # The driver's default resampling is NEAREST, which drops roads and small buildings at random.
    _copy(source, target, map_options(classes), Resampling.mode)


def write_confidence(layer: Layer, target: Path, *, georeference: Georeference, tags: Mapping[str, str]) -> None:
    """Writes the confidence raster (largest class probability x 255, 0 is no data) as a COG."""
    meaning = {"MEANING": "largest class probability x 255; 0 is no data"}
    source = _described(layer, georeference, dict(tags) | meaning, colours=None)
    _copy(source, target, CONFIDENCE_OPTIONS, Resampling.average)


def map_options(classes: tuple[ClassInfo, ...]) -> dict[str, str]:
    """Creation options of a class map; two pixels share a byte where the codes allow, which saves a quarter."""
    return {**COG_OPTIONS, "NBITS": "4" if max(item.code for item in classes) < 16 else "8"}


def overview_levels(width: int, height: int) -> list[int]:
    """Factors of the overviews: 8, 32, 128, ... until one fits a block; none for a map that does."""
    levels: list[int] = []
    factor = FIRST_OVERVIEW
    while max(width, height) > _OVERVIEW_PIXELS * (levels[-1] if levels else 1):
        levels.append(factor)
        factor *= NEXT_OVERVIEW
    return levels


def count_classes(layer: Layer, classes: tuple[ClassInfo, ...]) -> NDArray[np.int64]:
    """Pixels of each code 0..K over the whole layer, as (K + 1,)."""
    counts = np.zeros(len(classes) + 1, dtype=np.int64)
    few = len(classes) <= 16
    for _, strip in layer.strips():
        if few:
            # One vectorised comparison a class is several times faster than bincount, which widens to int64 first.
            counts += [np.count_nonzero(strip == code) for code in range(len(counts))]
        else:
            counts += np.bincount(strip.ravel(), minlength=len(counts))[: len(counts)]
    return counts


def sieve(layer: Layer, target: Layer, pixels: int, strip_rows: int = 2048) -> None:
    """Merges patches smaller than `pixels` (4-connected) into their largest neighbour, strip by strip.

    A patch under the limit is lower than `pixels` rows, so a margin of that many rows (4,096 at most) shows each one
    whole; only the size of a *neighbour* may be cut off at the margin. No-data pixels stay as they are.

    Source: GDALSieveFilter.
    """
    # Strips, since the filter wants its whole input in memory.
    margin = min(pixels, 4096)
    for row in range(0, layer.height, strip_rows):
        top, end = max(0, row - margin), min(layer.height, row + strip_rows + margin)
        codes = layer.read(top, end - top)
        merged = rasterio.features.sieve(codes, pixels, mask=codes != 0)
        merged[codes == 0] = 0
        rows = merged[row - top : row - top + strip_rows]
        target.write_rows(row, rows)
    target.sync()


def colour_table(classes: tuple[ClassInfo, ...]) -> NDArray[np.uint8]:
    """RGBA by code, (256, 4); codes of no class are transparent."""
    table = np.zeros((256, 4), dtype=np.uint8)
    for item in classes:
        table[item.code] = [*bytes.fromhex(item.color.removeprefix("#")), 255]
    return table


def _described(
    layer: Layer, georeference: Georeference, tags: Mapping[str, str], *, colours: NDArray[np.uint8] | None
) -> Path:
    """Writes the VRT beside the layer and returns its path."""
    root = ET.Element("VRTDataset", rasterXSize=str(layer.width), rasterYSize=str(layer.height))
    add_georeference(root, storable(georeference))
    metadata = ET.SubElement(root, "Metadata")
    for key, value in sorted(tags.items()):
        ET.SubElement(metadata, "MDI", key=key).text = value
    band = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band="1", subClass="VRTRawRasterBand")
    ET.SubElement(band, "NoDataValue").text = "0"
    if colours is not None:
        ET.SubElement(band, "ColorInterp").text = "Palette"
        table = ET.SubElement(band, "ColorTable")
        for red, green, blue, alpha in colours.tolist():
            ET.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4=str(alpha))
    ET.SubElement(band, "SourceFilename", relativetoVRT="1").text = layer.path.name
    for name, bytes_ in (("ImageOffset", 0), ("PixelOffset", 1), ("LineOffset", layer.width)):
        ET.SubElement(band, name).text = str(bytes_)
    path = layer.path.with_suffix(".vrt")
    ET.ElementTree(root).write(path, encoding="utf-8")
    return path


@contextmanager
def unlocated_allowed() -> Iterator[None]:
    """GDAL under our options; a picture or a scene without georeferencing is nothing to warn of."""
    with warnings.catch_warnings(), rasterio.Env(**GDAL_ENV):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _copy(source: Path, target: Path, options: Mapping[str, str], resampling: Resampling) -> None:
    try:
        with unlocated_allowed(), keep_freed_memory():
            overviews = {} if _build_overviews(source, resampling) else {"OVERVIEWS": "NONE"}
            rasterio.shutil.copy(source, target, driver="COG", **{**options, **overviews})
    except RasterioError as error:
        raise write_failed(target, error) from error


def _build_overviews(source: Path, resampling: Resampling) -> bool:
    """Into a file beside the source, where the COG driver finds them; False where a map is too small for any."""
    source.with_name(source.name + ".ovr").unlink(missing_ok=True)  # of a run that was killed here
    with rasterio.open(source, "r+") as layer, rasterio.Env(COMPRESS_OVERVIEW="LZW", BIGTIFF_OVERVIEW="IF_SAFER"):
        levels = overview_levels(layer.width, layer.height)
        if levels:
            layer.build_overviews(levels, resampling)
    return bool(levels)


def write_failed(target: Path, error: Exception) -> StorageError:
    """The error of ours for one of GDAL's that came while it wrote."""
    free = shutil.disk_usage(target.parent).free
    if free < 1 << 20:
        return storage_error(OSError(28, "disk full"), target)
    return StorageError(target, f"GDAL could not write it: {error}", "repair the disk or choose another --out")
