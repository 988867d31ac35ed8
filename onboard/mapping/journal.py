"""The canvas's journal: which tiles are finished, in records that a power cut cannot forge.

A record is `length (u32) | crc32 (u32) | payload`, little endian. The first holds the identity of the work as
canonical JSON, each later one a group of finished tiles, three numbers (u32) each: the tile's index, its valid pixels
and the sum of the model's confidence over them (0 where the model gives none). A torn or damaged tail is dropped at
opening: what it said is simply done again.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onboard.mapping.files import synced_folder, write_all

_HEAD = struct.Struct("<II")
# Far above any real record; a damaged length must not make us allocate gigabytes.
_LONGEST = 64 << 20

Identity = Mapping[str, Any]
Sureness = tuple[int, int]


def identity_bytes(identity: Identity) -> bytes:
    """Canonical JSON of an identity: equal identities give equal bytes."""
    return json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def holds(path: Path, identity: Identity) -> bool:
    """Whether the journal at `path` was written for this identity."""
    return any(payload == identity_bytes(identity) for payload, _ in islice(_records(path), 1))


class Journal:
    """Append-only list of finished tiles, opened for one identity.

    Args:
        path: the journal file.
        identity: what the work depends on; a journal written for another is not resumed.

    Attributes:
        finished: indices of the tiles recorded so far, each with (valid pixels, sum of confidence).
        resumed: whether an earlier journal with this identity was found.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.finished: dict[int, Sureness] = {}
        self._identity = identity
        wanted = identity_bytes(identity)
        end = self._replay(wanted)
        self.resumed = end > 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)
        if not self.resumed:
            self._append(wanted)
            synced_folder(path.parent)

    def record(self, tiles: Mapping[int, Sureness]) -> None:
        """Appends one group of tiles and syncs it; their pixels must have been synced before."""
        self._append(np.asarray([(tile, *sureness) for tile, sureness in tiles.items()], dtype="<u4").tobytes())
        self.finished.update(tiles)

    def forget(self, tiles: Iterable[int]) -> None:
        """Takes tiles out again: a new journal without them takes the place of this one, by one rename."""
        gone = set(tiles)
        left = {tile: self.finished[tile] for tile in sorted(self.finished) if tile not in gone}
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.unlink(missing_ok=True)
        renewed = Journal(fresh, self._identity)
        if left:
            renewed.record(left)
        self.close()
        fresh.replace(self.path)
        synced_folder(self.path.parent)
        self._file, self.finished = renewed._file, renewed.finished

    def close(self) -> None:
        """Closes the file; what was recorded is already on disk."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, payload: bytes) -> None:
        write_all(self._file, _HEAD.pack(len(payload), zlib.crc32(payload)) + payload, self.path)
        os.fdatasync(self._file)

    def _replay(self, wanted: bytes) -> int:
        """Reads the tiles of a journal with the wanted identity; returns the end of its last whole record, or 0."""
        end = 0
        for position, (payload, after) in enumerate(_records(self.path)):
            if position == 0 and payload != wanted:
                return 0
            if position > 0:
                rows = np.frombuffer(payload, dtype="<u4").reshape(-1, 3).tolist()
                self.finished.update({tile: (pixels, confidence) for tile, pixels, confidence in rows})
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
