"""Polygons beside a map, made by the same code as `ground polygons` (products.polygons); extra ``polygons``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from engines.manifest import ClassInfo
from onboard.errors import OptionsRefused, StorageError
from onboard.files import storage_error

TOLERANCE_PX: Final = 3.0
"""Of simplifying, as `ground polygons` has it by default."""


def check_packages() -> None:
    """Passes if the packages that trace polygons are installed.

    Raises:
        OptionsRefused: one is not.
    """
    try:
        # GEOS, Arrow and GDAL's vector drivers are an extra; commands ask here before the work, not after it.
        import products.polygons.write  # noqa: F401 -- it needs them all
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise OptionsRefused(
            f"polygons need the package {package}, which is not installed here",
            f"{sys.executable} -m pip install {package} (the extra polygons has all), or leave polygons out",
        ) from None


def write_polygons(
    map_path: Path, confidence: Path | None, legend: Sequence[ClassInfo], formats: Sequence[str]
) -> list[str]:
    """Writes the polygons of one head's map beside it; gives the files' names.

    Args:
        map_path: map.tif, or NAME.tif of a further head.
        confidence: of the same head; None where there is none.
        legend: its classes.
        formats: as onboard.scene.option_texts has them.

    Raises:
        OptionsRefused: a package is not installed.
        StorageError: the disk is full or failed.
    """
    check_packages()
    from products.errors import ProductError
    from products.polygons.raster import ClassRaster, class_columns
    from products.polygons.write import SUFFIXES, Options
    from products.polygons.write import write_polygons as write

    # Named like the map's other files: `NAME-polygons` beside `NAME.tif` of a further head.
    stem = "polygons" if map_path.stem == "map" else f"{map_path.stem}-polygons"
    files = [map_path.with_name(f"{stem}{SUFFIXES[name]}") for name in formats]
    columns = class_columns({item.code: (item.title, item.color) for item in legend})
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            codes = stack.enter_context(rasterio.open(map_path, driver="GTiff"))
            sure = None if confidence is None else stack.enter_context(rasterio.open(confidence, driver="GTiff"))
            write(ClassRaster.of(codes, columns, sure), files, Options(TOLERANCE_PX))
    # Tracing and writing are one step: a full disk shows as the system's error, a driver's refusal as its own.
    except OSError as error:
        raise storage_error(error, files[0]) from error
    except (ProductError, RasterioError) as error:
        raise StorageError(
            files[0], f"polygons could not be written: {error}", "repair the disk, or ask for none"
        ) from error
    return [path.name for path in files]
