"""Random access to the tiles in a folder of shards, for training.

Shards are plain tar files in WebDataset's format, from this software or another. The position of each JPEG is read once
from the tars' headers and kept in memory, 16 bytes per tile. A tile is then read by one ``pread``.
"""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from trainer.errors import DataMissing, DataRefused

ENDINGS = (".jpg", ".jpeg", ".png")
MOST_OPEN = 256
"""Files open at once: a process may have 1,024 on most machines, and sets have thousands of shards."""


class ShardDataset(Sequence[NDArray[np.uint8]]):
    """Tiles by number, uint8 (3, S, S) each, decoded when asked for.

    May be forked and used from several threads: it reads by position, and keeps the last used files open.

    Args:
        folder: of *.tar files.

    Raises:
        DataMissing: no such folder, or no tar file in it.
        DataRefused: a file is not a tar, or the tars have no pictures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths = sorted(folder.glob("*.tar"))
        if not self._paths:
            raise DataMissing(folder, "no shards (*.tar) here", "give a folder that `trainer tiles` has made")
        entries = [_pictures_in(path) for path in self._paths]
        self._shard = np.repeat(np.arange(len(entries), dtype=np.int32), [len(entry) for entry in entries])
        # Arrays and no list of tuples: sets have millions of tiles, and
        # objects of Python would take many times as much.
        places = np.concatenate(entries)
        self._offset, self._size = places[:, 0].copy(), places[:, 1].astype(np.int32)
        if len(self._shard) == 0:
            raise DataRefused(folder, "its shards hold no pictures", f"they must hold {', '.join(ENDINGS)} files")
        self._open: OrderedDict[int, _Opened] = OrderedDict()
        # Guards the table of open files alone; reading itself needs no lock.
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._shard)

    @overload
    def __getitem__(self, number: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[NDArray[np.uint8]]: ...
    def __getitem__(self, number: int | slice) -> NDArray[np.uint8] | Sequence[NDArray[np.uint8]]:
        """A tile, decoded; a slice is decoded whole.

        Raises:
            DataRefused: the shard is shorter than it was, or the picture is damaged.
        """
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        data = self.encoded(number)
        try:
            with Image.open(io.BytesIO(data)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
            raise self._damaged(number, str(error)) from error
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def encoded(self, number: int) -> bytes:
        """The JPEG or PNG of a tile.

        Raises:
            IndexError: there is no such tile.
            DataRefused: the shard is shorter than it was.
        """
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        shard, size = int(self._shard[number]), int(self._size[number])
        file = self._opened(shard)  # by a name: it is closed when nothing refers to it
        # By offset, without a position in the file: threads and forked workers share descriptors.
        data = os.pread(file.descriptor, size, int(self._offset[number]))
        if len(data) != size:
            raise self._damaged(number, "the file is shorter than its headers said")
        return data

    def subset(self, count: int, seed: int) -> TileSubset:
        """The first ``count`` tiles of a random order; a smaller subset of the same seed lies in a larger one.

        Raises:
            DataRefused: there are not so many.
        """
        if count > len(self):
            raise DataRefused(self.folder, f"it holds {len(self)} tiles, {count} were asked for", "ask for fewer")
        # The head of one permutation: the curve over the number of tiles then adds tiles and exchanges none.
        return TileSubset(self, np.random.default_rng([seed]).permutation(len(self))[:count])

    @property
    def index_bytes(self) -> int:
        """Memory of the index."""
        return self._shard.nbytes + self._offset.nbytes + self._size.nbytes

    def _opened(self, shard: int) -> _Opened:
        with self._turn:
            file = self._open.get(shard) or self._open.setdefault(shard, _Opened(self._paths[shard]))
            self._open.move_to_end(shard)
            if len(self._open) > MOST_OPEN:
                # Only the reference goes. Another thread may be reading from
                # this file; it closes with the last of them.
                self._open.popitem(last=False)
        return file

    def __getstate__(self) -> dict[str, object]:
        # For worker processes that are spawned: neither locks nor descriptors can be sent.
        return {name: value for name, value in self.__dict__.items() if name not in {"_open", "_turn"}}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open = OrderedDict()
        self._turn = threading.Lock()

    def _damaged(self, number: int, problem: str) -> DataRefused:
        path = self._paths[int(self._shard[number])]
        return DataRefused(
            path, f"tile {number} cannot be read ({problem})", "make this shard again, or take it out of the folder"
        )


class _Opened:
    """A file that is open for reading until the last reference to it is gone."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        # An open that failed has left none.
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class TileSubset(Sequence[NDArray[np.uint8]]):
    """Some tiles of a dataset, in another order."""

    def __init__(self, shelf: ShardDataset, numbers: NDArray[np.int64]) -> None:
        self.shelf = shelf
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, number: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[NDArray[np.uint8]]: ...
    def __getitem__(self, number: int | slice) -> NDArray[np.uint8] | Sequence[NDArray[np.uint8]]:
        """As of the dataset."""
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        return self.shelf[int(self.numbers[number])]


def _pictures_in(path: Path) -> NDArray[np.int64]:
    """(offset, size) of every picture in a tar, (n, 2), read from the headers."""
    places = []
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                if entry.isfile() and entry.name.lower().endswith(ENDINGS):
                    places.append((entry.offset_data, entry.size))
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember every header
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataRefused(
            path, f"not a whole tar file ({error})", "make this shard again, or take it out of the folder"
        ) from error
    size = path.stat().st_size
    # tarfile reads headers alone and does not miss the end of the last picture.
    if any(offset + length > size for offset, length in places):
        raise DataRefused(path, "it is cut off", "make this shard again, or take it out of the folder")
    return np.array(places, dtype=np.int64).reshape(-1, 2)
