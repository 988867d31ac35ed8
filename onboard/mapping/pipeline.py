"""Scene to canvas: read, infer and write side by side, with bounded queues between them.

The engine stays on the calling thread (a CUDA context belongs to one); a reader thread decodes ahead and a writer
thread stores behind, so the engine waits for neither. Batches are fixed groups of the grid: what shares a batch with
what never depends on where an earlier run stopped, so the same engine gives the same bytes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.engine import Engine, Prediction
from engines.errors import ConstantsChanged, EngineError, InferenceFailed
from onboard.errors import SceneRefused
from onboard.mapping.control import EngineHealth, StageTimer, StopPolicy
from onboard.mapping.familiarity import recorded
from onboard.mapping.journal import HeadRecord, TileRecord, checksum
from onboard.scene.grid import Grid, Tile, Window, pad_to_tile
from onboard.scene.reader import ScenePixels

Pixels = NDArray[np.uint8]
T = TypeVar("T")
# Batches waiting on either side of the engine: enough to ride out one slow read, little memory.
_AHEAD = 3
# How long a reader may finish its last window after a failure elsewhere.
_LAST_READ_S = 5.0


def no_timer(_stage: str, _seconds: float) -> None:
    """A :data:`StageTimer` that takes no times."""


class Source(Protocol):
    """A scene as the pipeline uses it."""

    @property
    def path(self) -> Path:
        """Of its file."""

    def reopen(self) -> AbstractContextManager[Source]:
        """Another handle on the same scene, for the reader thread."""

    def read(self, window: Window) -> ScenePixels:
        """Pixels (bands, h, w) uint8 and their validity (h, w), None where all are valid."""


class Surface(Protocol):
    """A canvas as the pipeline uses it; one thread writes."""

    @property
    def finished(self) -> frozenset[int]:
        """Tiles that need not be done."""

    def write(self, core: Window, classes: Pixels, confidence: Pixels | None = None, head: int = 0) -> None:
        """Writes one core (h, w) of one head."""

    def finish(self, tiles: Sequence[int], records: Mapping[int, TileRecord] | None = None) -> None:
        """Counts a batch's tiles as written."""

    def commit(self) -> None:
        """Makes every finished tile survive a power cut."""


@dataclass(frozen=True)
class Batch:
    """A fixed group of the grid: the tiles that need the engine, and those that hold no data at all.

    Attributes:
        valid: mask of each tile's core, None where all of it is valid.
        valid_share: of all the scene's pixels that a tile shows.
    """

    indices: tuple[int, ...]
    tiles: tuple[Tile, ...]
    pixels: Pixels | None
    valid: tuple[NDArray[np.bool_] | None, ...]
    valid_share: tuple[float, ...]


@dataclass
class PipelineStats:
    """Tiles of one run and the seconds of each stage.

    Attributes:
        unchecked: tiles inferred since the engine was last found right.
        unscrubbed: tiles inferred since its constants were last found unchanged.
    """

    tiles_inferred: int = 0
    tiles_empty: int = 0
    tiles_resumed: int = 0
    seconds: float = 0.0
    read_s: float = 0.0
    infer_s: float = 0.0
    write_s: float = 0.0
    unchecked: list[int] = field(default_factory=list)
    unscrubbed: list[int] = field(default_factory=list)

    def doubtful(self, error: EngineError) -> list[int]:
        """Tiles to be done again after this failure of the engine."""
        return self.unscrubbed if isinstance(error, ConstantsChanged) else self.unchecked


class Stage(Generic[T]):
    """A bounded queue between two threads that carries the producer's failure to the consumer."""

    def __init__(self, depth: int) -> None:
        self._items: queue.Queue[T | BaseException | None] = queue.Queue(depth)
        self._closed = threading.Event()

    def put(self, item: T | BaseException | None) -> bool:
        """Hands an item on; False once the consumer has gone."""
        # Never for ever: a consumer that failed takes nothing more, and this thread would hang with the process.
        while not self._closed.is_set():
            try:
                self._items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def get(self, timeout_s: float | None = None) -> T | None:
        """Next item, None at the end.

        Raises:
            queue.Empty: nothing came within `timeout_s`.
            BaseException: what the producer failed with.
        """
        item = self._items.get(timeout=timeout_s)
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """The consumer goes; a producer waiting in `put` is released."""
        self._closed.set()


@dataclass(frozen=True)
class Pipeline:
    """One scene's way onto its canvas.

    Attributes:
        scene: reopened by the reader thread, which alone reads.
        grid: the tiles.
        engine: used by the calling thread alone.
        canvas: written by the writer thread alone.
        batch: tiles in one engine call, at most the engine's `max_batch`.
        read_timeout_s: longest wait for one batch of pixels before the scene is refused (a damaged file can keep a
            decoder busy for minutes).
        stop: asked before each batch.
        health: checks the engine between batches; None for no checks.
        record_stage: takes the seconds of each stage.
        stats: of the run, filled while it runs.
    """

    scene: Source
    grid: Grid
    engine: Engine
    canvas: Surface
    batch: int = 1
    read_timeout_s: float = 120.0
    stop: StopPolicy = field(default_factory=StopPolicy)
    health: EngineHealth | None = None
    record_stage: StageTimer = no_timer
    stats: PipelineStats = field(default_factory=PipelineStats)

    def run(self, progress: Callable[[int, int], None] | None = None) -> PipelineStats:
        """Maps every unfinished tile; returns when all of them are on disk.

        Args:
            progress: called with (finished tiles, all tiles) at the start, and after each batch on the writer thread.

        Raises:
            SceneRefused: a window cannot be decoded.
            StorageError: the canvas cannot be written.
            EngineError: the engine failed.
            MappingStopped: the stop policy ended the run.
        """
        done, stats = self.canvas.finished, self.stats
        stats.tiles_resumed = len(done)
        # A group is done again whole: its tiles shared an engine call, and must share it again to give the same bytes.
        groups = [group for group in self._groups() if not done.issuperset(group)]
        decoded: Stage[Batch] = Stage(_AHEAD)
        mapped: Stage[tuple[Batch, Prediction | None]] = Stage(_AHEAD)
        failures: list[BaseException] = []
        report = progress or (lambda _done, _all: None)
        # Daemons: a decoder that never returns must not keep the process from ending.
        reader = threading.Thread(target=self._read, args=(groups, decoded, stats), name="reader", daemon=True)
        writer = threading.Thread(
            target=self._write, args=(mapped, failures, stats, report), name="writer", daemon=True
        )
        report(stats.tiles_resumed, len(self.grid))
        begin = time.monotonic()
        reader.start()
        writer.start()
        try:
            self._infer(decoded, mapped, stats)
            mapped.put(None)
        except BaseException:
            # Tiles already inferred are written and committed before the failure is reported.
            mapped.put(None)
            decoded.close()
            writer.join()
            # A decoder that hangs is left behind with its own handle; nothing else may wait for it.
            reader.join(_LAST_READ_S)
            raise
        finally:
            decoded.close()
        # Returns once the last group is committed: what was mapped survives a power cut from here on.
        writer.join()
        if failures:
            raise failures[0]
        reader.join()
        stats.seconds = time.monotonic() - begin
        return stats

    def _groups(self) -> Iterator[tuple[int, ...]]:
        for first in range(0, len(self.grid), self.batch):
            yield tuple(range(first, min(first + self.batch, len(self.grid))))

    def _read(self, groups: Sequence[tuple[int, ...]], decoded: Stage[Batch], stats: PipelineStats) -> None:
        try:
            # A handle of the reader's own: the caller may close its handle while a window is still being decoded.
            with self.scene.reopen() as source:
                for group in groups:
                    begin = time.perf_counter()
                    batch = self._batch(source, group)
                    took = time.perf_counter() - begin
                    stats.read_s += took
                    self.record_stage("read", took)
                    if not decoded.put(batch):
                        return
            decoded.put(None)
        except BaseException as error:  # noqa: BLE001 - carried to the calling thread, which raises it
            decoded.put(error)

    def _batch(self, source: Source, group: tuple[int, ...]) -> Batch:
        tiles, valid, shares, pixels = [], [], [], []
        for tile in (self.grid[index] for index in group):
            read = source.read(tile.source)
            mask = None if read.valid is None else read.valid[_core_in_source(tile)]
            if mask is not None and not mask.any():
                continue  # no data at all: its core on the canvas is zero already
            tiles.append(tile)
            valid.append(None if mask is None or mask.all() else mask)
            shares.append(1.0 if read.valid is None else float(read.valid.mean()))
            pixels.append(pad_to_tile(read.pixels, (self.grid.tile_width, self.grid.tile_height)))
        stacked = None if not pixels else pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)
        return Batch(group, tuple(tiles), stacked, tuple(valid), tuple(shares))

    def _infer(
        self, decoded: Stage[Batch], mapped: Stage[tuple[Batch, Prediction | None]], stats: PipelineStats
    ) -> None:
        while True:
            try:
                batch = decoded.get(self.read_timeout_s)
            except queue.Empty:
                raise SceneRefused(
                    self.scene.path,
                    f"decoding one window took over {self.read_timeout_s:g} s",
                    "the file is damaged or its blocks are absurdly large; deliver it again as a tiled GeoTIFF",
                ) from None
            if batch is None:
                return
            # Here and not in the reader: while the governor makes the engine rest, pixels are decoded ahead.
            self.stop.before_batch()
            if self.health is not None:
                self._check_engine(self.health, batch, stats)
            begin = time.perf_counter()
            # Before the call: a batch during which the engine fails is in doubt as well.
            stats.unchecked.extend(batch.indices)
            stats.unscrubbed.extend(batch.indices)
            prediction = None if batch.pixels is None else self.engine.infer(batch.pixels)
            took = time.perf_counter() - begin
            stats.infer_s += took
            if prediction is not None:
                self._check_codes(prediction)
                self.record_stage("infer", took)
            stats.tiles_inferred += len(batch.tiles)
            stats.tiles_empty += len(batch.indices) - len(batch.tiles)
            if not mapped.put((batch, prediction)):
                return

    def _check_codes(self, prediction: Prediction) -> None:
        """Passes if every class is one of the manifest's; a map of others would name what nobody knows.

        Raises:
            InferenceFailed: one is not.
        """
        manifest = self.engine.manifest
        legends = (manifest.classes, *(head.classes for head in manifest.further_heads))
        for head, legend in zip(prediction.heads, legends, strict=True):
            largest, found = max(item.code for item in legend), int(head.classes.max())
            if found > largest:
                problem = f"it gave the class {found}, and the largest of its manifest is {largest}"
                raise InferenceFailed(self.engine.backend, problem, retryable=False)

    def _check_engine(self, health: EngineHealth, batch: Batch, stats: PipelineStats) -> None:
        """Checks the engine or its constants where that is due."""
        health.note_tiles(len(batch.indices), (self.grid.tile_height, self.grid.tile_width))
        if health.check_due():
            health.check()
            stats.unchecked.clear()
            stats.unscrubbed.clear()
        elif health.scrub_due():  # a check scrubs too
            health.scrub()
            stats.unscrubbed.clear()

    def _write(
        self,
        mapped: Stage[tuple[Batch, Prediction | None]],
        failures: list[BaseException],
        stats: PipelineStats,
        progress: Callable[[int, int], None],
    ) -> None:
        finished = stats.tiles_resumed
        try:
            while (item := mapped.get()) is not None:
                begin = time.perf_counter()
                batch, prediction = item
                records = {} if prediction is None else self._store(batch, prediction)
                self.canvas.finish(batch.indices, records)
                finished += len(batch.indices)
                took = time.perf_counter() - begin
                stats.write_s += took
                self.record_stage("write", took)
                # A group that is done again whole counts tiles that an earlier run had finished once more.
                progress(min(finished, len(self.grid)), len(self.grid))
            self.canvas.commit()
        except BaseException as error:  # noqa: BLE001 - carried to the calling thread, which raises it
            failures.append(error)
            # The engine's thread may wait in `put`; `run` finds the failure once it has joined this thread.
            mapped.close()

    def _store(self, batch: Batch, prediction: Prediction) -> dict[int, TileRecord]:
        """Writes a batch's cores; gives the checksum of each, and how sure and how familiar the model was of it."""
        records = {}
        for position, (tile, valid) in enumerate(zip(batch.tiles, batch.valid, strict=True)):
            at = (position, tile.core_in_tile.rows, tile.core_in_tile.cols)
            heads = []
            for number, head in enumerate(prediction.heads):
                classes = head.classes[at]
                confidence = None if head.confidence is None else head.confidence[at]
                if valid is not None:
                    # Of pixels without data the network says what fills their place; on the canvas 0 is no data.
                    classes = classes * valid
                    confidence = None if confidence is None else confidence * valid
                self.canvas.write(tile.core, classes, confidence, number)
                heads.append(_record_of(classes, confidence, valid))
            familiarity = recorded(self._familiarity(batch, prediction, position))
            records[tile.index] = TileRecord(tuple(heads), familiarity)
        return records

    def _familiarity(self, batch: Batch, prediction: Prediction, position: int) -> float | None:
        """A tile's figure; None where the model gives none, or saw mostly what fills the place of no data."""
        facts, figures = self.engine.manifest.familiarity, prediction.familiarity
        if facts is None or figures is None or batch.valid_share[position] < facts.least_valid:
            return None
        return float(figures[position])


def _record_of(classes: Pixels, confidence: Pixels | None, valid: NDArray[np.bool_] | None) -> HeadRecord:
    """What the journal keeps of one head's core (h, w)."""
    if confidence is None:
        return HeadRecord(classes_crc=checksum(classes))
    pixels = confidence.size if valid is None else int(valid.sum())
    # Summed in 64 bits on every platform; the journal's 32 bits hold the sum of a tile up to 4,096 pixels a side.
    return HeadRecord(pixels, int(confidence.sum(dtype=np.uint64)), checksum(classes), checksum(confidence))


def _core_in_source(tile: Tile) -> tuple[slice, slice]:
    row, col = tile.core.row - tile.source.row, tile.core.col - tile.source.col
    return slice(row, row + tile.core.height), slice(col, col + tile.core.width)
