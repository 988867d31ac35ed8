"""Polygons of one raster of classes, written in the formats that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from pyogrio.errors import DataLayerError, DataSourceError

from products.errors import ProductError, ProductRefused
from products.polygons.coverage import polygons
from products.polygons.files import GeoParquetFile, write_with_gdal
from products.polygons.merging import Minimum, without_small
from products.polygons.patches import Patches, find_patches
from products.polygons.raster import ClassRaster

SUFFIXES: Final = {"geoparquet": ".parquet", "flatgeobuf": ".fgb", "gpkg": ".gpkg"}


@dataclass(frozen=True)
class Options:
    """How polygons are made.

    Attributes:
        tolerance: of simplifying, pixels; 0 keeps the pixels' edges.
        minimum: smaller patches go to a neighbour; None keeps all.
    """

    tolerance: float
    minimum: Minimum | None = None


@dataclass(frozen=True)
class Written:
    """What was written: how many polygons, and square metres where the raster has a place."""

    polygons: int
    area_m2: float | None


def write_polygons(raster: ClassRaster, files: Sequence[Path], options: Options) -> Written:
    """Writes the polygons of a raster.

    Args:
        raster: open; the codes that its columns name become polygons.
        files: of one folder and name, each in the format of its suffix; see SUFFIXES.
        options: simplifying and the smallest patch.

    Raises:
        ProductRefused: a smallest area is asked for where the raster has no place.
        ProductError: a file cannot be written.
    """
    minimum = options.minimum
    if minimum is not None and not minimum.in_pixels and raster.place.equal_area is None:
        raise ProductRefused(
            "the map has no place on Earth, so no areas", "give the smallest patch in pixels, like 50px"
        )
    patches, borders = find_patches(raster.tiles, raster.data, with_borders=minimum is not None)
    if minimum is not None and borders is not None:
        patches = without_small(patches, borders, minimum)
    # GeoParquet first: it grows batch by batch, and GDAL's formats are made of it the same way.
    parquet = files[0].with_suffix(SUFFIXES["geoparquet"])
    written = _write_parquet(raster, patches, parquet, options.tolerance)
    for path in files:
        if path != parquet:
            try:
                write_with_gdal(parquet, path, raster.place)
            except (DataSourceError, DataLayerError) as error:
                raise ProductError(f"{path}: cannot be written ({error})") from error
    # Only a step on the way to what was asked for.
    if parquet not in files:
        parquet.unlink()
    return written


def _write_parquet(raster: ClassRaster, patches: Patches, path: Path, tolerance: float) -> Written:
    area = None if patches.areas is None else 0.0
    with_meaning = np.array(sorted(next(iter(raster.columns.values()))))
    try:
        with GeoParquetFile(path, raster.place, raster.columns) as file:
            for batch in polygons(raster.tiles, patches, raster.codes, tolerance=tolerance):
                # Rasters of changes give no meaning to the code of unchanged ground: it becomes no polygon.
                kept = np.isin(patches.codes[batch.patches], with_meaning)
                numbers = batch.patches[kept]
                areas = None if patches.areas is None else patches.areas[numbers]
                confidence = None if patches.confidence is None else patches.confidence[numbers]
                file.add(batch.polygons[kept], patches.codes[numbers], patches.pixels[numbers], areas, confidence)
                area = None if area is None or areas is None else area + float(areas.sum())
            return Written(file.rows, area)
    except pa.ArrowException as error:  # those of the disk are OSErrors
        raise ProductError(f"{path}: cannot be written ({error})") from error
