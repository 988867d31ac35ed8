"""Executors that map the tiles of a scene: by the engine of this process, or on a cluster (`dask_executor`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from engines.engine import Engine
from engines.errors import EngineError
from engines.manifest import Manifest
from engines.selection import Choice, choice_of
from onboard.mapping.canvas import Canvas
from onboard.mapping.control import EngineHealth, StageTimer, StopPolicy
from onboard.mapping.pipeline import Pipeline, PipelineStats, Source, no_timer
from onboard.mapping.thumbnail import SampledScene, SceneThumbnail
from onboard.scene.grid import Grid
from onboard.scene.reader import Scene

Progress = Callable[[int, int], None]
"""Called with (finished tiles, all tiles)."""


@dataclass(frozen=True)
class EngineDescription:
    """An engine, here or on a cluster's worker, as a map's item describes it; see :class:`engines.engine.Engine`."""

    manifest: Manifest
    backend: str
    precision: str
    max_batch: int
    digest: str
    folder: Path | None = None
    choice: Choice = field(default_factory=Choice)
    tile_sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.tile_sides:
            object.__setattr__(self, "tile_sides", (self.manifest.input.tile_size,))

    @classmethod
    def of(cls, engine: Engine) -> EngineDescription:
        """Describes an open engine."""
        return cls(
            engine.manifest, engine.backend, engine.precision, engine.max_batch, engine.digest, engine.folder,
            choice_of(engine), engine.tile_sides,
        )  # fmt: skip


@dataclass(frozen=True)
class TileWork:
    """The tiles of one scene that are to be mapped.

    Attributes:
        scene: as the model sees it.
        grid: its tiles.
        canvas: where they are written, locked by this process.
        batch: tiles in one engine call.
        read_timeout_s: longest wait for one batch of pixels.
        identity: of the canvas; another process that writes to it compares this first.
        thumbnail: of the scene, which may be filled by the way; what is missing of it is read afterwards.
    """

    scene: Scene
    grid: Grid
    canvas: Canvas
    batch: int
    read_timeout_s: float
    identity: Mapping[str, Any]
    thumbnail: SceneThumbnail | None = None


@runtime_checkable
class TileExecutor(Protocol):
    """Maps every unfinished tile of a scene onto its canvas."""

    @property
    def engine(self) -> EngineDescription:
        """The engine that infers."""

    def map_tiles(self, work: TileWork, progress: Progress) -> PipelineStats:
        """Returns when all tiles are on the disk and in the canvas's journal.

        Raises:
            SceneRefused, StorageError, EngineError: finished tiles are kept.
            MappingStopped: the stop policy ended the run; the same work continues.
        """


class LocalExecutor:
    """Maps with an engine of this process, on the calling thread.

    Args:
        engine: open; not closed here.
        stop: asked before each batch.
        health: checks the engine between batches and after the last one; None for no checks.
        record_stage: takes the seconds of each stage.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        stop: StopPolicy | None = None,
        health: EngineHealth | None = None,
        record_stage: StageTimer = no_timer,
    ) -> None:
        self._engine, self._stop, self._health = engine, stop or StopPolicy(), health
        self._record_stage = record_stage
        self.engine = EngineDescription.of(engine)

    def map_tiles(self, work: TileWork, progress: Progress) -> PipelineStats:
        """See :meth:`TileExecutor.map_tiles`."""
        scene: Source = work.scene if work.thumbnail is None else SampledScene(work.scene, work.thumbnail)
        pipeline = Pipeline(
            scene, work.grid, self._engine, work.canvas, batch=work.batch, read_timeout_s=work.read_timeout_s,
            stop=self._stop, health=self._health, record_stage=self._record_stage,
        )  # fmt: skip
        try:
            stats = pipeline.run(progress)
            if self._health is not None:
                # Tiles since the last check were inferred by an engine of which nothing is known yet.
                self._health.check()
        except EngineError as error:
            if self._health is not None:
                # Since the last good check nobody knows whether the engine was right. Without checks there is no such
                # time, and what is done is kept: the failed call itself gave no pixels.
                work.canvas.forget(pipeline.stats.doubtful(error))
            raise
        return stats


def executor_of(engine: Engine | TileExecutor) -> TileExecutor:
    """The executor itself, or one that maps with this engine."""
    return engine if isinstance(engine, TileExecutor) else LocalExecutor(engine)
