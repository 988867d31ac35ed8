"""Prefixes of a map's file that open as a coarse map.

All directories come first, as in a file of GDAL's COG driver, then the overviews, smallest first, then the full
resolution. So a file cut after an overview's last block still opens, and reads at that overview.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning


def prefixes_of(path: Path) -> list[dict[str, int]]:
    """For each overview, coarsest first: {"factor", "bytes"}; empty where the file's order does not allow it."""
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # places are none of our business here
        return _heads(path)


def _heads(path: Path) -> list[dict[str, int]]:
    with rasterio.open(path) as file:
        factors = file.overviews(1)
        first_full = _ends(file, None)[0]
        prefixes = []
        for level in reversed(range(len(factors))):
            _, end = _ends(file, level)
            # Not in that order: a prefix would lack blocks of this overview.
            if end > first_full:
                return []
            prefixes.append({"factor": int(factors[level]), "bytes": end})
    return prefixes


def _ends(file: Any, level: int | None) -> tuple[int, int]:
    """Where the blocks of a level begin and end, in bytes of the file; blocks that are not stored count nowhere."""
    options = {} if level is None else {"ovr": level}
    factor = 1 if level is None else file.overviews(1)[level]
    block_height, block_width = file.block_shapes[0]
    rows = math.ceil(math.ceil(file.height / factor) / block_height)
    columns = math.ceil(math.ceil(file.width / factor) / block_width)
    begins, ends = [], []
    for row in range(rows):
        for column in range(columns):
            # GDAL gives a block's place in the file only by these items; a sparse block has none.
            offset = file.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1, **options)
            size = file.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1, **options)
            if offset and size:
                begins.append(int(offset))
                ends.append(int(offset) + int(size))
    return (min(begins), max(ends)) if begins else (0, 0)
