"""One scene on many machines: workers of a Dask cluster map parts of it, this process keeps the journal and publishes.

A part is a run of whole batches of the grid. A worker reads its windows from the scene, infers them by the same
pipeline that flies, and writes their cores straight onto the canvas; cores are disjoint, so no two workers write the
same pixel. Only then does the journal name its tiles. A worker that is killed costs its part, which Dask gives to
another; the map's bytes are those of one machine, for the same batches go through the same engine.

Scene and canvas must lie on storage that all see under the same path. The cluster is the user's: its scheduler, its
workers, its TLS (Dask's own configuration). Workers say by a resource that they have something to infer with.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import rasterio

from engines.errors import EngineError, InferenceFailed
from engines.open import AUTO, FASTEST
from onboard.errors import OnboardError, OptionsRefused, StorageError
from onboard.mapping.canvas import Layer, Pixels, layer_names
from onboard.mapping.executors import EngineDescription, Progress, TileWork
from onboard.mapping.journal import TileRecord, holds
from onboard.mapping.pipeline import Pipeline, PipelineStats
from onboard.scene.gdal_env import GDAL_ENV
from onboard.scene.grid import Grid, Window
from onboard.scene.reader import Decisions, Scene, SceneOptions
from onboard.scene.resample import read_at

if TYPE_CHECKING:
    from distributed import Client
    from typing_extensions import Self

    from engines.engine import Engine

RESOURCE = "accelerator"
"""What a worker must have one of: `dask worker ... --resources accelerator=1`."""
PART_TILES = 16
"""Most tiles in a part: a killed worker costs so many. Between parts a worker's engine waits for one window."""
PARTS_A_WORKER = 4
"""Least parts for each worker, where the scene has tiles enough: the last to end keeps others waiting the less."""
_CONNECT_S = 10.0
_REMEDY = f"start workers with: dask worker SCHEDULER --nthreads 1 --resources {RESOURCE}=1"


@dataclass(frozen=True)
class Part:
    """The input of one task.

    Attributes:
        opener: opens the worker's engine, unless it is open.
        engine: digest that it must have.
        size: (width, height) in which the model sees the scene.
        tile: (width, height) of a tile.
        canvas: folder of the canvas, which must hold `identity`.
        tiles: whole batches of the grid.
    """

    opener: Callable[[], Engine]
    engine: str
    scene: Path
    options: SceneOptions
    decisions: Decisions
    size: tuple[int, int]
    tile: tuple[int, int]
    halo: int
    batch: int
    read_timeout_s: float
    canvas: Path
    identity: Mapping[str, Any]
    confidence: bool
    further: Mapping[str, bool]
    tiles: tuple[int, ...]


@dataclass
class Finished:
    """The result of a part.

    Attributes:
        records: of its tiles, as the journal wants them.
        failure: an error of ours, as a result: raised, it would count against the worker.
    """

    tiles: tuple[int, ...]
    records: dict[int, TileRecord] = field(default_factory=dict)
    stats: PipelineStats = field(default_factory=PipelineStats)
    failure: OnboardError | EngineError | None = None


class DaskExecutor:
    """The cluster's workers, with the engine that each opens once.

    Args:
        client: connected to the scheduler.
        opener: picklable; opens the engine on a worker.

    Attributes:
        engine: what the first worker says of it. Workers whose engine is another one refuse their parts.

    Raises:
        OptionsRefused: no worker has the resource.
        EngineError: the engine cannot be opened there.
    """

    def __init__(self, client: Client, opener: Callable[[], Engine]) -> None:
        self.client = client
        _workers(client)
        # By a worker: this machine may have no accelerator, and opens no engine.
        described = client.submit(_describe, opener, resources={RESOURCE: 1}, pure=False).result()
        if isinstance(described, EngineError):
            raise described
        self.engine: EngineDescription = described
        self.opener = opener

    def pinned(self) -> DaskExecutor:
        """The same executor, whose openers name the backend: "auto" may choose another on a machine of another kind."""
        if isinstance(self.opener, partial) and self.opener.keywords.get("backend") in (AUTO, FASTEST):
            self.opener = partial(self.opener, backend=self.engine.backend)
        return self

    def map_tiles(self, work: TileWork, progress: Progress) -> PipelineStats:
        """See :meth:`onboard.mapping.executors.TileExecutor.map_tiles`.

        Raises:
            SceneRefused, StorageError, EngineError: of a worker; tiles finished elsewhere are kept.
        """
        from distributed import as_completed

        begin = time.monotonic()
        scene, grid, canvas = work.scene, work.grid, work.canvas
        done = canvas.finished
        stats = PipelineStats(tiles_resumed=len(done))
        progress(len(done), len(grid))
        whole = Part(
            self.opener, self.engine.digest, scene.path.resolve(), scene.options, scene.decisions,
            (scene.width, scene.height), (grid.tile_width, grid.tile_height), grid.halo, work.batch,
            work.read_timeout_s, canvas.folder.resolve(), dict(work.identity), canvas.confidence is not None,
            {head.name: head.confidence is not None for head in canvas.heads[1:]}, (),
        )  # fmt: skip
        parts = parts_of(len(grid), done, batch=work.batch, workers=len(_workers(self.client)))
        # Sent to every worker once, not with each part. Without `hash` a second run of the same scene has its own copy.
        context = self.client.scatter(whole, broadcast=True, hash=False)
        futures = [
            # Not pure: it writes pixels, so Dask must not answer with an earlier result. No retries: errors of ours
            # come as results, and the part of a worker that dies is given to another one anyway.
            self.client.submit(map_part, context, tiles, resources={RESOURCE: 1}, pure=False, retries=0)
            for tiles in parts
        ]
        finished = len(done)
        try:
            for future, part in as_completed(futures, loop=self.client.loop, with_results=True):
                # Else the scheduler has it done again when the worker that holds the result dies.
                future.release()
                if part.failure is not None:
                    raise part.failure
                # The worker has synced its pixels: the journal may name them.
                canvas.finish(part.tiles, part.records)
                finished += len(part.tiles)
                stats.tiles_inferred += part.stats.tiles_inferred
                stats.tiles_empty += part.stats.tiles_empty
                stats.read_s += part.stats.read_s
                stats.infer_s += part.stats.infer_s
                stats.write_s += part.stats.write_s
                progress(finished, len(grid))
        except (OnboardError, EngineError):
            raise
        except Exception as error:
            # Dask's own errors (no worker is left, the scheduler is gone): the same command continues from the journal.
            raise InferenceFailed("dask", f"{type(error).__name__}: {error}", retryable=True) from error
        finally:
            with suppress(Exception):  # a scheduler that is gone needs no telling
                self.client.cancel(futures)
            # Also after a failure: parts that came back are finished, whatever became of the others.
            canvas.commit()
        stats.seconds = time.monotonic() - begin
        return stats


@contextmanager
def dask_executor(address: str, opener: Callable[[], Engine]) -> Iterator[DaskExecutor]:
    """The workers of a scheduler ("tcp://host:8786").

    Raises:
        OptionsRefused: dask.distributed is missing, nobody answers there, or no worker has the resource.
        EngineError: the engine cannot be opened there.
    """
    try:
        from distributed import Client
    except ImportError:
        raise OptionsRefused(
            "--scheduler needs dask.distributed", f"{sys.executable} -m pip install distributed, on every machine"
        ) from None
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OptionsRefused(
            f"no Dask scheduler answers at {address} ({error})", "start one: dask scheduler"
        ) from error
    with client:
        yield DaskExecutor(client, opener).pinned()


def parts_of(tiles: int, done: frozenset[int], *, batch: int, workers: int) -> list[tuple[int, ...]]:
    """Runs of whole batches that hold an unfinished tile.

    A batch is never split: what shares a call with what must not depend on where an earlier run stopped.
    """
    batches = [tuple(range(first, min(first + batch, tiles))) for first in range(0, tiles, batch)]
    unfinished = [group for group in batches if not done.issuperset(group)]
    share = -(-len(unfinished) // max(1, PARTS_A_WORKER * workers))
    batches_per_part = max(1, min(share, PART_TILES // batch))
    return [
        tuple(tile for group in unfinished[at : at + batches_per_part] for tile in group)
        for at in range(0, len(unfinished), batches_per_part)
    ]


# What follows runs on the workers.

_engines: dict[bytes, Engine] = {}
# The engine belongs to one thread (a CUDA context does); Dask's own threads come and go.
_engine_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")


def map_part(whole: Part, tiles: tuple[int, ...]) -> Finished:
    """Maps these tiles onto the canvas and makes them durable."""
    return _engine_thread.submit(_mapped, whole, tiles).result()


def _mapped(part: Part, tiles: tuple[int, ...]) -> Finished:
    try:
        engine = _opened(part.opener)
        # Another build of the model may differ in a few pixels: the map would not be that of one machine.
        if engine.digest != part.engine:
            raise OptionsRefused(
                f"a worker's engine is {engine.backend} {engine.precision} {engine.digest}, the first one's is another",
                "give all workers the same version, model and backend (--backend)",
            )
        with rasterio.Env(**GDAL_ENV), _scene_of(part) as scene:
            grid = Grid(scene.width, scene.height, tile_size=part.tile, halo=part.halo)
            with PartCanvas(part, width=scene.width, height=scene.height, others=len(grid)) as canvas:
                canvas.left_out = frozenset(range(len(grid))) - frozenset(tiles)
                pipeline = Pipeline(scene, grid, engine, canvas, batch=part.batch, read_timeout_s=part.read_timeout_s)
                stats = pipeline.run()
                return Finished(tiles, canvas.records, stats)
    except (OnboardError, EngineError) as error:
        return Finished(tiles, failure=error)


def _scene_of(part: Part) -> Scene:
    scene = Scene(part.scene, part.options, part.decisions)
    if (scene.width, scene.height) == part.size:
        return scene
    # `read_at` opens a handle of its own; this one only told the full size.
    with scene:
        return read_at(scene, part.size)


class PartCanvas:
    """The canvas as a worker sees it: written, not journaled.

    Attributes:
        left_out: tiles that are not this worker's; they count as finished.
        records: of the tiles finished here.

    Raises:
        StorageError: the canvas is not there, or belongs to other work.
    """

    def __init__(self, part: Part, *, width: int, height: int, others: int) -> None:
        self.left_out: frozenset[int] = frozenset(range(others))
        self.records: dict[int, TileRecord] = {}
        # On storage that is not shared, the same path may hold another canvas: writing would spoil its tiles.
        if not holds(part.canvas / "journal", part.identity):
            raise StorageError(
                part.canvas, "a worker does not find the canvas there",
                "put --out on storage that all workers see under the same path",
            )  # fmt: skip
        self._heads = [
            # Never made here: a raster of this machine's own would take the pixels, and nobody would see them.
            [Layer(part.canvas / name, width=width, height=height, create=False) for name in files if name is not None]
            for _, *files in layer_names(part.confidence, part.further)
        ]

    @property
    def finished(self) -> frozenset[int]:
        """Tiles that are not to be done here."""
        return self.left_out

    def write(self, core: Window, classes: Pixels, confidence: Pixels | None = None, head: int = 0) -> None:
        """Writes one core of one head."""
        for layer, pixels in zip(self._heads[head], (classes, confidence), strict=False):
            if pixels is not None:
                layer.write(core, pixels)

    def finish(self, tiles: Sequence[int], records: Mapping[int, TileRecord] | None = None) -> None:
        """Counts a batch's tiles as written."""
        self.records.update({tile: (records or {}).get(tile, TileRecord()) for tile in tiles})

    def commit(self) -> None:
        """Makes the pixels durable; the journal comes after."""
        for layer in (layer for layers in self._heads for layer in layers):
            layer.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer in (layer for layers in self._heads for layer in layers):
            layer.close()


def _describe(opener: Callable[[], Engine]) -> EngineDescription | EngineError:
    def describe() -> EngineDescription | EngineError:
        try:
            return EngineDescription.of(_opened(opener))
        except EngineError as error:
            return error

    return _engine_thread.submit(describe).result()


def _opened(opener: Callable[[], Engine]) -> Engine:
    """The worker's engine, opened once; another model's takes its place."""
    # By its pickled form: what comes over the network is a new object each time.
    key = pickle.dumps(opener)
    if key not in _engines:
        for other in [*_engines]:
            # Closed before the next is opened: the device's memory may not hold two engines.
            _engines.pop(other).close()
        _engines[key] = opener()
    return _engines[key]


def _workers(client: Client) -> list[str]:
    """Addresses of those that have the resource.

    Raises:
        OptionsRefused: there is none.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    able = [address for address, facts in workers.items() if facts.get("resources", {}).get(RESOURCE, 0) >= 1]
    if not able:
        raise OptionsRefused(f"none of the cluster's {len(workers)} workers has the resource {RESOURCE}", _REMEDY)
    return able
