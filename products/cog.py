"""Layout of a Cloud Optimized GeoTIFF of one band: header, all directories, overviews from the smallest, then the map.

A file cut after an overview opens at that overview. GDAL describes the place, the palette and the names, in the
directory of a raster of one pixel; blocks come as they are. GDAL's own driver copies whole rasters only: nothing could
be made ahead of the last row.
Source: TIFF 6.0; BigTIFF (Aware Systems); GDAL's page of the COG driver, for the structural metadata and block leaders.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

# So readers know that a block's size stands before it, and that blocks lie in the order of their numbers.
_STRUCTURE: Final = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_LARGEST_CLASSIC: Final = 2_000_000_000
"""Bytes of a map at most, were it not compressed, whose file has offsets of 32 bits; GDAL draws the line there too."""
_ZSTD: Final = 50000

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION = 254, 256, 257, 258, 259
_TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _SIZES, _NO_DATA = 322, 323, 324, 325, 42113
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_SIZES, _PREDICTOR = 273, 278, 279, 317
_OF_AN_OVERVIEW: Final = frozenset({_BITS, 262, 277, 284, 320, 339, _NO_DATA})
"""Tags of the map that its overviews have too: how a pixel is stored and what colour it has."""
_REPLACED: Final = frozenset(
    {_SUBFILE, _WIDTH, _HEIGHT, _COMPRESSION, _STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_SIZES, _PREDICTOR,
     _TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _SIZES}
)  # fmt: skip
_SHORT, _LONG, _LONG8 = 3, 4, 16
_BYTES_OF: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
"""By type of a tag's values."""


class Tag(NamedTuple):
    """Values of one tag: their type, how many, and their bytes, little-endian."""

    kind: int
    number: int
    values: bytes


Tags = Mapping[int, Tag]


@dataclass(frozen=True)
class Level:
    """The map or one of its overviews: its size, and the bytes that each of its blocks has in the file, row by row."""

    width: int
    height: int
    sizes: Sequence[int]


def tags_of(path: Path) -> dict[int, Tag]:
    """Tags of the first directory of a small little-endian TIFF, as GDAL writes it.

    Raises:
        ValueError: it is none.
    """
    raw = path.read_bytes()
    if raw[:4] != b"II*\0":
        raise ValueError(f"{path} is no little-endian TIFF")
    (at,) = struct.unpack_from("<I", raw, 4)
    (count,) = struct.unpack_from("<H", raw, at)
    tags = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from("<HHI", raw, entry)
        size = _BYTES_OF[kind] * values
        place = entry + 8 if size <= 4 else struct.unpack_from("<I", raw, entry + 8)[0]
        tags[tag] = Tag(kind, values, raw[place : place + size])
    return tags


def write_blocks(file: BinaryIO, tags: Tags, block: int, levels: Sequence[Level], blocks: Iterable[bytes]) -> None:
    """Writes a whole file.

    Args:
        file: empty.
        tags: of the map but for its size and its blocks, see :func:`tags_of`.
        block: pixels a side of a block.
        levels: the map, then its overviews, finest first.
        blocks: of all levels, compressed by Zstandard, in the file's order: the coarsest overview first, the map last.

    Raises:
        OSError: the disk is full or failed.
        ValueError: a block is not of the size that was said.
    """
    layout = _Layout(tags, block, levels)
    file.write(layout.head())
    expected = [size for level in reversed(levels) for size in level.sizes]
    for size, content in zip(expected, blocks, strict=True):
        if len(content) != size:
            raise ValueError(f"a block of {len(content)} bytes, not {size}")
        file.write(struct.pack("<I", size) + content + content[-4:])


class _Layout:
    """Where everything lies in the file."""

    def __init__(self, tags: Tags, block: int, levels: Sequence[Level]) -> None:
        self._tags, self._block, self._levels = tags, block, levels
        bits = int.from_bytes(tags[_BITS].values[:2], "little")
        self._is_big = levels[0].width * levels[0].height * bits // 8 > _LARGEST_CLASSIC
        self._word = "Q" if self._is_big else "I"

    def head(self) -> bytes:
        """Header, structural metadata and directories: everything before the first block."""
        structure = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_STRUCTURE) + _STRUCTURE
        start = (16 if self._is_big else 8) + len(structure)
        start += start % 2  # directories begin at even places
        # Once with offsets of zero, which have as many bytes: then it is known where the blocks begin.
        begin = start + sum(map(len, self._directories(start, 0)))
        directories = b"".join(self._directories(start, begin))
        version = struct.pack("<HHHQ", 43, 8, 0, start) if self._is_big else struct.pack("<HI", 42, start)
        return (b"II" + version + structure).ljust(start, b"\0") + directories

    def _directories(self, start: int, blocks_from: int) -> Iterator[bytes]:
        offsets = self._offsets(blocks_from)
        for number, level in enumerate(self._levels):
            is_last = number == len(self._levels) - 1
            directory = self._directory(level, start, offsets[number], is_overview=number > 0, is_last=is_last)
            start += len(directory)
            yield directory

    def _offsets(self, at: int) -> list[list[int]]:
        """Of each level's blocks, where the first block's leader is at ``at``."""
        offsets: list[list[int]] = []
        for level in reversed(self._levels):
            places = []
            for size in level.sizes:
                places.append(at + 4)  # behind its leader
                at += size + 8  # leader and trailer
            offsets.append(places)
        return offsets[::-1]

    def _directory(
        self, level: Level, start: int, offsets: Sequence[int], *, is_overview: bool, is_last: bool
    ) -> bytes:
        own = {
            _WIDTH: _numbers(_LONG, [level.width]),
            _HEIGHT: _numbers(_LONG, [level.height]),
            _COMPRESSION: _numbers(_SHORT, [_ZSTD]),
            _TILE_WIDTH: _numbers(_SHORT, [self._block]),
            _TILE_HEIGHT: _numbers(_SHORT, [self._block]),
            _OFFSETS: _numbers(_LONG8 if self._is_big else _LONG, offsets),
            _SIZES: _numbers(_LONG, level.sizes),
        }
        if is_overview:
            own[_SUBFILE] = _numbers(_LONG, [1])  # a reduced image of another one
        kept = {
            tag: value for tag, value in self._tags.items()
            if (tag in _OF_AN_OVERVIEW if is_overview else tag not in _REPLACED)
        }  # fmt: skip
        entries = sorted({**kept, **own}.items())  # readers want rising tags
        counter, room = ("<Q", 8) if self._is_big else ("<H", 4)
        entry_bytes = 12 + 2 * (room - 4)
        values_at = start + struct.calcsize(counter) + entry_bytes * len(entries) + room
        table, values = struct.pack(counter, len(entries)), b""
        for tag, (kind, count, content) in entries:
            inside = content
            if len(content) > room:
                inside = struct.pack(f"<{self._word}", values_at + len(values))
                values += content + b"\0" * (len(content) % 2)
            table += struct.pack(f"<HH{self._word}", tag, kind, count) + inside.ljust(room, b"\0")
        size = len(table) + room + len(values)
        return table + struct.pack(f"<{self._word}", 0 if is_last else start + size) + values


def _numbers(kind: int, values: Sequence[int]) -> Tag:
    code = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}[kind]
    return Tag(kind, len(values), struct.pack(f"<{len(values)}{code}", *values))
