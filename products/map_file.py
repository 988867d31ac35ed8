"""The file of a class map: a Cloud Optimized GeoTIFF with palette, overviews, class names and provenance.

It is gathered by bands (products/map_blocks.py), which may begin before the map is whole, and written at once. Files
hold no times, so equal rasters give equal bytes, aboard and on the ground, as long as both have the same GDAL, which
describes place and names, and the same Zstandard.
"""

from __future__ import annotations

import os
import tempfile
import threading
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import rasterio.shutil
from numpy.typing import NDArray

from products.cog import Level, Tags, tags_of, write_blocks
from products.gdal_copy import Colour, describe
from products.map_blocks import (
    BLOCK,
    FACTORS,
    Band,
    Pixels,
    bits_of,
    encode_band,
    encode_blocks,
    merged,
    most_frequent,
    overview_factors,
)

ReadRows = Callable[[int, int], Pixels]
"""Rows of the map: from the first of them, so many; (rows, width)."""


_MOST_BYTES: Final = 256 << 20
"""Of rows that the threads of :meth:`MapBands.complete` have in memory at a time."""


@dataclass(frozen=True)
class _Kept:
    """A band without its blocks, which lie one after another in a file from ``begin`` on.

    ``checksum`` is of the rest: it lies in memory for as long as a scene is mapped, where bits flip.
    """

    band: Band
    begin: int
    sizes: list[int]
    checksum: int

    @property
    def is_whole(self) -> bool:
        """Whether it is as it was made."""
        return self.checksum == _checksum(self.band)


def _checksum(band: Band) -> int:
    value = 0
    for array in (*band.overviews, band.cells, band.counts):
        value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return value


class MapBands:
    """Bands of one map until its file is written; they come in any order, from any thread.

    Args:
        width, height: of the map, pixels.
        largest_code: K, the largest class code.
        folder: where the blocks are kept in a file without a name, which goes with this process.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, width: int, height: int, largest_code: int, folder: Path) -> None:
        self.width, self.height, self.largest_code = width, height, largest_code
        self.factors = overview_factors(width, height)
        self._kept: list[_Kept | None] = [None] * -(-height // BLOCK)
        self._blocks = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 -- open as long as this is
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Bands of the map."""
        return len(self._kept)

    @property
    def missing(self) -> list[int]:
        """Numbers of the bands that are not there."""
        return [number for number, kept in enumerate(self._kept) if kept is None]

    def rows_of(self, number: int) -> tuple[int, int]:
        """First row of a band, and how many it has."""
        first = number * BLOCK
        return first, min(BLOCK, self.height - first)

    def make(self, number: int, read: ReadRows, stopped: Callable[[], bool] = lambda: False) -> Band:
        """Makes a band; it is not kept yet.

        Raises:
            UnknownClass, Stopped: see :func:`encode_band`; also what ``read`` raises.
        """
        return encode_band(read(*self.rows_of(number)), self.largest_code, self.factors, stopped)

    def keep(self, number: int, band: Band) -> None:
        """Keeps a band, in place of one that is there.

        Raises:
            OSError: the disk is full or failed.
        """
        sizes = [len(block) for block in band.blocks]
        rest = Band([], band.overviews, band.cells, band.counts)
        with self._lock:
            begin = self._blocks.seek(0, os.SEEK_END)
            self._blocks.writelines(band.blocks)
            self._blocks.flush()  # a full disk is met here, and the band counts as missing
            self._kept[number] = _Kept(rest, begin, sizes, _checksum(rest))

    def complete(self, read: ReadRows, threads: int) -> None:
        """Makes what is missing, and what changed in memory since it was made.

        Raises:
            UnknownClass: a code is larger than K.
            OSError: the disk is full or failed; also what ``read`` raises.
        """
        self._kept = [kept if kept is not None and kept.is_whole else None for kept in self._kept]
        threads = max(1, min(threads, _MOST_BYTES // (2 * BLOCK * self.width)))

        def one(number: int) -> None:
            self.keep(number, self.make(number, read))

        with ThreadPoolExecutor(threads) as pool:
            # As a list: an error of any thread is raised here.
            list(pool.map(one, self.missing))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Pixels of each code 0..K over the whole map, (K + 1,)."""
        total: NDArray[np.int64] = np.sum([kept.band.counts for kept in self._whole()], axis=0)
        return total

    def write(self, target: Path, tags: Tags) -> None:
        """Writes the map's file.

        Args:
            target: the file; its folder must exist.
            tags: of the map but for its size and its blocks, see :func:`directory_of`.

        Raises:
            OSError: the disk is full or failed.
        """
        bands, bits = self._whole(), bits_of(self.largest_code)
        # Each overview as its blocks, finest first.
        overviews = [_encoded(pixels, bits) for pixels in self._overviews(bands)]
        levels = [Level(self.width, self.height, [size for kept in bands for size in kept.sizes])]
        for factor, blocks in zip(self.factors, overviews, strict=True):
            size = [len(block) for block in blocks]
            levels.append(Level(-(-self.width // factor), -(-self.height // factor), size))
        with target.open("wb") as file:
            write_blocks(file, tags, BLOCK, levels, self._in_order(bands, overviews))

    def _whole(self) -> list[_Kept]:
        bands = [kept for kept in self._kept if kept is not None]
        if len(bands) < len(self._kept):
            raise ValueError(f"{len(self._kept) - len(bands)} bands of the map are missing")
        return bands

    def _overviews(self, bands: Sequence[_Kept]) -> Iterator[Pixels]:
        fine = [factor for factor in self.factors if factor in FACTORS]
        for level in range(len(fine)):
            yield np.concatenate([kept.band.overviews[level] for kept in bands])
        cells = np.concatenate([kept.band.cells for kept in bands], axis=1)
        for _ in self.factors[len(fine) :]:
            cells = merged(cells)
            yield most_frequent(cells)

    def _in_order(self, bands: Sequence[_Kept], overviews: Sequence[list[bytes]]) -> Iterator[bytes]:
        for blocks in reversed(overviews):
            yield from blocks
        for kept in bands:
            self._blocks.seek(kept.begin)
            for size in kept.sizes:
                yield self._blocks.read(size)

    def close(self) -> None:
        """Lets go of the blocks."""
        with suppress(OSError):  # nothing in that file is needed any more, whatever the disk says
            self._blocks.close()


def _encoded(pixels: Pixels, bits: int) -> list[bytes]:
    return [block for row in range(0, len(pixels), BLOCK) for block in encode_blocks(pixels[row : row + BLOCK], bits)]


def directory_of(
    folder: Path,
    tags: Mapping[str, str],
    *,
    largest_code: int,
    colours: Iterable[Colour],
    add_georeference: Callable[[ET.Element], None],
) -> Tags:
    """The directory that GDAL writes for a map of this place, palette and names.

    Args:
        folder: for a raster of one pixel, which is removed.
        tags: of the dataset.
        largest_code: K.
        colours: by code.
        add_georeference: adds elements to a VRT's root.

    Raises:
        RasterioError: GDAL cannot write it.
    """
    # Names that no file of a map has: no head's begins with a dot.
    source, template = folder / ".template.vrt", folder / ".template.tif"
    describe(None, (1, 1), tags, colours=colours, add_georeference=add_georeference, path=source)
    try:
        rasterio.shutil.copy(source, template, driver="GTiff", NBITS=str(bits_of(largest_code)), ENDIANNESS="LITTLE")
        return tags_of(template)
    finally:
        source.unlink(missing_ok=True)
        template.unlink(missing_ok=True)
        # Of a coordinate system that no GeoTIFF holds, as GDAL's COG driver would leave it beside a map.
        template.with_name(f"{template.name}.aux.xml").unlink(missing_ok=True)
