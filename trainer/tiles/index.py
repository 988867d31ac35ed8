"""The Parquet index: one row per tile, one row group per shard, written without loading it whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("col", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("gsd_m", pa.float64()),
        pa.field("valid_share", pa.float32(), nullable=False),
        pa.field("mean", pa.list_(pa.float32(), 3), nullable=False),
        pa.field("deviation", pa.list_(pa.float32(), 3), nullable=False),
        pa.field("difference_hash", pa.uint64(), nullable=False),
    ]
)
"""Columns: position and statistics of a tile. `gsd_m` is in metres and null where the source has no georeference;
`mean` and `deviation` are of red, green and blue over pixels with data, 0 to 255."""


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows of one shard as a Parquet file of one row group."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path, row_group_size=max(1, len(rows)))


def hashes_in(path: Path) -> NDArray[np.uint64]:
    """Difference hashes of a file's rows, (n,)."""
    column = pq.read_table(path, columns=["difference_hash"]).column(0)
    return np.asarray(column.to_numpy(), dtype=np.uint64)


def merge(parts: Iterable[Path], path: Path) -> None:
    """Files of one row group each into one file, group by group."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for part in parts:
            table = pq.read_table(part, schema=SCHEMA)
            writer.write_table(table, row_group_size=max(1, len(table)))
