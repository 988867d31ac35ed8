"""The canvas's journal: which tiles are finished, in records that a power cut cannot forge.

A record is `length (u32) | crc32 (u32) | payload`, little endian. The first holds the identity of the work as
canonical JSON, each later one a group of finished tiles, each a row of numbers (u32): the tile's index, its
familiarity, and for every head its valid pixels, the sum of the confidence over them (0 where there is none), and the
checksums of its pixels in the two rasters. A torn or damaged tail is dropped at opening: what it said is simply done
again.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.files import synced_folder
from onboard.files import write_all

_HEAD = struct.Struct("<II")
# Far above any real record; a damaged length must not make us allocate gigabytes.
_LONGEST = 64 << 20

# Of the records. A journal of another layout is one of other work.
_LAYOUT = 4

Identity = Mapping[str, Any]


class HeadRecord(NamedTuple):
    """What one head said of a finished tile.

    Attributes:
        pixels: valid ones with a confidence; 0 where the head gives none.
        confidence: the sum over them, 0..255 each.
        classes_crc: checksum of the core in the class raster; 0 where it was not written and holds zeros.
        confidence_crc: likewise in the confidence raster.
    """

    pixels: int = 0
    confidence: int = 0
    classes_crc: int = 0
    confidence_crc: int = 0


class TileRecord(NamedTuple):
    """The journal's record of a finished tile.

    Attributes:
        heads: of each head, in the canvas's order; none where the tile was not written and holds zeros.
        familiarity: see onboard.mapping.familiarity; 0 where there is none.
    """

    heads: tuple[HeadRecord, ...] = ()
    familiarity: int = 0

    def of_head(self, number: int) -> HeadRecord:
        """Of one head."""
        return self.heads[number] if self.heads else HeadRecord()

    def as_row(self, tile: int, heads: int) -> list[int]:
        """The record as a row of numbers."""
        return [tile, self.familiarity, *(value for number in range(heads) for value in self.of_head(number))]

    @classmethod
    def of_row(cls, row: Sequence[int]) -> tuple[int, TileRecord]:
        """Tile and record of a row."""
        width = len(HeadRecord._fields)
        heads = tuple(HeadRecord(*row[at : at + width]) for at in range(2, len(row), width))
        # All zeros is a tile that was not written, which `_is_whole` holds against zeros.
        return row[0], cls(heads if any(map(any, heads)) else (), row[1])


def checksum(pixels: NDArray[np.uint8]) -> int:
    """CRC-32 of pixels (h, w), row by row; never 0."""
    return zlib.crc32(np.ascontiguousarray(pixels).data) or 1  # 0 says: not written


def identity_bytes(identity: Identity) -> bytes:
    """Canonical JSON of an identity: equal identities give equal bytes."""
    return json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def holds(path: Path, identity: Identity) -> bool:
    """Whether the journal at `path` was written for this identity."""
    # Only the first record holds the identity; `_records` is lazy, so no other one is checked.
    return any(payload == _first_record(identity) for payload, _ in islice(_records(path), 1))


def _first_record(identity: Identity) -> bytes:
    return identity_bytes({**identity, "journal_layout": _LAYOUT})


class Journal:
    """Append-only list of finished tiles, opened for one identity.

    Args:
        path: the journal file.
        identity: what the work depends on; a journal written for another is not resumed.
        heads: number of heads that write; part of the identity, since the model's digest says which they are.

    Attributes:
        finished: indices of the tiles recorded so far, with their records.
        resumed: whether an earlier journal with this identity was found.
    """

    def __init__(self, path: Path, identity: Identity, heads: int = 1) -> None:
        self.path, self._heads = path, heads
        self.finished: dict[int, TileRecord] = {}
        self._identity = identity
        first_record = _first_record(identity)
        end = self._replay(first_record)
        self.resumed = end > 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, end)  # records behind a torn one would never be read
        os.lseek(self._file, end, os.SEEK_SET)
        if not self.resumed:
            self._append(first_record)
            synced_folder(path.parent)

    def record(self, tiles: Mapping[int, TileRecord]) -> None:
        """Appends one group of tiles and syncs it; their pixels must have been synced before."""
        rows = [record.as_row(tile, self._heads) for tile, record in tiles.items()]
        self._append(np.asarray(rows, dtype="<u4").tobytes())
        self.finished.update(tiles)

    def forget(self, tiles: Iterable[int]) -> None:
        """Takes tiles out again: a new journal without them takes the place of this one, by one rename."""
        forgotten = set(tiles)
        left = {tile: self.finished[tile] for tile in sorted(self.finished) if tile not in forgotten}
        fresh = self.path.with_name(self.path.name + ".new")
        # A leftover of a kill has this identity and would be gone on with: its tiles may be the forgotten ones.
        fresh.unlink(missing_ok=True)
        renewed = Journal(fresh, self._identity, self._heads)
        if left:
            renewed.record(left)
        # The rename decides: a power cut before it leaves the old journal, which still names these tiles.
        self.close()
        fresh.replace(self.path)
        synced_folder(self.path.parent)
        # The old descriptor is of the file that the rename removed.
        self._file, self.finished = renewed._file, renewed.finished

    def close(self) -> None:
        """Closes the file; what was recorded is already on disk."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, payload: bytes) -> None:
        # One write, then one sync: a cut tears this record at most, and its CRC tells.
        write_all(self._file, _HEAD.pack(len(payload), zlib.crc32(payload)) + payload, self.path)
        os.fdatasync(self._file)

    def _replay(self, first_record: bytes) -> int:
        """Reads the tiles of a journal with the wanted identity; returns the end of its last whole record, or 0."""
        end = 0
        for position, (payload, after) in enumerate(_records(self.path)):
            if position == 0 and payload != first_record:
                return 0
            if position > 0:
                width = 2 + self._heads * len(HeadRecord._fields)
                rows = np.frombuffer(payload, dtype="<u4").reshape(-1, width).tolist()
                self.finished.update(map(TileRecord.of_row, rows))
            end = after
        return end


def _records(path: Path) -> Iterator[tuple[bytes, int]]:
    """Whole records of a journal with the offset after each; stops at the first that is torn or damaged."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    at = 0
    while at + _HEAD.size <= len(raw):
        length, crc = _HEAD.unpack_from(raw, at)
        payload = raw[at + _HEAD.size : at + _HEAD.size + length]
        if length > _LONGEST or len(payload) != length or zlib.crc32(payload) != crc:
            return
        at += _HEAD.size + length
        yield payload, at
