"""Maps one scene and publishes its map; a run that is killed is continued by the same call.

While it works, everything lies in `OUT/.onboard/NAME/`; the map's folder `OUT/NAME/` appears by one rename. The same
command after a SIGKILL continues from the canvas; after publication it finds the map and has nothing to do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rasterio

from engines.engine import Engine
from onboard.errors import OptionsRefused, SceneRefused, StorageError
from onboard.files import storage_error
from onboard.mapping.canvas import Canvas
from onboard.mapping.changes import CHANGES, text_of
from onboard.mapping.control import MapObserver
from onboard.mapping.early_bands import EarlyBands
from onboard.mapping.executors import EngineDescription, LocalExecutor, Progress, TileExecutor, TileWork, executor_of
from onboard.mapping.familiarity import MapFamiliarity
from onboard.mapping.integrity import ATTEMPTS, ProductDamaged, check_scene, repair_canvas
from onboard.mapping.job import Job, digests_of
from onboard.mapping.pipeline import PipelineStats
from onboard.mapping.product import bands_of
from onboard.mapping.publish import publish, tiles_per_s
from onboard.mapping.quicklook import QUICKLOOK, quicklook_name, thumbnail_of
from onboard.mapping.request import HeadSummary, MapRequest, MapSummary
from onboard.mapping.scene_files import digest_of_all
from onboard.scene.gdal_env import GDAL_ENV
from onboard.scene.probe import probe_scene
from onboard.scene.reader import Scene, SceneOptions
from onboard.scene.resample import read_at
from onboard.scene.resolution import resolution_of

__all__ = ["Judge", "MapRequest", "MapSummary", "map_scene"]

Judge = Callable[[Path, SceneOptions], object]


def map_scene(
    request: MapRequest,
    engine: Engine | TileExecutor,
    progress: Progress | None = None,
    *,
    observer: MapObserver | None = None,
    judge: Judge | None = None,
) -> MapSummary:
    """Maps one scene and publishes the result.

    Args:
        request: the scene and the options.
        engine: open engine, used on this thread only and not closed; or an executor, which has its engine.
        progress: called with (finished tiles, all tiles).
        observer: takes reports of the run and adds properties to the item.
        judge: looks at the scene first, as `probe_scene` does; by default it is that, whose process starts here and
            now. Who maps more than one scene, or has something else to open meanwhile, gives `Probes().judge`.

    Raises:
        SceneRefused: the scene cannot be mapped; nothing is left behind.
        OptionsRefused: the options cannot be met, or the name is taken by another scene's map.
        StorageError: the disk is full or failed; the same command continues.
        EngineError: the engine failed; the same command continues.
        MappingStopped: the stop policy ended the run; the same request continues.
    """
    begin = time.monotonic()
    executor = executor_of(engine)
    _check_request(request, executor.engine)
    # Another process opens the file first: one that crashes or hangs a decoder does it there, not here.
    (judge or probe_scene)(request.scene, request.scene_options)
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(**GDAL_ENV))
        scene = stack.enter_context(Scene.open(request.scene, request.scene_options))
        resolution = resolution_of(scene, executor.engine.manifest, request.resolution)
        if resolution.is_resampled:
            scene = stack.enter_context(read_at(scene, resolution.read_size))
        job = Job.of(request, scene, executor, resolution)
        if (published_item := job.published()) is not None:
            # A run that was killed between its rename and its cleaning left canvas and files here.
            job.clean()
            return _summary(
                job, published_item, PipelineStats(tiles_resumed=len(job.grid)), time.monotonic() - begin, True
            )
        return _run(job, begin, progress, observer or MapObserver())


def _check_request(request: MapRequest, engine: EngineDescription) -> None:
    """Passes if this engine can do what is asked for.

    Raises:
        OptionsRefused: it cannot.
    """
    if request.batch > engine.max_batch:
        raise OptionsRefused(
            f"--batch {request.batch} is more than this engine takes", f"give {engine.max_batch} or less"
        )
    if request.strict and engine.manifest.familiarity is None:
        raise OptionsRefused(
            f"model {engine.manifest.name} does not say how familiar a scene is",
            "leave --strict out, or name a model that does (trainer familiarity)",
        )
    if request.confidence and engine.manifest.output.confidence is None:
        raise OptionsRefused(f"model {engine.manifest.name} gives no confidence", "leave --confidence out")


def _run(job: Job, begin: float, progress: Progress | None, observer: MapObserver) -> MapSummary:
    """Maps what is not mapped yet and publishes."""
    try:
        job.work.mkdir(parents=True, exist_ok=True)
        job.request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, job.work) from error
    canvas = Canvas(
        job.work / "canvas",
        job.identity,
        width=job.scene.width,
        height=job.scene.height,
        confidence=job.request.confidence,
        further=further_heads(job),
    )
    try:
        # Any failure but a refused scene leaves the canvas: the same command continues from it.
        with canvas:
            item, stats = _map_and_publish(job, canvas, progress, observer)
    except SceneRefused:
        # Nothing can be resumed from a file that cannot be read.
        job.clean()
        raise
    job.clean()
    return _summary(job, item, stats, time.monotonic() - begin, False)


def further_heads(job: Job) -> dict[str, bool]:
    """The heads that are mapped beside the first, each with whether its confidence is kept."""
    return {
        head.name: job.request.confidence and head.output.confidence is not None
        for head in job.engine.manifest.further_heads
    }


def _map_and_publish(
    job: Job, canvas: Canvas, progress: Progress | None, observer: MapObserver
) -> tuple[dict[str, Any], PipelineStats]:
    """Maps and publishes; what is found changed on the disk on the way is made again.

    Raises:
        StorageError: it changes again and again.
    """
    # Storage may have changed while nobody worked on it.
    repair_canvas(canvas, job.grid, observer)
    thumbnail = None
    if job.shows_scene:
        colours = [band.common_name for band in job.engine.manifest.input.bands]
        thumbnail = thumbnail_of((job.scene.width, job.scene.height), colours)
    work = TileWork(job.scene, job.grid, canvas, job.request.batch, job.read_timeout_s, job.identity, thumbnail)
    stats = PipelineStats()
    observer.before_mapping(tiles=len(job.grid), pixels=job.scene.width * job.scene.height)
    for _ in range(ATTEMPTS):
        # Anew in each round: nothing that was made of pixels of before goes into the map.
        with ExitStack() as stack:
            bands = _bands_ahead(job, canvas)
            ahead = None if bands is None else stack.enter_context(bands)
            run_stats = job.executor.map_tiles(work, progress or (lambda _done, _all: None))
            # A round that only writes files again inferred nothing: the figures of the round that mapped stay.
            stats = run_stats if run_stats.tiles_inferred or not stats.seconds else stats
            if repair_canvas(canvas, job.grid, observer) or _scene_changed(job, canvas, observer):
                continue
            try:
                if thumbnail is not None:
                    thumbnail.complete(job.scene, job.grid)
                return publish(job, canvas, stats, observer, thumbnail, ahead), stats
            except ProductDamaged as error:
                observer.repaired("map-rewritten", f"{error}; it is written again")
    raise StorageError(job.work, "what is written there does not stay as it was", "look at the disk")


def _canvas_is_map(job: Job) -> bool:
    """Whether the canvas's pixels are the map's: nothing is merged or enlarged when it is published."""
    return not job.request.sieve_px and job.resolution.map_size == (job.scene.width, job.scene.height)


def _bands_ahead(job: Job, canvas: Canvas) -> EarlyBands | None:
    """What makes the map's blocks while tiles are mapped; None where that cannot be."""
    # Where other machines write the canvas, reading it here early would leave zeros in this one's cache.
    if not isinstance(job.executor, LocalExecutor) or not _canvas_is_map(job):
        return None
    legends = [job.engine.manifest.classes, *(head.classes for head in job.engine.manifest.further_heads)]
    try:
        return EarlyBands(
            canvas, job.grid,
            [bands_of(head.classes, tuple(legend)) for head, legend in zip(canvas.heads, legends, strict=True)],
        )  # fmt: skip
    except OSError:
        return None  # a disk that is full is met by who has to write there


def _scene_changed(job: Job, canvas: Canvas, observer: MapObserver) -> bool:
    """Whether the scene's bytes changed while it was mapped, in memory alone: all of it is to be done again.

    Raises:
        SceneRefused: they changed in storage.
    """
    # GDAL read the file for minutes after its digest was taken.
    digest = digest_of_all(digests_of(job.request.scene))
    if digest == job.scene_sha256:
        return False
    check_scene(job.request.scene, digest, job.scene_sha256)
    canvas.forget(range(len(job.grid)))
    observer.repaired("scene-reread", "the scene had changed in memory while it was mapped; it is mapped again")
    return True


def _summary(job: Job, item: dict[str, Any], stats: PipelineStats, seconds: float, already: bool) -> MapSummary:
    """The summary of this run, read back from the published item."""
    properties = item["properties"]
    confidence = job.final / "confidence.tif"
    changed = text_of(properties.get(f"onboard:{CHANGES}"))
    pixels = math.prod(job.resolution.map_size)

    def shares(cover: list[dict[str, Any]]) -> dict[str, float]:
        return {row["title"]: row["pixels"] / pixels for row in cover}

    def quicklook(head: str) -> Path | None:
        return job.final / quicklook_name(head) if f"{head}-quicklook" in item["assets"] else None

    return MapSummary(
        folder=job.final,
        map_path=job.final / "map.tif",
        item_path=job.final / "map.json",
        quicklook_path=job.final / QUICKLOOK if "quicklook" in item["assets"] else None,
        confidence_path=confidence if "confidence" in item["assets"] else None,
        tiles=len(job.grid),
        tiles_resumed=stats.tiles_resumed,
        tiles_empty=stats.tiles_empty,
        seconds=seconds,
        mapping_s=stats.seconds,
        tiles_per_s=tiles_per_s(stats),
        map_bytes=(job.final / "map.tif").stat().st_size,
        scene_pixels=math.prod(job.resolution.scene_size),
        class_shares=shares(properties["onboard:class_cover"]),
        no_data_share=properties["onboard:no_data_pixels"] / pixels,
        model=f"{job.engine.manifest.name} {job.engine.manifest.version}",
        model_terms=job.engine.manifest.terms,
        already_mapped=already,
        stages_s={"read": stats.read_s, "infer": stats.infer_s, "write": stats.write_s},
        assumptions=tuple(map(str, job.scene.assumptions)),
        notices=tuple(filter(None, (job.resolution.text if job.resolution.is_remarkable else "", changed))),
        resolution=job.resolution.as_json(),
        familiarity=MapFamiliarity.from_json(properties.get("onboard:familiarity")),
        further=tuple(
            HeadSummary(name, job.final / f"{name}.tif", quicklook(name), shares(facts["class_cover"]))
            for name, facts in properties.get("onboard:heads", {}).items()
        ),
    )
