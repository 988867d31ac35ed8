"""The canvas: the growing class raster on disk, with a journal of finished tiles.

The raster is raw uint8, row by row, allocated whole at the start (posix_fallocate: a full disk is found before the
first tile, not in the middle) and written with pwrite. Pixels reach the disk before the journal names their tile:
data, fdatasync, journal record, fdatasync. This happens in groups, so a SIGKILL costs the tiles in flight and a power
cut at most one group.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from engines.files import synced_folder
from onboard.errors import OptionsRefused
from onboard.files import FileLock, pread_into, pwrite_all, storage_error
from onboard.mapping.journal import Identity, Journal, TileRecord, holds
from onboard.scene.grid import Window

# A sync costs milliseconds and flash wears: one for many tiles, but little work lost by a power cut.
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
            # Also on resuming: a file that lost its end gets zeros there, and its tiles then fail their checksums.
            os.posix_fallocate(self._file, 0, width * height)
        except OSError as error:
            self.close()
            raise storage_error(error, path) from error

    def write(self, where: Window, pixels: Pixels) -> None:
        """Writes `pixels` (h, w) at `where` (scene coordinates).

        Raises:
            StorageError: the disk is full or failed.
        """
        rows = np.ascontiguousarray(pixels)
        if where.width == self.width:
            # Rows as wide as the raster lie one behind the other in the file: one call instead of one a row.
            pwrite_all(self._file, rows.data.cast("B"), where.row * self.width, self.path)
            return
        for offset, row in enumerate(rows):
            pwrite_all(self._file, row.data, (where.row + offset) * self.width + where.col, self.path)

    def read(self, first_row: int, rows: int) -> Pixels:
        """Returns whole rows as a new array (rows, width).

        Raises:
            StorageError: the file was shortened.
        """
        data = bytearray(rows * self.width)
        pread_into(self._file, memoryview(data), first_row * self.width, self.path)
        return np.frombuffer(data, dtype=np.uint8).reshape(rows, self.width)

    def read_window(self, where: Window) -> Pixels:
        """Returns a window as a new array (h, w).

        Raises:
            StorageError: the file was shortened.
        """
        if where.width == self.width:
            return self.read(where.row, where.height)
        pixels = np.empty((where.height, where.width), dtype=np.uint8)
        for offset, row in enumerate(pixels):
            pread_into(self._file, row.data, (where.row + offset) * self.width + where.col, self.path)
        return pixels

    def write_rows(self, first_row: int, pixels: Pixels) -> None:
        """Writes whole rows (h, width) from `first_row` on."""
        self.write(Window(col=0, row=first_row, width=self.width, height=len(pixels)), pixels)

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
            # Closed twice, the number could by then belong to another open file.
            self._file = -1


@dataclass(frozen=True)
class HeadLayers:
    """The rasters of one head: its classes, and its confidence if that is kept; ``name`` is "" for the first head."""

    name: str
    classes: Layer
    confidence: Layer | None


def layer_names(confidence: bool, further: Mapping[str, bool]) -> list[tuple[str, str, str | None]]:
    """Of each head its name, and the file names of its classes and of its confidence, None where that is not kept."""
    first = ("", "classes.raw", "confidence.raw" if confidence else None)
    return [first, *((n, f"{n}.classes.raw", f"{n}.confidence.raw" if kept else None) for n, kept in further.items())]


class Canvas:
    """Class raster (and confidence, if asked) of one scene for each head, resumable by tile.

    One thread writes; the folder is locked against a second process. ``on_finished`` is called with tiles whose pixels
    have just been written, on that thread.

    Args:
        folder: the canvas's own folder, made if missing.
        identity: everything the pixels depend on; a canvas of another identity is started afresh.
        width: scene width in pixels.
        height: scene height in pixels.
        confidence: whether a confidence layer is kept too.
        further: heads beside the first, each with whether its confidence is kept.
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
        further: Mapping[str, bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.on_finished: Callable[[Sequence[int]], None] | None = None
        self._clock = clock
        self._pending: dict[int, TileRecord] = {}
        self._layers: list[Layer] = []
        names = layer_names(confidence, further or {})
        files = [name for _, *both in names for name in both if name is not None]
        folder.mkdir(parents=True, exist_ok=True)
        # Before anything is looked at: a second command for the same map must not find a canvas half made.
        self._lock: FileLock | None = _lock_canvas(folder)
        try:
            is_whole = all((folder / name).exists() for name in files)
            fresh = not is_whole or not holds(folder / "journal", identity)
            if fresh:
                # Pixels of other work must be gone before a journal of this work exists, and the journal comes last:
                # it never names tiles of a raster that is not there.
                for path in (folder / "journal", *folder.glob("*.raw")):
                    path.unlink(missing_ok=True)
                synced_folder(folder)
            for name in files:
                self._layers.append(Layer(folder / name, width=width, height=height))
            # Allocated blocks and names are on the disk before the journal exists: after a power cut it never names
            # tiles of a shorter file.
            for layer in self._layers:
                layer.sync()
            synced_folder(folder)
            self._journal = Journal(folder / "journal", identity, heads=len(names))
        except BaseException:
            self._close_files()
            raise
        by_file = {layer.path.name: layer for layer in self._layers}
        self.heads = tuple(
            HeadLayers(name, by_file[classes], None if sure is None else by_file[sure]) for name, classes, sure in names
        )
        self.classes, self.confidence = self.heads[0].classes, self.heads[0].confidence
        self._last_commit = clock()

    @property
    def finished(self) -> frozenset[int]:
        """Tiles whose pixels are safely on disk."""
        return frozenset(self._journal.finished)

    @property
    def records(self) -> dict[int, TileRecord]:
        """Of all finished tiles, with those that are not on disk yet."""
        return {**self._journal.finished, **self._pending}

    def write(self, core: Window, classes: Pixels, confidence: Pixels | None = None, head: int = 0) -> None:
        """Writes one core (h, w) of one head; `finish` its tile once all heads are written."""
        layers = self.heads[head]
        layers.classes.write(core, classes)
        if layers.confidence is not None and confidence is not None:
            layers.confidence.write(core, confidence)

    def mean_confidence(self, head: int = 0) -> float | None:
        """Over the valid pixels of all finished tiles, 0..1; None where the head gives none."""
        # From the records and not from the raster: tiles of earlier runs count without being read again.
        sums = [record.of_head(head) for record in self.records.values()]
        pixels = sum(record.pixels for record in sums)
        return sum(record.confidence for record in sums) / (255 * pixels) if pixels else None

    def finish(self, tiles: Sequence[int], records: Mapping[int, TileRecord] | None = None) -> None:
        """Counts a batch's tiles as written; commits when a group is full or old enough.

        ``records`` are of those that were written; the others hold no data at all.
        """
        self._pending.update({tile: (records or {}).get(tile, TileRecord()) for tile in tiles})
        if self.on_finished is not None:
            self.on_finished(tiles)
        if len(self._pending) >= GROUP_TILES or self._clock() - self._last_commit >= GROUP_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Makes every finished tile survive a power cut."""
        # This order is the promise: a record names tiles whose pixels are on the disk. Turned round, a power cut would
        # leave tiles that count as finished and hold zeros.
        if self._pending:
            for layer in self._layers:
                layer.sync()
            self._journal.record(self._pending)
            self._pending = {}
        self._last_commit = self._clock()

    def forget(self, tiles: Iterable[int]) -> None:
        """Has these tiles count as unfinished, durably; no write may be under way."""
        forgotten = set(tiles)
        self._pending = {tile: record for tile, record in self._pending.items() if tile not in forgotten}
        self.commit()  # the journal is written anew from what it holds: the others must be in it
        self._journal.forget(forgotten)

    def close(self) -> None:
        """Commits what is finished and closes the files."""
        try:
            self.commit()
        finally:
            self._close_files()

    def _close_files(self) -> None:
        for layer in self._layers:
            layer.close()
        if hasattr(self, "_journal"):
            self._journal.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Canvas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self.close()


def _lock_canvas(folder: Path) -> FileLock:
    try:
        return FileLock(folder / "lock")
    except BlockingIOError:
        raise OptionsRefused(
            f"another process is mapping into {folder}", "wait for it, or choose another --out or --name"
        ) from None
