"""Canvas to map: the files of classes, of confidence and of changes (see products.map_file and products.gdal_copy)."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import rasterio
import rasterio.features
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from engines.cpu import usable_cores
from engines.manifest import ClassInfo
from onboard.errors import StorageError
from onboard.files import storage_error
from onboard.mapping.canvas import Layer
from onboard.mapping.integrity import ProductDamaged
from onboard.mapping.malloc import keep_freed_memory
from onboard.scene.gdal_env import WRITE_ENV
from onboard.scene.georeference import Georeference
from onboard.scene.storable_crs import storable
from onboard.scene.vrt import add_georeference
from products import gdal_copy
from products.change.coding import CHANGED, NOW_NO_DATA
from products.gdal_copy import COG_OPTIONS
from products.map_blocks import UnknownClass, bits_of
from products.map_file import MapBands, directory_of

CONFIDENCE_OPTIONS: Mapping[str, str] = {**COG_OPTIONS, "LEVEL": "9"}
CHANGE_OPTIONS: Mapping[str, str] = {**COG_OPTIONS, "OVERVIEWS": "NONE", "SPARSE_OK": "YES"}
"""Blocks in which nothing changed are left out."""
_NOW_NO_DATA = (128, 128, 128, 255)


def write_map(
    layer: Layer, target: Path, *, georeference: Georeference, classes: tuple[ClassInfo, ...], tags: Mapping[str, str],
    bands: MapBands | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """Writes the class raster as a COG.

    Args:
        layer: class codes (height, width), 0 where there is no data.
        target: the file to write; its folder must exist.
        georeference: carried over as it was in the scene.
        classes: code, title and colour of each class.
        tags: provenance, written as dataset tags.
        bands: of this layer, where some were made while it was mapped; what they lack is made now.

    Returns:
        pixels of each code 0..K, (K + 1,).

    Raises:
        ProductDamaged: the layer holds a class that there is not: it changed since it was compared with its checksums.
        StorageError: the disk is full or failed.
    """
    try:
        with closing(bands_of(layer, classes)) if bands is None else nullcontext(bands) as made:
            made.complete(layer.read, usable_cores())
            with unlocated_allowed():
                directory = directory_of(
                    target.parent, dict(tags) | _class_names(classes), largest_code=made.largest_code,
                    colours=[tuple(entry) for entry in colour_table(classes).tolist()],
                    add_georeference=lambda root: add_georeference(root, storable(georeference)),
                )  # fmt: skip
            made.write(target, directory)
            return made.counts
    except UnknownClass as error:
        raise ProductDamaged(f"the canvas changed while the map was written ({error})") from error
    except OSError as error:
        raise storage_error(error, target) from error
    except RasterioError as error:
        raise write_failed(target, error) from error


def bands_of(layer: Layer, classes: tuple[ClassInfo, ...]) -> MapBands:
    """The bands of a layer, of which none is made yet.

    Raises:
        OSError: the disk is full or failed.
    """
    return MapBands(layer.width, layer.height, max(item.code for item in classes), layer.path.parent)


def _class_names(classes: tuple[ClassInfo, ...]) -> dict[str, str]:
    return {"CLASS_0": "no data"} | {f"CLASS_{item.code}": item.title for item in classes}


def write_confidence(layer: Layer, target: Path, *, georeference: Georeference, tags: Mapping[str, str]) -> None:
    """Writes the confidence raster (largest class probability x 255, 0 is no data) as a COG."""
    meaning = {"MEANING": "largest class probability x 255; 0 is no data"}
    source = _described(layer, georeference, dict(tags) | meaning, colours=None)
    _copy(source, target, CONFIDENCE_OPTIONS, Resampling.average)


def write_changes(
    layer: Layer, target: Path, *, georeference: Georeference, classes: tuple[ClassInfo, ...], tags: Mapping[str, str]
) -> None:
    """Writes the raster of what changed as a COG: 0 where nothing did, else the class of now, see products.change.

    Args:
        layer: codes of changes (height, width).
        target: the file to write; its folder must exist.
        georeference: of the map.
        classes: of the map.
        tags: provenance: that of the map, and the digests of both maps.

    Raises:
        StorageError: the disk is full or failed.
    """
    names = {"CLASS_0": "unchanged", f"CLASS_{NOW_NO_DATA}": "now no data"}
    names |= {f"CLASS_{item.code + CHANGED}": f"now {item.title}" for item in classes}
    # A change is coded as the class of now plus one, so each colour moves up by one code.
    colours = np.roll(colour_table(classes), CHANGED, axis=0)
    colours[[0, NOW_NO_DATA]] = (0, 0, 0, 0), _NOW_NO_DATA
    source = _described(layer, georeference, dict(tags) | names, colours=colours)
    options = {**CHANGE_OPTIONS, "NBITS": str(bits_of(max(item.code for item in classes) + CHANGED))}
    _copy(source, target, options, Resampling.nearest)


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
        # rasterio refuses a limit of more pixels than there are, which would do the same as one of all of them.
        merged = rasterio.features.sieve(codes, min(pixels, codes.size), mask=codes != 0)
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
    return gdal_copy.describe(
        layer.path, (layer.width, layer.height), tags,
        colours=None if colours is None else [tuple(entry) for entry in colours.tolist()],
        add_georeference=lambda root: add_georeference(root, storable(georeference)),
    )  # fmt: skip


@contextmanager
def unlocated_allowed() -> Iterator[None]:
    """GDAL under our options; a picture or a scene without georeferencing is nothing to warn of."""
    with warnings.catch_warnings(), rasterio.Env(**WRITE_ENV):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _copy(source: Path, target: Path, options: Mapping[str, str], resampling: Resampling) -> None:
    try:
        # Page faults of libtiff's freed memory took most of the time of large rasters (decision 0002).
        with unlocated_allowed(), keep_freed_memory():
            gdal_copy.write_cog(source, target, options, resampling)
    except RasterioError as error:
        raise write_failed(target, error) from error


def write_failed(target: Path, error: Exception) -> StorageError:
    """The error of ours for one of GDAL's that came while it wrote."""
    # GDAL's errors carry no errno: with less than 1 MiB left the disk is taken for full.
    free = shutil.disk_usage(target.parent).free
    if free < 1 << 20:
        return storage_error(OSError(28, "disk full"), target)
    return StorageError(target, f"GDAL could not write it: {error}", "repair the disk or choose another --out")
