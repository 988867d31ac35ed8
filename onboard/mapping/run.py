"""The main job: one scene in, one published map out, resumable at any moment.

While it works, everything lies in `OUT/.onboard/NAME/`; the map's folder `OUT/NAME/` appears by one rename. The same
command after a SIGKILL continues from the canvas; after publication it finds the map and has nothing to do.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rasterio

from engines.engine import Engine
from engines.errors import EngineError
from engines.selection import choice_of
from onboard.errors import OptionsRefused, SceneRefused, StorageError
from onboard.mapping.canvas import Canvas, Layer
from onboard.mapping.enlarge import enlarge
from onboard.mapping.familiarity import MapFamiliarity, map_familiarity
from onboard.mapping.files import publish_folder, sha256_file, storage_error
from onboard.mapping.heap import give_back_heap
from onboard.mapping.integrity import ATTEMPTS, ProductDamaged, check_scene, check_written, forget_damaged
from onboard.mapping.journal import identity_bytes
from onboard.mapping.pipeline import Pipeline, PipelineStats
from onboard.mapping.product import count_classes, sieve, write_confidence, write_map, write_quicklook
from onboard.mapping.scene_files import digest_of_all, scene_digests
from onboard.mapping.stac import ItemFacts, write_item
from onboard.mapping.watch import Watch
from onboard.scene.decoders import decoder_versions
from onboard.scene.gdal_env import GDAL_ENV
from onboard.scene.georeference import Georeference
from onboard.scene.grid import Grid
from onboard.scene.probe import probe_scene
from onboard.scene.reader import Scene, SceneOptions
from onboard.scene.resample import RESAMPLING_VERSION, read_at
from onboard.scene.resolution import Resolution, ResolutionOptions, resolution_of

if TYPE_CHECKING:
    from onboard.mapping.crew import Crew

WORK = ".onboard"
# Part of every canvas's identity: raised when the same inputs would give other bytes.
PIPELINE_VERSION = 5

Progress = Callable[[int, int], None]
Judge = Callable[[Path, SceneOptions], object]


@dataclass(frozen=True)
class MapRequest:
    """What to map and how.

    Attributes:
        scene: the GeoTIFF.
        out: folder in which the map's folder appears.
        name: of the map's folder; the scene's stem by default.
        scene_options: bands, stretch, no data, page.
        resolution: the scene's ground resolution, and the map's grid.
        confidence: also write the model's confidence.
        sieve_px: smallest patch kept, in pixels of the map; 0 keeps all.
        batch: tiles in one engine call.
        halo: pixels cut from tile edges, at least; the manifest's by default.
        overwrite: replace a map of another scene that has the same name.
        read_timeout_s: longest wait for one batch of pixels.
        work: folder for canvases and unpublished products, on the same file system; OUT/.onboard by default.
        title: the scene's name in the item; its file's name by default.
        acquired: when it was taken, RFC 3339, where its own tags do not say.
        own: more `onboard:` properties of the item.
        scene_sha256: the digest that the scene was accepted by; another one is refused. None takes it as it is.
        strict: a model that gives no familiarity is refused; what an unfamiliar map comes to is the caller's to say.
    """

    scene: Path
    out: Path
    name: str | None = None
    scene_options: SceneOptions = field(default_factory=SceneOptions)
    resolution: ResolutionOptions = field(default_factory=ResolutionOptions)
    confidence: bool = False
    sieve_px: int = 0
    batch: int = 1
    halo: int | None = None
    overwrite: bool = False
    read_timeout_s: float = 120.0
    work: Path | None = None
    title: str | None = None
    acquired: str | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    scene_sha256: str | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise OptionsRefused(f"--batch is {self.batch}", "give a whole number from 1 on")
        if not 0 <= self.sieve_px <= 100_000:
            raise OptionsRefused(f"--sieve is {self.sieve_px}", "give a number of pixels from 0 (off) to 100000")
        if self.name is not None and (not self.name or self.name.startswith(".") or "/" in self.name):
            raise OptionsRefused(f"--name {self.name!r} is no plain folder name", "use letters, digits, - and _")

    @property
    def folder_name(self) -> str:
        """Name of the map's folder and the item's id."""
        return self.name or self.scene.stem.lstrip(".") or "scene"


@dataclass(frozen=True)
class MapSummary:
    """What `onboard process` reports; seconds are wall time of this run, resumed tiles were done by an earlier one.

    `class_shares` and `no_data_share` are of all the map's pixels: together they are 1. `notices` are lines that a
    person should read.
    """

    folder: Path
    map_path: Path
    item_path: Path
    quicklook_path: Path
    confidence_path: Path | None
    tiles: int
    tiles_resumed: int
    tiles_empty: int
    seconds: float
    mapping_s: float
    tiles_per_s: float | None
    map_bytes: int
    scene_pixels: int
    class_shares: dict[str, float]
    no_data_share: float
    model: str
    model_terms: str
    already_mapped: bool
    stages_s: dict[str, float]
    assumptions: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    resolution: Mapping[str, Any] = field(default_factory=dict)
    familiarity: MapFamiliarity = field(default_factory=MapFamiliarity)

    def as_json(self) -> dict[str, Any]:
        """JSON-able form: paths as text."""
        facts = asdict(self) | {"familiarity": self.familiarity.as_json()}
        return {key: str(value) if isinstance(value, Path) else value for key, value in facts.items()}


def map_scene(
    request: MapRequest,
    engine: Engine,
    progress: Progress | None = None,
    watch: Watch | None = None,
    *,
    crew: Crew | None = None,
    judge: Judge | None = None,
) -> MapSummary:
    """Maps one scene and publishes the result.

    Args:
        request: the scene and the options.
        engine: used on this thread only; not closed. With a crew: `crew.engine`.
        progress: called with (finished tiles, all tiles).
        watch: asked between batches and before publishing; with a crew, before publishing only.
        crew: infers, instead of this process.
        judge: looks at the scene first, as `probe_scene` does; by default it is that, whose process starts here and
            now. Who maps more than one scene, or has something else to open meanwhile, gives `Probes().judge`.

    Raises:
        SceneRefused: the scene cannot be mapped; nothing is left behind.
        OptionsRefused: the options cannot be met, or the name is taken by another scene's map.
        StorageError: the disk is full or failed; the same command continues.
        EngineError: the engine failed; the same command continues.
        MappingStopped: the watch stopped it; the same request continues.
    """
    begin = time.monotonic()
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
    (judge or probe_scene)(request.scene, request.scene_options)
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(**GDAL_ENV))
        scene = stack.enter_context(Scene.open(request.scene, request.scene_options))
        resolution = resolution_of(scene, engine.manifest, request.resolution)
        if resolution.is_resampled:
            scene = stack.enter_context(read_at(scene, resolution.read_size))
        job = Job.of(request, scene, engine, resolution)
        if (earlier := job.published()) is not None:
            shutil.rmtree(job.work, ignore_errors=True)
            _remove_if_empty(job.work.parent)
            return job.summary(earlier, PipelineStats(tiles_resumed=len(job.grid)), time.monotonic() - begin, True)
        return job.run(begin, progress, watch or Watch(), crew)


@dataclass(frozen=True)
class Job:
    """One request bound to its open scene and engine.

    Attributes:
        scene: as the model sees it.
        resolution: of the scene, and of what the model sees.
        scene_sha256: of the scene's file where that is all, else of all its files.
        scene_files: SHA-256 of each file of the scene by its name, the scene's own first.
        identity: everything the map's pixels depend on.
    """

    request: MapRequest
    scene: Scene
    engine: Engine
    resolution: Resolution
    grid: Grid
    scene_sha256: str
    scene_files: Mapping[str, str]
    identity: dict[str, Any]

    @classmethod
    def of(cls, request: MapRequest, scene: Scene, engine: Engine, resolution: Resolution) -> Job:
        """Fixes grid and identity. The scene is read as the resolution says."""
        manifest = engine.manifest
        halo = manifest.halo if request.halo is None else request.halo
        grid = Grid(scene.width, scene.height, tile_size=manifest.input.tile_size, halo=halo)
        scene_files = _digests(request.scene)
        scene_sha256 = digest_of_all(scene_files)
        if request.scene_sha256 is not None:
            check_scene(request.scene, scene_sha256, request.scene_sha256)
            scene_sha256 = request.scene_sha256
        identity = {
            "pipeline": PIPELINE_VERSION,
            "scene": scene_sha256,
            "decoders": decoder_versions(),
            "size": [scene.width, scene.height],
            "model": manifest.model.sha256,
            "engine": engine.digest,
            "precision": engine.precision,
            "tile": manifest.input.tile_size,
            "halo": halo,
            "batch": request.batch,
            "scene_facts": scene.facts,
            "confidence": request.confidence,
        }
        if resolution.is_resampled:
            identity["resampled"] = {"from": list(resolution.scene_size), "version": RESAMPLING_VERSION}
        identity = json.loads(identity_bytes(identity))
        return cls(request, scene, engine, resolution, grid, scene_sha256, scene_files, identity)

    @property
    def final(self) -> Path:
        """The map's folder once published."""
        return self.request.out / self.request.folder_name

    @property
    def work(self) -> Path:
        """Where the canvas and the unpublished product lie."""
        return (self.request.work or self.request.out / WORK) / self.request.folder_name

    @property
    def identity_digest(self) -> str:
        """SHA-256 over the identity and the options that only touch the product."""
        product = self.identity | {"sieve": self.request.sieve_px}
        if self.resolution.is_resampled:
            product["grid"] = self.resolution.grid
        return hashlib.sha256(identity_bytes(product)).hexdigest()

    def published(self) -> dict[str, Any] | None:
        """The item of this very map, if it stands already.

        Raises:
            OptionsRefused: the name is taken by something else than a map of this scene.
        """
        if not self.final.exists():
            return None
        try:
            item = json.loads((self.final / "map.json").read_text(encoding="utf-8"))
            properties = item["properties"]
            same_scene = properties["onboard:scene_sha256"] == self.scene_sha256
            same = properties["onboard:identity"] == self.identity_digest
        except (OSError, ValueError, KeyError, TypeError):
            raise OptionsRefused(
                f"{self.final} exists and is no map of ours", "move it away, or choose another --out or --name"
            ) from None
        if not same_scene and not self.request.overwrite:
            raise OptionsRefused(
                f"{self.final} holds the map of another scene", "choose another --name, or give --overwrite"
            )
        return item if same and self._intact(item) else None

    def _intact(self, item: dict[str, Any]) -> bool:
        for asset in item["assets"].values():
            path = self.final / asset["href"]
            if not path.is_file() or asset["file:checksum"] != "1220" + sha256_file(path):
                return False
        return True

    def run(self, begin: float, progress: Progress | None, watch: Watch, crew: Crew | None = None) -> MapSummary:
        """Maps what is not mapped yet and publishes."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self.request.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, self.work) from error
        canvas = Canvas(
            self.work / "canvas",
            self.identity,
            width=self.scene.width,
            height=self.scene.height,
            confidence=self.request.confidence,
        )
        try:
            with canvas:
                item, stats = self._made(canvas, progress, watch, crew)
        except SceneRefused:
            # Nothing can be resumed from a file that cannot be read.
            self._clean()
            raise
        self._clean()
        return self.summary(item, stats, time.monotonic() - begin, False)

    def _made(
        self, canvas: Canvas, progress: Progress | None, watch: Watch, crew: Crew | None
    ) -> tuple[dict[str, Any], PipelineStats]:
        """Maps and publishes; what is found changed on the disk on the way is made again.

        Raises:
            StorageError: it changes again and again.
        """
        self._repaired(canvas, watch)
        stats = PipelineStats()
        for _ in range(ATTEMPTS):
            again = self._map(canvas, progress, watch) if crew is None else self._spread(crew, canvas, progress)
            stats = again if again.tiles_inferred or not stats.seconds else stats
            if self._repaired(canvas, watch) or self._scene_changed(canvas, watch):
                continue
            try:
                return self._publish(canvas, stats, watch), stats
            except ProductDamaged as error:
                watch.repaired("map-rewritten", f"{error}; it is written again")
        raise StorageError(self.work, "what is written there does not stay as it was", "look at the disk")

    def _repaired(self, canvas: Canvas, watch: Watch) -> bool:
        """Whether tiles of the canvas were found changed; they are to be done again."""
        damaged = forget_damaged(canvas, self.grid)
        if damaged:
            watch.repaired("canvas-damaged", f"{len(damaged)} tiles changed on the disk and are done again")
        return bool(damaged)

    def _scene_changed(self, canvas: Canvas, watch: Watch) -> bool:
        """Whether the scene's bytes changed while it was mapped, in memory alone: all of it is to be done again.

        Raises:
            SceneRefused: they changed in storage.
        """
        digest = digest_of_all(_digests(self.request.scene))
        if digest == self.scene_sha256:
            return False
        check_scene(self.request.scene, digest, self.scene_sha256)
        canvas.forget(range(len(self.grid)))
        watch.repaired("scene-reread", "the scene had changed in memory while it was mapped; it is mapped again")
        return True

    def _map(self, canvas: Canvas, progress: Progress | None, watch: Watch) -> PipelineStats:
        """Here. The engine is checked after the last tile; tiles of an engine in doubt are forgotten."""
        pipeline = Pipeline(
            self.scene, self.grid, self.engine, canvas, batch=self.request.batch,
            read_timeout_s=self._read_timeout_s, watch=watch,
        )  # fmt: skip
        try:
            stats = pipeline.run(progress)
            watch.check()
        except EngineError as error:
            if watch.doubts:
                canvas.forget(pipeline.stats.doubtful(error))
            raise
        return stats

    def _spread(self, crew: Crew, canvas: Canvas, progress: Progress | None) -> PipelineStats:
        """On the cluster's workers."""
        begin = time.monotonic()
        stats = crew.run(
            self.scene, self.grid, canvas, batch=self.request.batch, read_timeout_s=self._read_timeout_s,
            identity=self.identity, progress=progress or (lambda _done, _all: None),
        )  # fmt: skip
        stats.seconds = time.monotonic() - begin
        return stats

    @property
    def _read_timeout_s(self) -> float:
        """As asked for; longer where a tile is made of more pixels than it has."""
        more = math.prod(self.resolution.scene_size) / math.prod(self.resolution.read_size)
        return self.request.read_timeout_s * max(1.0, more)

    def _clean(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        _remove_if_empty(self.work.parent)
        _remove_if_empty(self.request.out)

    def _publish(self, canvas: Canvas, stats: PipelineStats, watch: Watch) -> dict[str, Any]:
        watch.before_publishing()
        if self.resolution.is_resampled:
            give_back_heap()  # 50 MB of GDAL's blocks and sums, which lie among each other
        staged = self.work / "product"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            staged.mkdir()
        except OSError as error:
            raise storage_error(error, staged) from error
        layer, confidence = self._on_map_grid(canvas, canvas.classes), None
        layer = self._sieved(canvas, layer)
        if canvas.confidence is not None:
            confidence = self._on_map_grid(canvas, canvas.confidence)
        counts = count_classes(layer, tuple(self.engine.manifest.classes)).tolist()
        manifest = self.engine.manifest
        classes = tuple(manifest.classes)
        georeference = self._georeference
        tags = self._tags()
        write_map(layer, staged / "map.tif", georeference=georeference, classes=classes, tags=tags)
        if confidence is not None:
            write_confidence(confidence, staged / "confidence.tif", georeference=georeference, tags=tags)
        write_quicklook(staged / "map.tif", staged / "quicklook.webp", classes)
        item = write_item(self._item_facts(counts, stats, canvas, watch), staged)
        check_written(layer, staged / "map.tif")
        if confidence is not None:
            check_written(confidence, staged / "confidence.tif")
        if self._repaired(canvas, watch):
            raise ProductDamaged("the canvas changed while the map was written")
        publish_folder(staged, self.final)
        found: dict[str, Any] = json.loads((self.final / item.name).read_text(encoding="utf-8"))
        return found

    @property
    def _georeference(self) -> Georeference:
        """Of the map."""
        (width, height), (mapped, rows) = self.resolution.read_size, self.resolution.map_size
        return self.scene.georeference.scaled(width / mapped, height / rows)

    def _on_map_grid(self, canvas: Canvas, layer: Layer) -> Layer:
        width, height = self.resolution.map_size
        if (width, height) == (layer.width, layer.height):
            return layer
        target = Layer(canvas.folder / f"{layer.path.stem}-enlarged.raw", width=width, height=height)
        enlarge(layer, target)
        return target

    def _sieved(self, canvas: Canvas, layer: Layer) -> Layer:
        if not self.request.sieve_px:
            return layer
        target = Layer(canvas.folder / "sieved.raw", width=layer.width, height=layer.height)
        sieve(layer, target, self.request.sieve_px)
        return target

    def _tags(self) -> dict[str, str]:
        """Provenance that stands in map.tif itself; no times, or equal work would give unequal bytes."""
        model = self.engine.manifest
        return {
            "TIFFTAG_SOFTWARE": f"onboard {_version()}",
            "ONBOARD_SCENE_SHA256": self.scene_sha256,
            "ONBOARD_MODEL": f"{model.name} {model.version}",
            "ONBOARD_MODEL_SHA256": model.model.sha256,
            "ONBOARD_ENGINE": f"{self.engine.backend} {self.engine.precision} {self.engine.digest}",
            "ONBOARD_OPTIONS": identity_bytes(
                {"halo": self.grid.halo, "sieve_px": self.request.sieve_px, "scene": self.scene.facts}
                | ({"ground_resolution": self.resolution.as_json()} if self.resolution.is_resampled else {})
            ).decode(),
        }

    def _item_facts(
        self, counts: list[int], stats: PipelineStats, canvas: Canvas, watch: Watch
    ) -> ItemFacts:
        confidence = canvas.mean_confidence
        figures = [record.familiarity for record in canvas.records.values()]
        georeference, (width, height) = self._georeference, self.resolution.map_size
        pixel_m2 = georeference.pixel_area_m2(width, height)
        area_m2 = None if pixel_m2 is None else pixel_m2 * width * height
        return ItemFacts(
            name=self.request.folder_name,
            scene_name=self.request.title or self.request.scene.name,
            scene_sha256=next(iter(self.scene_files.values())),
            acquired=self.scene.acquired or self.request.acquired,
            unread_time=self.scene.time_text,
            received=datetime.fromtimestamp(self.request.scene.stat().st_mtime, timezone.utc),
            georeference=georeference,
            width=width,
            height=height,
            manifest=self.engine.manifest,
            class_pixels=counts,
            pixel_area_m2=pixel_m2,
            gsd_m=self.resolution.gsd_of((width, height)),
            processed=datetime.now(timezone.utc),
            software={"onboard": _version(), self.engine.backend: self.engine.digest},
            published=self.final,
            scene_path=self.request.scene if self._stays_here else None,
            model_path=self._model_path() if self._stays_here else None,
            own={
                "identity": self.identity_digest,
                "scene_sha256": self.scene_sha256,
                # What is no UTF-8 in a name becomes question marks: JSON takes nothing else.
                "scene_files": {n.encode("utf-8", "replace").decode(): d for n, d in self.scene_files.items()},
                "decoders": self.identity["decoders"],
                "no_data_pixels": counts[0],
                "sieve_px": self.request.sieve_px,
                "halo_px": self.grid.halo,
                "tiles": len(self.grid),
                "mean_confidence": None if confidence is None else round(confidence, 4),
                "familiarity": map_familiarity(figures, self.engine.manifest).as_json(),
                "tiles_per_s": _rate(stats),
                "scene": self.scene.facts,
                "ground_resolution": self.resolution.as_json(),
                "engine": {
                    "backend": self.engine.backend, "precision": self.engine.precision,
                    **choice_of(self.engine).as_json(),
                },
                "assumptions": [asdict(assumption) for assumption in self.scene.assumptions],
                **self.request.own,
                **watch.facts(tiles=len(self.grid), area_m2=area_m2),
            },
        )

    @property
    def _stays_here(self) -> bool:
        """Whether map, scene and model stay on this machine: of a run by hand, whose work lies in its own folder."""
        return self.request.work is None

    def _model_path(self) -> Path | None:
        folder = self.engine.folder
        return None if folder is None else folder / self.engine.manifest.model.file

    def summary(self, item: dict[str, Any], stats: PipelineStats, seconds: float, already: bool) -> MapSummary:
        """What this run did, read back from the published item."""
        properties = item["properties"]
        confidence = self.final / "confidence.tif"
        pixels = math.prod(self.resolution.map_size)
        return MapSummary(
            folder=self.final,
            map_path=self.final / "map.tif",
            item_path=self.final / "map.json",
            quicklook_path=self.final / "quicklook.webp",
            confidence_path=confidence if "confidence" in item["assets"] else None,
            tiles=len(self.grid),
            tiles_resumed=stats.tiles_resumed,
            tiles_empty=stats.tiles_empty,
            seconds=seconds,
            mapping_s=stats.seconds,
            tiles_per_s=_rate(stats),
            map_bytes=(self.final / "map.tif").stat().st_size,
            scene_pixels=math.prod(self.resolution.scene_size),
            class_shares={row["title"]: row["pixels"] / pixels for row in properties["onboard:class_cover"]},
            no_data_share=properties["onboard:no_data_pixels"] / pixels,
            model=f"{self.engine.manifest.name} {self.engine.manifest.version}",
            model_terms=self.engine.manifest.terms,
            already_mapped=already,
            stages_s={"read": stats.read_s, "infer": stats.infer_s, "write": stats.write_s},
            assumptions=tuple(map(str, self.scene.assumptions)),
            notices=(self.resolution.text,) if self.resolution.is_remarkable else (),
            resolution=self.resolution.as_json(),
            familiarity=MapFamiliarity.from_json(properties.get("onboard:familiarity")),
        )


def _rate(stats: PipelineStats) -> float | None:
    """Tiles per second of this run, None where it inferred none."""
    return stats.tiles_inferred / stats.seconds if stats.tiles_inferred and stats.seconds > 0 else None


def _digests(path: Path) -> dict[str, str]:
    try:
        return scene_digests(path)
    except OSError as error:
        raise SceneRefused(path, f"cannot be read: {error.strerror}", "check the file and its permissions") from error


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _version() -> str:
    try:
        return version("onboard-landcover")
    except PackageNotFoundError:
        return "unknown"
