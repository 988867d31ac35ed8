"""The canvas: the growing class raster on disk, with a journal of finished tiles.

The raster is raw uint8, row by row, allocated whole at the start (posix_fallocate: a full disk is found before the
first tile, not in the middle) and written with pwrite. Pixels reach the disk before the journal names their tile:
data, fdatasync, journal record, fdatasync. This happens in groups, so a SIGKILL costs the tiles in flight and a power
cut at most one group.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from onboard.errors import OptionsRefused
from onboard.mapping.files import storage_error, synced_folder
from onboard.mapping.journal import Identity, Journal, TileRecord, holds
from onboard.scene.grid import Window

GROUP_TILES = 64
GROUP_SECONDS = 2.0

Pixels = NDArray[np.uint8]


class Layer:
    """One raw uint8 raster of `height` x `width` on disk; made and allocated whole unless `create` is False."""

    def __init__(self, path: Path, *, width: int, height: int, create: bool = True) -> None:
        self.path, self.width, self.height = path, width, height
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
        except OSError as error:
            raise storage_error(error, path) from error
        if not create:
            return
        try:
            os.posix_fallocate(self._file, 0, width * height)
        except OSError as error:
            self.close()
            raise storage_error(error, path) from error

    def write(self, where: Window, pixels: Pixels) -> None:
        """Writes `pixels` (h, w) at `where` (scene coordinates)."""
        rows = np.ascontiguousarray(pixels)
        try:
            if where.width == self.width:
                os.pwrite(self._file, rows.data, where.row * self.width)
                return
            for offset, row in enumerate(rows):
                os.pwrite(self._file, row.data, (where.row + offset) * self.width + where.col)
        except OSError as error:
            raise storage_error(error, self.path) from error

    def read(self, first_row: int, rows: int) -> Pixels:
        """Returns whole rows as a new array (rows, width)."""
        data = bytearray(rows * self.width)
        view = memoryview(data)
        at = first_row * self.width
        while view:
            size = os.preadv(self._file, [view], at)
            view, at = view[size:], at + size
        return np.frombuffer(data, dtype=np.uint8).reshape(rows, self.width)

    def read_window(self, where: Window) -> Pixels:
        """Returns a window as a new array (h, w)."""
        if where.width == self.width:
            return self.read(where.row, where.height)
        pixels = np.empty((where.height, where.width), dtype=np.uint8)
        for offset, row in enumerate(pixels):
            os.preadv(self._file, [row.data], (where.row + offset) * self.width + where.col)
        return pixels

    def write_rows(self, first_row: int, pixels: Pixels) -> None:
        """Writes whole rows (h, width) from `first_row` on."""
        self.write(Window(col=0, row=first_row, width=self.width, height=len(pixels)), pixels)

    def strips(self, pixels: int = 1 << 20) -> Iterator[tuple[int, Pixels]]:
        """Whole-row strips of about `pixels` pixels, top to bottom, each with its first row."""
        step = max(1, pixels // self.width)
        for row in range(0, self.height, step):
            yield row, self.read(row, min(step, self.height - row))

    def sync(self) -> None:
        """Makes all written pixels durable."""
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise storage_error(error, self.path) from error

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Canvas:
    """Class raster (and confidence, if asked) of one scene, resumable by tile.

    One thread writes; the folder is locked against a second process.

    Args:
        folder: the canvas's own folder, made if missing.
        identity: everything the pixels depend on; a canvas of another identity is started afresh.
        width: scene width in pixels.
        height: scene height in pixels.
        confidence: whether a confidence layer is kept too.
        clock: seconds, monotonic.

    Raises:
        OptionsRefused: another process works on this canvas.
        StorageError: no room for the raster.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        *,
        width: int,
        height: int,
        confidence: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._clock = clock
        self._pending: dict[int, TileRecord] = {}
        self._layers: list[Layer] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        try:
            fresh = not (folder / "classes.raw").exists() or not holds(folder / "journal", identity)
            if fresh:
                # Pixels of other work must be gone before a journal of this work exists, and the journal comes last:
                # it never names tiles of a raster that is not there.
                for name in ("journal", "classes.raw", "confidence.raw"):
                    (folder / name).unlink(missing_ok=True)
                synced_folder(folder)
            names = ["classes.raw", "confidence.raw"] if confidence else ["classes.raw"]
            self._layers = [Layer(folder / name, width=width, height=height) for name in names]
            for layer in self._layers:
                layer.sync()
            synced_folder(folder)
            self._journal = Journal(folder / "journal", identity)
        except BaseException:
            self._close_files()
            raise
        self.classes = self._layers[0]
        self.confidence = self._layers[1] if confidence else None
        self._last_commit = clock()

    @property
    def finished(self) -> frozenset[int]:
        """Tiles whose pixels are safely on disk."""
        return frozenset(self._journal.finished)

    @property
    def records(self) -> dict[int, TileRecord]:
        """Of all finished tiles, with those that are not on disk yet."""
        return {**self._journal.finished, **self._pending}

    def write(self, core: Window, classes: Pixels, confidence: Pixels | None = None) -> None:
        """Writes one core (h, w); `finish` its tile afterwards."""
        self.classes.write(core, classes)
        if self.confidence is not None and confidence is not None:
            self.confidence.write(core, confidence)

    @property
    def mean_confidence(self) -> float | None:
        """Over the valid pixels of all finished tiles, 0..1; None where the model gives none."""
        sums = [*self._journal.finished.values(), *self._pending.values()]
        pixels = sum(record.pixels for record in sums)
        return sum(record.confidence for record in sums) / (255 * pixels) if pixels else None

    def finish(self, tiles: Sequence[int], records: Mapping[int, TileRecord] | None = None) -> None:
        """Counts a batch's tiles as written; commits when a group is full or old enough.

        ``records`` are of those that were written; the others hold no data at all.
        """
        self._pending.update({tile: (records or {}).get(tile, TileRecord()) for tile in tiles})
        if len(self._pending) >= GROUP_TILES or self._clock() - self._last_commit >= GROUP_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Makes every finished tile survive a power cut."""
        if self._pending:
            for layer in self._layers:
                layer.sync()
            self._journal.record(self._pending)
            self._pending = {}
        self._last_commit = self._clock()

    def forget(self, tiles: Iterable[int]) -> None:
        """Has these tiles count as unfinished, durably; no write may be under way."""
        gone = set(tiles)
        self._pending = {tile: record for tile, record in self._pending.items() if tile not in gone}
        self.commit()
        self._journal.forget(gone)

    def close(self) -> None:
        """Commits what is finished and closes the files."""
        try:
            self.commit()
        finally:
            self._close_files()

    def remove(self) -> None:
        """Closes the canvas and removes its folder."""
        self._pending = {}
        shutil.rmtree(self.folder, ignore_errors=True)
        self._close_files()

    def _close_files(self) -> None:
        for layer in self._layers:
            layer.close()
        if hasattr(self, "_journal"):
            self._journal.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Canvas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock >= 0:
            self.close()


def _locked(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OptionsRefused(
            f"another process is mapping into {folder}", "wait for it, or choose another --out or --name"
        ) from None
    return lock
