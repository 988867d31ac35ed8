"""Files of polygons: GeoParquet, written batch after batch, and what GDAL makes of it: FlatGeobuf and GeoPackage.

Sources: GeoParquet 1.1.0; GDAL's FlatGeobuf and GPKG drivers, by pyogrio.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError

from products.polygons.outlines import Polygons
from products.polygons.place import Place
from products.polygons.raster import Columns

DRIVERS: Final[Mapping[str, str]] = {".fgb": "FlatGeobuf", ".gpkg": "GPKG"}
_GEOMETRY: Final = "geometry"
_BOX: Final = ("xmin", "ymin", "xmax", "ymax")
_ROWS: Final = 10_000
"""Of a row group, about; a reader takes those whose boxes it wants."""


class GeoParquetFile:
    """A GeoParquet file of polygons that grows by batches.

    Attributes:
        rows: written so far.
    """

    def __init__(self, path: Path, place: Place, columns: Columns) -> None:
        self._place, self._columns = place, columns
        self._schema = _schema(columns)
        # Arrow's own copy of the schema would hide from pyarrow the metadata that is added at the end.
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", store_schema=False)
        self._waiting: list[pa.Table] = []
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self.rows = 0

    def __enter__(self) -> GeoParquetFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # A file that was broken off gets no description, and no reader takes it for GeoParquet.
            if error is None:
                self._write()
                self._writer.add_key_value_metadata({"geo": json.dumps(self._description())})
        finally:
            self._writer.close()

    def add(
        self,
        polygons: Polygons,
        codes: NDArray[np.int64],
        pixels: NDArray[np.int64],
        areas: NDArray[np.float64] | None,
        confidence: NDArray[np.float64] | None,
    ) -> None:
        """Adds polygons with their codes and sizes, all (n,).

        Args:
            polygons: in pixels, y upwards.
            codes: of their classes.
            pixels: how many each has.
            areas: square metres; None where the map has no place.
            confidence: 0 to 1; None where there is none.
        """
        if not len(polygons):
            return
        # Placed first: a grid that is mirrored, as one with row 0 in the south, turns shells round.
        placed = shapely.orient_polygons(shapely.transform(polygons, self._place.coordinates))
        boxes = shapely.bounds(placed)
        self._bounds[:2] = np.minimum(self._bounds[:2], boxes[:, :2].min(axis=0))
        self._bounds[2:] = np.maximum(self._bounds[2:], boxes[:, 2:].max(axis=0))
        arrays: list[Any] = [
            pa.array([meaning[code] for code in codes.tolist()], self._schema.field(name).type)
            for name, meaning in self._columns.items()
        ]
        nothing = np.full(len(codes), np.nan)
        arrays += [
            pa.array(pixels),
            # `from_pandas`: not-a-number becomes null, which readers know as "not known".
            pa.array(nothing if areas is None else areas.round(2), from_pandas=True),
            pa.array((nothing if confidence is None else confidence).astype(np.float32), from_pandas=True),
            pa.StructArray.from_arrays([pa.array(boxes[:, at]) for at in range(4)], list(_BOX)),
            pa.array(shapely.to_wkb(placed), pa.binary()),
        ]
        self._waiting.append(pa.Table.from_arrays(arrays, schema=self._schema))
        self.rows += len(codes)
        if sum(len(table) for table in self._waiting) >= _ROWS:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []

    def _description(self) -> dict[str, Any]:
        """Metadata of the file; source: GeoParquet 1.1.0."""
        crs = self._place.crs
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"] if self.rows else [],
            "crs": None if crs is None else crs.to_dict(projjson=True),
            "orientation": "counterclockwise",
            "edges": "planar",
            "covering": {"bbox": {name: ["bbox", name] for name in _BOX}},
        }
        if self.rows:
            column["bbox"] = self._bounds.tolist()
        return {"version": "1.1.0", "primary_column": _GEOMETRY, "columns": {_GEOMETRY: column}}


def write_with_gdal(parquet: Path, target: Path, place: Place) -> None:
    """Writes the polygons of a GeoParquet file in the format of another suffix, batch after batch.

    Raises:
        DataSourceError: of pyogrio: it cannot be written, or is not whole.
    """
    import pyogrio

    with pq.ParquetFile(parquet) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        # Boxes are a column of structures, for which these formats have no type.
        names = [name for name in file.schema_arrow.names if name != "bbox"]
        schema = pa.schema([file.schema_arrow.field(name) for name in names])
        batches = (batch for batch in file.iter_batches(_ROWS, columns=names))
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, batches), target, layer=target.stem,
            driver=DRIVERS[target.suffix],
            geometry_name=_GEOMETRY, geometry_type="Polygon", crs=None if place.crs is None else place.crs.to_wkt(),
        )  # fmt: skip
        _check_is_whole(target, file.metadata.num_rows)


def _check_is_whole(path: Path, rows: int) -> None:
    """Passes a file that GDAL reads with so many polygons.

    GDAL reports no error where the disk was full for a file without polygons, or as it closed one.
    """
    import pyogrio

    info = pyogrio.read_info(path, force_feature_count=True)
    if info["features"] != rows:
        raise DataSourceError(f"{info['features']:,} of {rows:,} polygons are in it")
    # The index is the last that GDAL writes into a GeoPackage.
    if path.suffix == ".gpkg" and not info["capabilities"]["fast_spatial_filter"]:
        raise DataSourceError("its spatial index is missing")


def _schema(columns: Columns) -> pa.Schema:
    kinds = [
        pa.string() if isinstance(next(iter(meaning.values())), str) else pa.int16() for meaning in columns.values()
    ]
    return pa.schema(
        [
            *(pa.field(name, kind, nullable=False) for name, kind in zip(columns, kinds, strict=True)),
            pa.field("pixels", pa.int64(), nullable=False),
            pa.field("area_m2", pa.float64()),
            pa.field("confidence", pa.float32()),
            pa.field("bbox", pa.struct([pa.field(name, pa.float64()) for name in _BOX])),
            pa.field(_GEOMETRY, pa.binary(), nullable=False),
        ]
    )
