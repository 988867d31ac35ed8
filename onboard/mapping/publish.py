"""From a finished canvas to a published map: files, item, comparison with the canvas, one rename."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rasterio

from engines.manifest import ClassInfo
from onboard.files import publish_folder, sha256_file, storage_error
from onboard.mapping.areas import MapGround, measure_areas
from onboard.mapping.canvas import Canvas, Layer
from onboard.mapping.changes import CHANGES, MapChanges, NewMap, NewRaster, compare
from onboard.mapping.control import MapObserver
from onboard.mapping.early_bands import EarlyBands
from onboard.mapping.enlarge import enlarge
from onboard.mapping.familiarity import MapFamiliarity, map_familiarity
from onboard.mapping.integrity import ProductDamaged, check_written, repair_canvas
from onboard.mapping.job import Job
from onboard.mapping.journal import identity_bytes
from onboard.mapping.malloc import return_freed_memory
from onboard.mapping.pipeline import PipelineStats
from onboard.mapping.polygons import write_polygons
from onboard.mapping.product import sieve, write_changes, write_confidence, write_map
from onboard.mapping.quicklook import QUICKLOOK, Facts, quicklook_name, write_quicklook
from onboard.mapping.stac import HeadFacts, ItemFacts, rfc3339, write_item
from onboard.mapping.thumbnail import SceneThumbnail
from onboard.scene.gdal_env import WRITE_ENV
from products.change.rebuild import AFTER, BEFORE
from products.map_file import MapBands


def publish(
    job: Job, canvas: Canvas, stats: PipelineStats, observer: MapObserver, thumbnail: SceneThumbnail | None,
    ahead: EarlyBands | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes map, quicklook and item from the canvas, compares them with it, and publishes them by one rename.

    ``thumbnail`` is the scene's, complete, where the quicklook shows it. ``ahead`` has what was made of the map's file
    while tiles were mapped.

    Returns:
        the item, as it is published.

    Raises:
        ProductDamaged: what was written differs from the canvas, or the canvas changed meanwhile.
        StorageError: the disk is full or failed.
    """
    observer.before_publishing()
    # The scene's decoded blocks, up to 128 MB, and the sums of a scene that was resampled: nobody reads them any more.
    with rasterio.Env(**WRITE_ENV):
        return_freed_memory()
    staged = job.work / "product"
    shutil.rmtree(staged, ignore_errors=True)  # of a run that was killed here
    try:
        staged.mkdir()
    except OSError as error:
        raise storage_error(error, staged) from error
    # All files go into one folder aside. A kill before the rename leaves the canvas, of which they are made anew.
    if ahead is not None:
        ahead.rest()
    made = [None] * len(canvas.heads) if ahead is None else ahead.heads
    heads = [_write_head(job, canvas, number, staged, bands) for number, bands in enumerate(made)]
    for number, head in enumerate(heads):
        kind, name = (
            (job.request.head_quicklook, quicklook_name(head.name)) if number else (job.request.quicklook, QUICKLOOK)
        )
        write_quicklook(kind, head.map_path, staged / name, thumbnail, _quicklook_facts(job, head, canvas))
    changes = _write_changes(job, canvas, heads)
    polygons = [name for head in heads for name in head.polygons(job.request.polygons)]
    areas = _measured_areas(job, heads)
    facts = _item_facts(job, heads, stats, canvas, observer, areas)
    if changes is not None:
        titles = {head.raster.changes_name: f"what changed since {changes.facts['earlier']}" for head in changes.heads}
        facts = replace(facts, changes=titles, own={**facts.own, CHANGES: changes.facts})
    # The item is last: it has sizes and digests of all other files.
    item = write_item(replace(facts, polygons=polygons), staged)
    # Only what was read back from its file and equals the canvas is published: a bit may flip anywhere between the two.
    for head in heads:
        for layer, path in head.written:
            check_written(layer, path)
    for changed in () if changes is None else changes.heads:
        check_written(changed.layer, staged / f"{changed.raster.changes_name}.tif")
    # The files equal the canvas; the canvas itself may have changed since it was checked.
    if repair_canvas(canvas, job.grid, observer):
        raise ProductDamaged("the canvas changed while the map was written")
    # One rename: readers of the folder see no map, the one of before or this one, each whole.
    publish_folder(staged, job.final)
    published: dict[str, Any] = json.loads((job.final / item.name).read_text(encoding="utf-8"))
    return published


@dataclass(frozen=True)
class _HeadProduct:
    """The map of one head as it was written.

    Attributes:
        name: of the head; empty for a model of one graph.
        legend: its classes.
        classes: the raster that its file was made of.
        counts: pixels of each code 0..K.
        written: each raster with the file that holds it.
    """

    name: str
    legend: tuple[ClassInfo, ...]
    classes: Layer
    counts: list[int]
    written: tuple[tuple[Layer, Path], ...]

    @property
    def map_path(self) -> Path:
        """The file of its classes."""
        return self.written[0][1]

    def polygons(self, formats: Sequence[str]) -> list[str]:
        """Writes polygons of it in these formats; gives the files' names."""
        confidence = self.written[1][1] if len(self.written) > 1 else None
        return write_polygons(self.map_path, confidence, self.legend, formats) if formats else []


def _write_head(job: Job, canvas: Canvas, number: int, folder: Path, bands: MapBands | None) -> _HeadProduct:
    """Writes the files of one head: NAME.tif and NAME-confidence.tif, map.tif and confidence.tif of the first."""
    head, manifest = canvas.heads[number], job.engine.manifest
    legend = tuple(manifest.further_heads[number - 1].classes if number else manifest.classes)
    layer = _sieved(job, canvas, _on_map_grid(job, canvas, head.classes), head.name)
    georeference, tags = job.georeference, _tags(job, number)
    path = folder / (f"{head.name}.tif" if number else "map.tif")
    counts = write_map(layer, path, georeference=georeference, classes=legend, tags=tags, bands=bands)
    written = [(layer, path)]
    if head.confidence is not None:
        path = folder / (f"{head.name}-confidence.tif" if number else "confidence.tif")
        written.append((_on_map_grid(job, canvas, head.confidence), path))
        write_confidence(written[-1][0], path, georeference=georeference, tags=tags)
    opened = manifest.opened_heads
    name = opened[number].name if opened else ""
    return _HeadProduct(name, legend, layer, counts.tolist(), tuple(written))


def _measured_areas(job: Job, heads: list[_HeadProduct]) -> list[dict[str, Any]]:
    """What the item says of the areas of interest, each on the map of its head; the first where it names none."""
    rows = []
    for area in job.request.areas:
        wanted = area.properties.head
        product = next((head for head in heads if head.name == wanted), None) if wanted else heads[0]
        if product is None:
            continue  # this scene is not mapped with it
        ground = MapGround(product.classes, job.georeference, product.legend, product.counts)
        own = {"head": wanted, "model": _digest_of_head(job, wanted)} if wanted else {}
        rows += [row | own for row in measure_areas((area,), ground)]
    return rows


def _digest_of_head(job: Job, name: str) -> str:
    """SHA-256 of the model as it is with this head alone: which others map beside it changes no share."""
    return job.engine.manifest.with_heads([name]).model.sha256


def _write_changes(job: Job, canvas: Canvas, heads: list[_HeadProduct]) -> MapChanges | None:
    """Writes changes.tif, and NAME-changes.tif of further heads, where an earlier map lies on this one's grid."""
    if job.request.earlier is None:
        return None
    georeference, (width, height) = job.georeference, job.resolution.map_size
    model = job.engine.manifest
    rasters = [NewRaster(head.map_path.stem, head.legend, head.classes, sha256_file(head.map_path)) for head in heads]
    new = NewMap(georeference, width, height, _time(job), rasters, f"{model.name} {model.version}")
    changes = compare(new, job.request.earlier, canvas.folder)
    for head in changes.heads:
        number = rasters.index(head.raster)
        tags = _tags(job, number) | {BEFORE: head.before, AFTER: head.raster.sha256}
        path = heads[number].map_path.with_name(f"{head.raster.changes_name}.tif")
        write_changes(head.layer, path, georeference=georeference, classes=head.raster.classes, tags=tags)
    return changes


def _time(job: Job) -> str:
    """RFC 3339, of the map: of its scene's acquisition, else of its reception."""
    return job.scene.acquired or job.request.acquired or rfc3339(_received(job))


def _received(job: Job) -> datetime:
    # The file's own time outlives a restart; of a scene's reception nothing else is on the disk.
    return datetime.fromtimestamp(job.request.scene.stat().st_mtime, timezone.utc)


def _on_map_grid(job: Job, canvas: Canvas, layer: Layer) -> Layer:
    width, height = job.resolution.map_size
    if (width, height) == (layer.width, layer.height):
        return layer
    target = Layer(canvas.folder / f"{layer.path.stem}-enlarged.raw", width=width, height=height)
    enlarge(layer, target)
    return target


def _sieved(job: Job, canvas: Canvas, layer: Layer, head: str) -> Layer:
    if not job.request.sieve_px:
        return layer
    name = f"{head}.sieved.raw" if head else "sieved.raw"
    target = Layer(canvas.folder / name, width=layer.width, height=layer.height)
    sieve(layer, target, job.request.sieve_px)
    return target


def _tags(job: Job, number: int) -> dict[str, str]:
    """Provenance that stands in a map's file itself; no times, or equal work would give unequal bytes."""
    model = job.engine.manifest
    heads = [head.name for head in model.opened_heads]
    return {
        **({"ONBOARD_HEAD": heads[number]} if heads else {}),
        "TIFFTAG_SOFTWARE": f"onboard {_version()}",
        "ONBOARD_SCENE_SHA256": job.scene_sha256,
        "ONBOARD_MODEL": f"{model.name} {model.version}",
        "ONBOARD_MODEL_SHA256": model.model.sha256,
        "ONBOARD_ENGINE": f"{job.engine.backend} {job.engine.precision} {job.engine.digest}",
        "ONBOARD_OPTIONS": identity_bytes(
            {"halo": job.grid.halo, "sieve_px": job.request.sieve_px, "scene": job.scene.facts}
            | ({"ground_resolution": job.resolution.as_json()} if job.resolution.is_resampled else {})
        ).decode(),
    }


def _quicklook_facts(job: Job, head: _HeadProduct, canvas: Canvas) -> Facts:
    width, height = job.resolution.map_size
    sides = job.georeference.pixel_sides_m(width, height)
    pixel_m = job.resolution.gsd_of((width, height)) if sides is None else sides[0]
    notes = ("unlike the training images: a guess",) if _familiarity(job, canvas).warning else ()
    width_m = None if pixel_m is None else pixel_m * width
    return Facts(head.legend, head.counts, width_m, notes)


def _familiarity(job: Job, canvas: Canvas) -> MapFamiliarity:
    figures = [record.familiarity for record in canvas.records.values()]
    return map_familiarity(figures, job.engine.manifest)


def _item_facts(
    job: Job, heads: list[_HeadProduct], stats: PipelineStats, canvas: Canvas, observer: MapObserver,
    areas: list[dict[str, Any]],
) -> ItemFacts:  # fmt: skip
    counts, confidence = heads[0].counts, canvas.mean_confidence()
    georeference, (width, height) = job.georeference, job.resolution.map_size
    pixel_m2 = georeference.pixel_area_m2(width, height)
    area_m2 = None if pixel_m2 is None else pixel_m2 * width * height
    acquired = job.scene.acquired or job.request.acquired
    return ItemFacts(
        name=job.request.folder_name,
        scene_name=job.request.title or job.request.scene.name,
        scene_sha256=next(iter(job.scene_files.values())),
        acquired=acquired,
        unread_time=job.scene.time_text,
        received=_received(job),
        georeference=georeference,
        width=width,
        height=height,
        manifest=job.engine.manifest,
        class_pixels=counts,
        further=tuple(
            HeadFacts(head, product.counts, canvas.mean_confidence(number))
            for number, (head, product) in enumerate(zip(job.engine.manifest.further_heads, heads[1:], strict=True), 1)
        ),
        pixel_area_m2=pixel_m2,
        gsd_m=job.resolution.gsd_of((width, height)),
        processed=datetime.now(timezone.utc),
        software={"onboard": _version(), job.engine.backend: job.engine.digest},
        published=job.final,
        scene_path=job.request.scene if job.stays_here else None,
        model_path=_model_path(job) if job.stays_here else None,
        own={
            "identity": job.identity_digest,
            "scene_sha256": job.scene_sha256,
            # What is no UTF-8 in a name becomes question marks: JSON takes nothing else.
            "scene_files": {n.encode("utf-8", "replace").decode(): d for n, d in job.scene_files.items()},
            "decoders": job.identity["decoders"],
            "no_data_pixels": counts[0],
            "sieve_px": job.request.sieve_px,
            "halo_px": job.grid.halo,
            "tiles": len(job.grid),
            "mean_confidence": None if confidence is None else round(confidence, 4),
            "familiarity": _familiarity(job, canvas).as_json(),
            "tiles_per_s": tiles_per_s(stats),
            "scene": job.scene.facts,
            "ground_resolution": job.resolution.as_json(),
            "engine": {
                "backend": job.engine.backend,
                "precision": job.engine.precision,
                **job.engine.choice.as_json(),
            },
            "assumptions": [asdict(assumption) for assumption in job.scene.assumptions],
            **({"areas": observer.compared_areas(areas, _time(job))} if areas else {}),
            **job.request.own,
            **observer.item_properties(tiles=len(job.grid), area_m2=area_m2),
        },
    )


def _model_path(job: Job) -> Path | None:
    """The model's file; a model with heads has no single one."""
    folder, manifest = job.engine.folder, job.engine.manifest
    return None if folder is None or manifest.head_names else folder / manifest.model.file


def tiles_per_s(stats: PipelineStats) -> float | None:
    """Tiles per second of this run, None where it inferred none."""
    return stats.tiles_inferred / stats.seconds if stats.tiles_inferred and stats.seconds > 0 else None


def _version() -> str:
    try:
        return version("onboard-landcover")
    except PackageNotFoundError:
        return "unknown"
