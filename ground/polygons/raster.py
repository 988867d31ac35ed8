"""Maps and other rasters of a station, opened for polygons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ground.errors import AskedWrong, GroundError
from ground.export.maps import legend_of, opened
from ground.heads import confidence_name
from products.errors import ProductError, ProductRefused
from products.polygons.raster import ClassRaster, Columns, class_columns


@contextmanager
def opened_map(path: Path) -> Iterator[ClassRaster]:
    """A map, with the confidence that lies beside it.

    Raises:
        AskedWrong: it is no map of classes. GroundError: it cannot be read, or its confidence is another map's.
    """
    beside = path.with_name(confidence_name(path.name))
    with product_errors(), opened(path) as dataset:
        # 0 is no data, and no polygon.
        legend = [item for item in legend_of(dataset, path) if item.code]
        columns = class_columns(
            {item.code: (item.title, "#{:02x}{:02x}{:02x}".format(*item.colour[:3])) for item in legend}
        )
        if not beside.is_file():
            yield ClassRaster.of(dataset, columns)
            return
        with opened(beside) as confidence:
            # Checked before the work: it is read at the map's own pixels, and of another size it is another map's.
            if confidence.shape != dataset.shape:
                raise GroundError(f"{beside}: is not of this map, its size is another; fetch it again or remove it")
            yield ClassRaster.of(dataset, columns, confidence)


@contextmanager
def opened_raster(path: Path, columns: Columns) -> Iterator[ClassRaster]:
    """Another raster of codes, by what they mean; codes that no column names become no polygons.

    Raises:
        GroundError: it cannot be read.
    """
    with product_errors(), opened(path) as dataset:
        yield ClassRaster.of(dataset, columns)


@contextmanager
def product_errors() -> Iterator[None]:
    """Gives errors of products as those of the ground.

    Raises:
        AskedWrong: it was refused. GroundError: it failed.
    """
    try:
        yield
    except ProductRefused as error:
        raise AskedWrong(error.problem, error.remedy) from error
    except ProductError as error:
        raise GroundError(str(error)) from error
