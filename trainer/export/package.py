"""Makes model folders from a finished run, one per precision: ONNX files, manifest, golden tile, card."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from engines.integrity.packed_tile import packed_tile, variants
from engines.manifest import (
    Band,
    Calibration,
    ClassInfo,
    GoldenTile,
    Manifest,
    ModelFile,
    ModelInput,
    ModelOutput,
    Precision,
    Slug,
    TwinFile,
)
from engines.manifest_fields import SIDE_STEP
from engines.verify import write_golden
from onboard.scene.grid import Window, pad_to_tile
from trainer.config import FinetuneSettings, SetSettings
from trainer.data.augment import Crop
from trainer.data.description import read_description
from trainer.data.labelled import LabelledScene, Scenes, SceneStore, stored
from trainer.data.landscape import Landscape
from trainer.data.scene_cache import scenes_of
from trainer.data.sets import LabelledSet, open_set
from trainer.data.targets import HeadCodes
from trainer.errors import SettingsRefused
from trainer.export.calibration import Evidence, calibration_of, evidence_of
from trainer.export.card import NOTES, write_card
from trainer.export.half import Ranges, measured_ranges
from trainer.export.heads import one_head
from trainer.export.in_place import put_in_place
from trainer.export.onnx import Exported, ExportPrecision, Trial, deploy_form, onnx_from_segmenter, segmenter_of
from trainer.export.provenance import described, finetuning_of, training_of
from trainer.familiarity.fit import FamiliarityRequest, add_familiarity, carry_over
from trainer.familiarity.imagery import Images
from trainer.models.deploy import DeploySegmenter, DeploySettings, with_bias
from trainer.models.segmenter import Segmenter
from trainer.profile.onnx_graph import cost_of
from trainer.training.history import history

TILE = 1024
TILE_SIDES = tuple(range(TILE // 2, TILE + 1, SIDE_STEP))
"""Sides of the tiles of a graph that takes several."""
HALO = 64
"""Pixels. Measured: 128 costs a third more tiles and gains nothing on labels (docs/benchmarks/seams.png)."""
# An engine that answers fewer pixels as recorded is refused when it opens the model.
LEAST_AGREEMENT: dict[Precision, float] = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.97, "int8": 0.95}
"""Smallest share of the golden tile's pixels with the reference's class, by precision of the engine."""
MODEL = "model.onnx"
TWIN = "probabilities.onnx"
MOST_TRIED = 16
"""Largest number of scenes for the comparison of PyTorch and ONNX: one tile of the paper's network takes seconds."""
COSTS = "int8.json"
"""File beside an INT8 model: the accuracy cost of each group of layers."""


@dataclass(frozen=True)
class CalibrationRun:
    """A run, and the images (names or globs) to calibrate its weights on; best a run trained without these images.

    ``set``: another labelled set than the run's own; its labels are translated and ambiguous ones ignored.
    """

    run: Path
    names: tuple[str, ...]
    set: str | None = None


@dataclass(frozen=True)
class FamiliarityImages:
    """Imagery for the statistics of the familiarity and for its scale; see FamiliarityRequest."""

    fit: tuple[Images, ...]
    holdout: tuple[Images, ...] = ()
    in_turn: bool = False


@dataclass(frozen=True)
class PackageRequest:
    """How to package a run.

    Attributes:
        notes: Markdown for the card.
        golden_tile: uint8 (3, tile_size, tile_size), of imagery whose licence allows redistribution.
        tile_size, halo: pixels.
        smaller_tiles: whether the graph may take smaller tiles too, where network and `tile_size` allow.
        flight: how logits become classes; the temperature in it is replaced by the fitted one.
        precisions: FP32 goes to ``out``/``name``, others to ``out``/``name``-fp16 and so on.
        twin: also write the file that gives class probabilities.
        calibration: what the temperature is fitted on; with nothing, the flight settings' stays, and none is reported.
        calibration_tiles: at most so many of each scene.
        head: which head of a run of several; the first where not given.
        gsd_m: ground resolution that scenes outside the range are read at, metres a pixel; None: that of the run's
            crops.
        gsd_range_m: lowest and highest ground resolution that the model was tested at, metres a pixel.
        terms: what the training data's terms allow, in plain words.
        familiarity: imagery that the output of that name is fitted on; None leaves it out.
    """

    run: Path
    out: Path
    name: str
    version: str
    description: str
    notes: str
    golden_tile: NDArray[np.uint8] | None = None
    tile_size: int = TILE
    halo: int = HALO
    smaller_tiles: bool = True
    deploy: DeploySettings = field(default_factory=DeploySettings)
    precisions: tuple[ExportPrecision, ...] = ("fp32",)
    twin: bool = False
    calibration: tuple[CalibrationRun, ...] = ()
    calibration_tiles: int = 4
    head: str | None = None
    gsd_m: float | None = None
    gsd_range_m: tuple[float, float] | None = None
    terms: str = ""
    familiarity: FamiliarityImages | None = None

    @property
    def tile_sides(self) -> tuple[int, ...] | None:
        """Sides that a tile may have where the network allows; None: `tile_size` alone."""
        # Half a tile is the smallest: under it halos are most of what is computed.
        return TILE_SIDES if self.smaller_tiles and self.tile_size == TILE_SIDES[-1] else None

    def folder_name(self, precision: ExportPrecision) -> str:
        """Name of the model and of its folder for that precision."""
        return self.name if precision == "fp32" else f"{self.name}-{precision}"


def package(request: PackageRequest) -> list[Manifest]:
    """Writes all model folders, or none; returns their manifests in the order of ``precisions``.

    Raises:
        CheckpointRefused: a run has no averaged weights.
        SettingsRefused: as check_request, or the scenes to calibrate on are not for that.
        ExportRefused: an ONNX file does not reproduce the network's output.
    """
    check_request(request)
    prepared = Prepared.of(request)
    # All folders are made beside their places and moved together at the end: one precision that is refused leaves none.
    with made_in(request.out) as made:
        manifests = [write_folder(prepared, precision, made) for precision in request.precisions]
        if request.familiarity is not None:
            manifests = with_familiarity(request.familiarity, [made / manifest.name for manifest in manifests])
        move_to(request.out, [made / manifest.name for manifest in manifests])
    return manifests


@contextmanager
def made_in(out: Path) -> Iterator[Path]:
    """A folder beside those to be made, which goes with what was left in it."""
    out.mkdir(parents=True, exist_ok=True)
    # Inside `out`, thus on its file system: moving is a rename.
    with tempfile.TemporaryDirectory(dir=out, prefix=".package-") as made:
        yield Path(made)


def move_to(out: Path, folders: Sequence[Path]) -> None:
    """Moves whole folders into place, all or none.

    Raises:
        OSError: a rename failed; every name has the folder that it had.
    """
    put_in_place((folder, out / folder.name) for folder in folders)


def with_familiarity(images: FamiliarityImages, folders: Sequence[Path]) -> list[Manifest]:
    """Adds the familiarity output: fitted on the first precision, copied to the others."""
    first, *others = folders
    manifests = [add_familiarity(FamiliarityRequest(first, images.fit, images.holdout, in_turn=images.in_turn))]
    return manifests + [carry_over(folder, first) for folder in others]


def check_name(name: str, option: str = "--name", thing: str = "name of a model") -> None:
    """Refuses an invalid name before the export; the manifest would refuse it only afterwards."""
    try:
        TypeAdapter(Slug).validate_python(name)
    except ValidationError as error:
        wanted = "give lower-case letters, digits and _ . -, at most 64, a letter or a digit first"
        raise SettingsRefused(option, f"{name!r} is no {thing}: {wanted}") from error


def check_version(version: str) -> None:
    """Refuses what is no version of a model, before any work as check_name does.

    Raises:
        SettingsRefused: with what a version is.
    """
    check_name(version, "--version", "version")


def check_request(request: PackageRequest) -> None:
    """Refuses before any work what the manifest would refuse after it: names, version and ground resolutions.

    Raises:
        SettingsRefused: one of them is none, or the range does not hold the run's resolution.
        CheckpointRefused: the run is no finetuning with a checkpoint.
    """
    for name in map(request.folder_name, request.precisions):
        check_name(name)
    check_version(request.version)
    if request.gsd_range_m is None:
        return
    low, high = request.gsd_range_m
    if not 0 < low <= high < math.inf:
        raise SettingsRefused("--gsd-range", f"{low:g} {high:g} is no range; give the smaller one first, in metres")
    trained = finetuning_of(history(request.run)[-1], request.run).data.gsd_m
    for gsd_m, whose in ((trained, "that the run was trained at"), (request.gsd_m, "of --gsd")):
        if gsd_m is not None and not low <= gsd_m <= high:
            raise SettingsRefused("--gsd-range", f"{low:g} to {high:g} m does not hold the {gsd_m:g} m {whose}")


@dataclass(frozen=True)
class Prepared:
    """What the folders of all precisions have in common.

    Attributes:
        deploy: with the fitted temperature.
        trial: tiles that each file is compared with PyTorch on.
        ranges: that decide the widths of FP16; None: those of the trial.
    """

    request: PackageRequest
    settings: FinetuneSettings
    segmenter: Segmenter
    deploy: DeploySettings
    calibration: Calibration | None
    trial: Trial
    scenes: SceneStore
    ranges: Ranges | None = None

    @classmethod
    def of(cls, request: PackageRequest) -> Prepared:
        """Reads the run and its images, and fits the temperature.

        Raises:
            CheckpointRefused, SettingsRefused: as :func:`package`.
        """
        settings, segmenter = one_head(*segmenter_of(request.run), request.head)
        segmenter = with_bias(segmenter, request.deploy.bias, _class_names(settings))
        # Before the files are written: the temperature becomes a constant of the graph.
        calibration = calibrated(request, settings) if request.calibration else None
        deploy = request.deploy
        if calibration is not None:
            deploy = deploy.model_copy(update={"temperature": calibration.temperature})
        scenes = scenes_of(settings.data, classes=settings.model.classes)
        trial = centre_tiles(scenes, request.tile_size)
        return cls(request, settings, segmenter, deploy, calibration, trial, scenes)

    def measured(self) -> Ranges:
        """Value ranges of the trial."""
        return measured_ranges(self.segmenter, torch.from_numpy(self.trial.tiles))


def write_folder(common: Prepared, precision: ExportPrecision, place: Path) -> Manifest:
    """Writes ``place``/NAME, the model folder of one precision."""
    request, segmenter, deploy, trial = common.request, common.segmenter, common.deploy, common.trial
    folder = place / request.folder_name(precision)
    folder.mkdir()
    calibration = calibration_tiles(common.scenes, request.tile_size) if precision.startswith("int8") else ()
    exported = onnx_from_segmenter(
        segmenter, folder / MODEL, trial=trial, settings=deploy, precision=precision, calibration=calibration,
        ranges=common.ranges, sides=request.tile_sides,
    )  # fmt: skip
    if exported.costs:
        (folder / COSTS).write_text(json.dumps([asdict(cost) for cost in exported.costs], indent=1) + "\n")
    changes: dict[str, object] = {
        "training": training_of(history(request.run), common.scenes, terms=request.terms, head=request.head),
        "calibration": common.calibration,
    }
    if request.twin and not precision.startswith("int8"):
        twin = onnx_from_segmenter(
            segmenter, folder / TWIN, trial=trial, settings=deploy, precision=precision, twin=True
        )
        changes["probabilities"] = TwinFile(**ModelFile.of(twin.path).model_dump(), agreement=twin.agreement)
    if request.golden_tile is not None:
        changes["golden"] = golden(deploy_form(segmenter, deploy), request.golden_tile, folder)
    manifest = manifest_of(common, exported).model_copy(update=changes)
    # Saved twice: the cost is counted on the folder as the engines would open it, and then is an entry of the manifest.
    manifest.save(folder)
    manifest = manifest.model_copy(update={"cost": cost_of(folder)})
    manifest.save(folder)
    (folder / NOTES).write_text(request.notes)
    write_card(manifest, folder)
    return manifest


def manifest_of(common: Prepared, exported: Exported) -> Manifest:
    """The manifest of an exported file, without provenance, accuracy and golden tile."""
    request, settings = common.request, common.settings
    return Manifest(
        name=request.folder_name(exported.precision),
        version=request.version,
        created=datetime.now(timezone.utc).replace(microsecond=0),
        description=request.description,
        architecture=" ".join(filter(None, [described(settings.model, common.deploy), exported.widths])),
        total_parameters=exported.parameters,
        model=ModelFile.of(exported.path),
        input=ModelInput(
            name="tiles",
            bands=tuple(Band(name=name, common_name=name) for name in ("red", "green", "blue")),
            tile_size=request.tile_size,
            tile_sides=exported.sides,
            value_scaling="0..255 as delivered; mean and deviation are taken out inside the graph",
        ),
        output=ModelOutput(classes="classes", confidence="confidence" if common.deploy.confidence else None),
        halo=request.halo,
        classes=tuple(
            ClassInfo(code=item.code, name=item.name, title=item.title, color=item.colour)
            for item in read_description(settings.data.set).classes
        ),
        gsd_m=settings.data.gsd_m if request.gsd_m is None else request.gsd_m,
        gsd_range_m=request.gsd_range_m,
        terms=request.terms,
        precision="int8" if exported.precision == "int8-fp16" else exported.precision,
        opset=exported.opset,
        agreement=exported.agreement,
    )


def calibrated(request: PackageRequest, settings: FinetuneSettings) -> Calibration:
    """Fits the temperature on the scenes of the request, each run's scenes with its own weights.

    Raises:
        SettingsRefused: the model has no confidence, scenes are reserved for reporting, or a run is of another network.
    """
    if not (request.deploy.confidence or request.twin):
        raise SettingsRefused("calibration", "without confidence and twin there is nothing to calibrate")
    others = 0
    evidence: list[Evidence] = []
    seen: set[str] = set()
    parts = []
    for source in request.calibration:
        labelled = open_set(source.set or settings.data.set, settings.data.root)
        names = labelled.named(source.names)
        if reserved := sorted(set(names) & reporting_only(labelled)):
            raise SettingsRefused("calibration", f"{', '.join(reserved)} of {labelled.name}: for reporting only")
        fitted, segmenter = one_head(*segmenter_of(source.run), request.head)
        # Held-out scenes need weights that were fitted without them. These are of
        # another run, and speak for this one only if the network is the same.
        if fitted.model != settings.model:
            raise SettingsRefused(str(source.run), "a run of another network: its confidence says nothing of this one")
        segmenter = with_bias(segmenter, request.deploy.bias, _class_names(settings))
        others += source.run.resolve() != request.run.resolve()
        # Of that run and of all it started from: weights remember labels of earlier stretches too.
        fitted_on = _fitted(source.run)
        seen |= {name for name in names if (labelled.name, name) in fitted_on}
        parts.append(f"{source.set or settings.data.set}: {', '.join(names)}")
        evidence += [
            evidence_of(
                segmenter, _sure_labels(labelled, name, settings.data.set), request.deploy,
                side=request.tile_size, halo=request.halo, most=request.calibration_tiles,
            )
            for name in names
        ]  # fmt: skip
    words = _evidence_in_words(request, "; ".join(parts), seen, others)
    return calibration_of(evidence, data=words, held_out=not seen)


def _class_names(settings: FinetuneSettings) -> list[str]:
    return [item.name for item in read_description(settings.data.set).classes]


def _sure_labels(labelled: LabelledSet, name: str, table: str) -> LabelledScene:
    """An image with labels in the codes of another set's class table; 0 where the translation is ambiguous."""
    scene = labelled.read(name)
    if labelled.name == table:
        return scene
    codes = HeadCodes(table, read_description(table).classes)
    return LabelledScene(scene.name, scene.pixels, codes.single_codes(labelled.description, table)[scene.labels])


def reporting_only(labelled: LabelledSet) -> set[str]:
    """Images of the set's split "test" that are at hand: they are never used for fitting.

    Raises:
        DataRefused: a list of the split cannot be read, so that nobody knows which they are.
    """
    return set(labelled.at_hand("test")) if "test" in labelled.description.splits else set()


def _fitted(run: Path) -> set[tuple[str, str]]:
    """Set and name of the images whose labels were used in training by a run or by the runs it started from."""
    fitted: set[tuple[str, str]] = set()
    for facts in history(run):
        data = finetuning_of(facts, run).data
        for item in data.sets or (SetSettings(set=data.set, split=data.split, names=data.names),):
            labelled = open_set(item.set, item.root or data.root)
            # Sets share names of images ("1", "2"): alone they tell nothing.
            names = labelled.named(item.names) if item.names else labelled.split(item.split)
            fitted.update((labelled.name, name) for name in names)
    return fitted


def _evidence_in_words(request: PackageRequest, parts: str, seen: set[str], others: int) -> str:
    words = f"{parts}, up to {request.calibration_tiles} tiles each, what a map keeps of them"
    if others == len(request.calibration):
        words += ". Not these weights: those of runs of the same network by their own schedules"
    if seen:
        return words + f". The weights were FITTED on {', '.join(sorted(seen))}: the error elsewhere is larger"
    return words + ", each mapped by weights fitted without it"


def centre_tiles(scenes: Scenes, side: int) -> Trial:
    """The central tile of some scenes with its labels, to compare PyTorch and ONNX on."""
    tiles, labels = [], []
    for index, (height, width) in _tried(stored(scenes)):
        top, left = (max(0, length - side) // 2 for length in (height, width))
        pixels, codes = _padded(stored(scenes).crop(index, _inside(height, width, side, top, left)), side)
        tiles.append(pixels)
        labels.append(codes)
    return Trial(np.stack(tiles), np.stack(labels))


def calibration_tiles(scenes: Scenes, side: int) -> list[NDArray[np.uint8]]:
    """Two random tiles of some scenes, uint8 (1, 3, S, S), to measure the value ranges for INT8."""
    tiles = []
    for index, (height, width) in _tried(stored(scenes)):
        # By the scene's number: the same command measures the same ranges, and writes the same INT8 file.
        chance = np.random.default_rng(index)
        for _ in range(2):
            top, left = (int(chance.integers(0, max(0, length - side) + 1)) for length in (height, width))
            crop = stored(scenes).crop(index, _inside(height, width, side, top, left))
            tiles.append(_padded(crop, side)[0][None])
    return tiles


def _tried(scenes: SceneStore) -> list[tuple[int, tuple[int, int]]]:
    """Numbers and sizes of up to ``MOST_TRIED`` scenes, evenly spread."""
    # Spread, since names are sorted: the first ones would often be of one place.
    numbers = np.unique(np.linspace(0, len(scenes) - 1, min(len(scenes), MOST_TRIED)).round().astype(int))
    return [(int(number), scenes.shape(int(number))) for number in numbers]


def _inside(height: int, width: int, side: int, top: int, left: int) -> Window:
    return Window(left, top, min(side, width), min(side, height))


def _padded(crop: Crop, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (3, side, side), reflected as in flight where the crop is smaller, and labels, 0 there."""
    labels = np.zeros((side, side), dtype=np.uint8)
    height, width = crop.labels.shape
    labels[:height, :width] = crop.labels
    return pad_to_tile(crop.pixels, side), labels


def golden(deploy: DeploySegmenter, tile: NDArray[np.uint8], folder: Path) -> GoldenTile:
    """Writes a tile, PyTorch's FP32 class map of it, and the packed tile for the self-check of engines.

    The crops of the packed tile are chosen by the network's output for variants of the tile: many classes, and high and
    low confidence.
    """
    pictures = variants(tile)
    with torch.inference_mode():
        outputs = [[layer.numpy() for layer in deploy(torch.from_numpy(picture[None]))] for picture in pictures]
    classes = np.concatenate([layers[0] for layers in outputs])
    confidence = np.concatenate([layers[1] for layers in outputs]) if len(outputs[0]) > 1 else None
    packed = packed_tile(pictures, classes, confidence)
    return write_golden(folder, tile=tile, classes=classes[0], least_agreement=LEAST_AGREEMENT, packed=packed)


def golden_landscape() -> NDArray[np.uint8] | None:
    """A synthetic landscape as the golden tile, since real imagery may not be redistributed; None if it cannot be made.

    The first seed from 2001 on whose tile has at least 2 % of every class, so that all classes are checked.
    """
    # Apart from the seeds of training (1001 and 1002, 3001 to 3008) and of reporting (3100).
    for seed in range(2001, 2033):
        pixels, labels = Landscape(seed).window(0, 0, TILE, TILE)
        if (np.bincount(labels.ravel(), minlength=6)[1:6] >= 0.02 * labels.size).all():
            return np.ascontiguousarray(pixels)
    return None
