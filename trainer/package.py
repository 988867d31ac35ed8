"""From a finished run to model folders, one a precision: ONNX, its twin, manifest, golden tile, card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from engines.manifest import (
    Band,
    Calibration,
    ClassInfo,
    FileEntry,
    GoldenTile,
    Manifest,
    ModelFile,
    ModelInput,
    ModelOutput,
    Slug,
    TwinFile,
)
from engines.packed_tile import packed_tile, variants
from onboard.scene.grid import Window, pad_to_tile
from trainer.calibration import Evidence, calibration_of, evidence_of
from trainer.card import NOTES, write_card
from trainer.config import FinetuneSettings
from trainer.data.augment import Crop
from trainer.data.description import read_description
from trainer.data.labelled import LabelledScene, Scenes, SceneStore, stored
from trainer.data.landscape import Landscape
from trainer.data.pool import names_of, scenes_of
from trainer.data.sets import LabelledSet, open_set
from trainer.data.targets import HeadCodes
from trainer.errors import DataMissing, DataRefused, SettingsRefused
from trainer.export import Exported, ExportPrecision, Trial, flight_form, onnx_from_segmenter, segmenter_of
from trainer.familiarity.fit import FamiliarityRequest, add_familiarity, carry_over
from trainer.familiarity.imagery import Images
from trainer.heads import one_head
from trainer.models.flight import FlightSegmenter, FlightSettings
from trainer.models.segmenter import Segmenter
from trainer.profile_onnx import cost_of
from trainer.provenance import described, finetuning_of, history, training_of

TILE = 1024
HALO = 64
"""Pixels. Measured: 128 costs a third more tiles and gains nothing on labels (docs/benchmarks/seams.png)."""
LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.97, "int8": 0.95}
"""With the golden tile, by precision of an engine; below these an engine is not the model any more."""
MODEL = "model.onnx"
TWIN = "probabilities.onnx"
GOLDEN = "golden.npz"
MOST_TRIED = 16
"""Scenes that PyTorch and ONNX are compared on: a tile of the paper's network takes seconds on a CPU, twice a file."""
COSTS = "int8.json"
"""What each group of layers costs in INT8, beside such a model."""


@dataclass(frozen=True)
class CalibrationRun:
    """A run, and the images (names or globs) its weights are to be calibrated on; best a run fitted without them.

    ``set`` is another labelled set than the run's own, whose labels are translated; what they are unsure of is ignored.
    """

    run: Path
    names: tuple[str, ...]
    set: str | None = None


@dataclass(frozen=True)
class FamiliarityImages:
    """What the familiarity is fitted on, and what its scale is set by: see FamiliarityRequest."""

    fit: tuple[Images, ...]
    holdout: tuple[Images, ...] = ()
    in_turn: bool = False


@dataclass(frozen=True)
class PackageRequest:
    """What to make of a run.

    Attributes:
        notes: markdown for the card, what no figure says.
        golden_tile: uint8 (3, tile_size, tile_size), of imagery that is free to ship.
        tile_size, halo: pixels.
        flight: how logits become classes; the temperature in it is replaced by the fitted one.
        precisions: FP32 goes to ``out``/``name``, others to ``out``/``name``-fp16 and so on.
        twin: also write the file that gives class probabilities.
        calibration: what the temperature is fitted on; with nothing, the flight settings' stays, and none is reported.
        calibration_tiles: at most so many of each scene.
        head: which head of a run of several; the first where not given.
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
    flight: FlightSettings = field(default_factory=FlightSettings)
    precisions: tuple[ExportPrecision, ...] = ("fp32",)
    twin: bool = False
    calibration: tuple[CalibrationRun, ...] = ()
    calibration_tiles: int = 4
    head: str | None = None
    gsd_range_m: tuple[float, float] | None = None
    terms: str = ""
    familiarity: FamiliarityImages | None = None

    def folder_name(self, precision: ExportPrecision) -> str:
        """Of the model folder of that precision, and the model's name."""
        return self.name if precision == "fp32" else f"{self.name}-{precision}"


def package(request: PackageRequest) -> list[Manifest]:
    """Write every model folder whole, or none; gives their manifests in the order of ``precisions``.

    Raises:
        CheckpointRefused: a run has no averaged weights.
        SettingsRefused: the name is not one for a model, or the scenes to calibrate on are not for that.
        ExportRefused: an ONNX file does not repeat the network.
    """
    for name in map(request.folder_name, request.precisions):
        _check_name(name)
    settings, segmenter = one_head(*segmenter_of(request.run), request.head)
    calibration = calibrated(request, settings) if request.calibration else None
    flight = request.flight
    if calibration is not None:
        flight = flight.model_copy(update={"temperature": calibration.temperature})
    scenes = scenes_of(settings.data, classes=settings.model.classes)
    common = _Common(
        request, settings, segmenter, flight, calibration, trial=centre_tiles(scenes, request.tile_size), scenes=scenes
    )
    request.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=request.out, prefix=".package-") as made:
        manifests = [_write_folder(common, precision, Path(made)) for precision in request.precisions]
        if request.familiarity is not None:
            manifests = _with_familiarity(request.familiarity, [Path(made) / manifest.name for manifest in manifests])
        for manifest in manifests:
            target = request.out / manifest.name
            if target.exists():  # aside, to be removed with the rest: never half a folder under the model's name
                target.rename(Path(made) / f"{manifest.name}.before")
            (Path(made) / manifest.name).rename(target)
    return manifests


def _with_familiarity(images: FamiliarityImages, folders: Sequence[Path]) -> list[Manifest]:
    """Fitted on the first precision, carried over to the others."""
    first, *others = folders
    manifests = [add_familiarity(FamiliarityRequest(first, images.fit, images.holdout, in_turn=images.in_turn))]
    return manifests + [carry_over(folder, first) for folder in others]


def _check_name(name: str) -> None:
    """The manifest would refuse it too, but only after the export."""
    try:
        TypeAdapter(Slug).validate_python(name)
    except ValidationError as error:
        wanted = "a name is lower-case letters, digits and _ . -, at most 64 of them"
        raise SettingsRefused("--name", f"{name!r} is no name of a model: {wanted}") from error


@dataclass(frozen=True)
class _Common:
    """What the folders of all precisions are made of."""

    request: PackageRequest
    settings: FinetuneSettings
    segmenter: Segmenter
    flight: FlightSettings
    calibration: Calibration | None
    trial: Trial
    scenes: SceneStore


def _write_folder(common: _Common, precision: ExportPrecision, place: Path) -> Manifest:
    request, segmenter, flight, trial = common.request, common.segmenter, common.flight, common.trial
    folder = place / request.folder_name(precision)
    folder.mkdir()
    calibration = calibration_tiles(common.scenes, request.tile_size) if precision.startswith("int8") else ()
    exported = onnx_from_segmenter(
        segmenter, folder / MODEL, trial=trial, settings=flight, precision=precision, calibration=calibration
    )
    if exported.costs:
        (folder / COSTS).write_text(json.dumps([asdict(cost) for cost in exported.costs], indent=1) + "\n")
    changes: dict[str, object] = {
        "training": training_of(history(request.run), common.scenes),
        "calibration": common.calibration,
    }
    if request.twin and not precision.startswith("int8"):
        twin = onnx_from_segmenter(
            segmenter, folder / TWIN, trial=trial, settings=flight, precision=precision, twin=True
        )
        changes["probabilities"] = TwinFile(**ModelFile.of(twin.path).model_dump(), agreement=twin.agreement)
    if request.golden_tile is not None:
        changes["golden"] = golden(flight_form(segmenter, flight), request.golden_tile, folder / GOLDEN)
    manifest = manifest_of(common, exported).model_copy(update=changes)
    manifest.save(folder)
    manifest = manifest.model_copy(update={"cost": cost_of(folder)})
    manifest.save(folder)
    (folder / NOTES).write_text(request.notes)
    write_card(manifest, folder)
    return manifest


def manifest_of(common: _Common, exported: Exported) -> Manifest:
    """What the exported file is, takes and gives; without provenance, figures and golden tile."""
    request, settings = common.request, common.settings
    return Manifest(
        name=request.folder_name(exported.precision),
        version=request.version,
        created=datetime.now(timezone.utc).replace(microsecond=0),
        description=request.description,
        architecture=" ".join(filter(None, [described(settings.model, common.flight), exported.widths])),
        total_parameters=exported.parameters,
        model=ModelFile.of(exported.path),
        input=ModelInput(
            name="tiles",
            bands=tuple(Band(name=name, common_name=name) for name in ("red", "green", "blue")),
            tile_size=request.tile_size,
            value_scaling="0..255 as delivered; mean and deviation are taken out inside the graph",
        ),
        output=ModelOutput(classes="classes", confidence="confidence" if common.flight.confidence else None),
        halo=request.halo,
        classes=tuple(
            ClassInfo(code=item.code, name=item.name, title=item.title, color=item.colour)
            for item in read_description(settings.data.set).classes
        ),
        gsd_m=settings.data.gsd_m,
        gsd_range_m=request.gsd_range_m,
        terms=request.terms,
        precision="int8" if exported.precision == "int8-fp16" else exported.precision,
        opset=exported.opset,
        agreement=exported.agreement,
    )


def calibrated(request: PackageRequest, settings: FinetuneSettings) -> Calibration:
    """Fit the temperature on the scenes of the request, each run's by its own weights, in the order given.

    Raises:
        SettingsRefused: nothing would be tempered, scenes are for reporting only, or a run is of another network.
    """
    if not (request.flight.confidence or request.twin):
        raise SettingsRefused("calibration", "without confidence and twin there is nothing to calibrate")
    others = 0
    evidence: list[Evidence] = []
    seen: set[str] = set()
    for source in request.calibration:
        labelled = open_set(source.set or settings.data.set, settings.data.root)
        names = labelled.named(source.names)
        if kept := sorted(set(names) & reporting_only(labelled)):
            raise SettingsRefused("calibration", f"{', '.join(kept)} of {labelled.name}: for reporting only")
        fitted, segmenter = one_head(*segmenter_of(source.run), request.head)
        if fitted.model != settings.model:
            raise SettingsRefused(str(source.run), "a run of another network: its confidence says nothing of this one")
        others += source.run.resolve() != request.run.resolve()
        seen |= _names_fitted(source.run) & set(names)
        evidence += [
            evidence_of(
                segmenter, _sure_labels(labelled, name, settings.data.set), request.flight,
                side=request.tile_size, halo=request.halo, most=request.calibration_tiles,
            )
            for name in names
        ]  # fmt: skip
    words = _evidence_in_words(request, settings.data.set, seen, others)
    return calibration_of(evidence, data=words, held_out=not seen)


def _sure_labels(labelled: LabelledSet, name: str, table: str) -> LabelledScene:
    """An image with its labels in the codes of another set's class table, 0 where they are not one class of it."""
    scene = labelled.read(name)
    if labelled.name == table:
        return scene
    codes = HeadCodes(table, read_description(table).classes)
    single = codes.table_of(labelled.description, table).copy()
    single[single > len(codes.classes)] = 0
    return LabelledScene(scene.name, scene.pixels, single[scene.labels])


def reporting_only(labelled: LabelledSet) -> set[str]:
    """Images of the set's split "test": nothing is fitted on them."""
    if "test" not in labelled.description.splits:
        return set()
    try:
        return set(labelled.split("test"))
    except (DataMissing, DataRefused):
        return set()  # none of them is at hand


def _names_fitted(run: Path) -> set[str]:
    """Images whose labels a run has seen, or a run that it started from."""
    names: set[str] = set()
    for facts in history(run):
        data = finetuning_of(facts, run).data
        for item in data.sets:
            names.update(names_of(data.model_copy(update={"set": item.set, "split": item.split, "names": item.names})))
        if not data.sets:
            names.update(names_of(data))
    return names


def _evidence_in_words(request: PackageRequest, own: str, seen: set[str], others: int) -> str:
    parts = "; ".join(
        f"{source.set or own}: {', '.join(open_set(source.set or own).named(source.names))}"
        for source in request.calibration
    )
    words = f"{parts}, up to {request.calibration_tiles} tiles each, what a map keeps of them"
    if others == len(request.calibration):
        words += ". Not these weights: those of runs of the same network by their own schedules"
    if seen:
        return words + f". The weights were FITTED on {', '.join(sorted(seen))}: the error elsewhere is larger"
    return words + ", each mapped by weights fitted without it"


def centre_tiles(scenes: Scenes, side: int) -> Trial:
    """The middle tile of some scenes with its labels: real pixels to compare PyTorch and ONNX on."""
    tiles, labels = [], []
    for index, (height, width) in _tried(stored(scenes)):
        top, left = (max(0, length - side) // 2 for length in (height, width))
        pixels, codes = _padded(stored(scenes).crop(index, _inside(height, width, side, top, left)), side)
        tiles.append(pixels)
        labels.append(codes)
    return Trial(np.stack(tiles), np.stack(labels))


def calibration_tiles(scenes: Scenes, side: int) -> list[NDArray[np.uint8]]:
    """Two tiles of some scenes, uint8 (1, 3, S, S), drawn anywhere: real pixels to take INT8's ranges from."""
    found = []
    for index, (height, width) in _tried(stored(scenes)):
        chance = np.random.default_rng(index)
        for _ in range(2):
            top, left = (int(chance.integers(0, max(0, length - side) + 1)) for length in (height, width))
            crop = stored(scenes).crop(index, _inside(height, width, side, top, left))
            found.append(_padded(crop, side)[0][None])
    return found


def _tried(scenes: SceneStore) -> list[tuple[int, tuple[int, int]]]:
    """Numbers and sizes of up to ``MOST_TRIED`` scenes, evenly spread."""
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


def golden(flight: FlightSegmenter, tile: NDArray[np.uint8], path: Path) -> GoldenTile:
    """Write a tile, PyTorch's FP32 class map of it, and the packed tile that engines are compared with themselves on.

    The packed tile's crops are chosen by what the network says of the tile's variants: many classes, sure and unsure.
    """
    pictures = variants(tile)
    with torch.inference_mode():
        outputs = [[layer.numpy() for layer in flight(torch.from_numpy(picture[None]))] for picture in pictures]
    classes = np.concatenate([layers[0] for layers in outputs])
    confidence = np.concatenate([layers[1] for layers in outputs]) if len(outputs[0]) > 1 else None
    np.savez_compressed(path, tile=tile, classes=classes[0], packed=packed_tile(pictures, classes, confidence))
    entry: FileEntry = ModelFile.of(path)
    return GoldenTile.model_validate({"file": entry.file, "sha256": entry.sha256, "least_agreement": LEAST_AGREEMENT})


def golden_landscape() -> NDArray[np.uint8] | None:
    """A made landscape to check engines on, real imagery being not ours to ship; None where it cannot be made.

    The first of the seeds from 2001 on whose tile has 2 % or more of every class: a map of one class checks nothing.
    """
    for seed in range(2001, 2033):
        pixels, labels = Landscape(seed).window(0, 0, TILE, TILE)
        if (np.bincount(labels.ravel(), minlength=6)[1:6] >= 0.02 * labels.size).all():
            return np.ascontiguousarray(pixels)
    return None
