"""From a finished run to a model folder: ONNX, manifest, golden tile, card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engines.manifest import (
    Band,
    ClassInfo,
    FileEntry,
    GoldenTile,
    Manifest,
    ModelFile,
    ModelInput,
    ModelOutput,
)
from trainer.card import NOTES, write_card
from trainer.checkpoint import load_weights, read_average
from trainer.config import FinetuneSettings
from trainer.data.description import read_description
from trainer.data.labelled import LabelledScene
from trainer.data.landscape import Landscape
from trainer.data.pool import scenes_of
from trainer.export import Exported, flight_form, onnx_from_segmenter
from trainer.models.flight import FlightSegmenter, FlightSettings
from trainer.models.segmenter import Segmenter
from trainer.provenance import described, history, training_of

TILE = 1024
HALO = 128
"""Pixels. Eight tokens: every kept pixel has at least half an attention window around it."""
LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.97, "int8": 0.95}
"""With the golden tile, by precision of an engine; below these an engine is not the model any more."""
MODEL = "model.onnx"
GOLDEN = "golden.npz"


@dataclass(frozen=True)
class PackageRequest:
    """What to make of a run.

    Attributes:
        notes: markdown for the card, what no figure says.
        golden_tile: uint8 (3, tile_size, tile_size), of imagery that is free to ship.
        tile_size, halo: pixels.
        flight: how logits become classes.
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


def package(request: PackageRequest) -> Manifest:
    """Write ``out``/``name`` whole, or not at all; gives its manifest.

    Raises:
        CheckpointRefused: the run has no averaged weights.
        ExportRefused: the ONNX file does not repeat the network.
    """
    stretches = history(request.run)
    settings = FinetuneSettings.model_validate(stretches[-1]["settings"])
    segmenter = Segmenter(settings.model)
    load_weights(segmenter, read_average(request.run), request.run)
    scenes = scenes_of(settings.data, classes=settings.model.classes)
    target = request.out / request.name
    request.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=request.out, prefix=".package-") as made:
        folder = Path(made) / request.name
        folder.mkdir()
        tiles = centre_tiles(scenes, request.tile_size)
        exported = onnx_from_segmenter(segmenter, folder / MODEL, tiles=tiles, settings=request.flight)
        training = training_of(stretches, scenes, agreement=exported.agreement)
        manifest = manifest_of(request, settings, exported).model_copy(update={"training": training})
        if request.golden_tile is not None:
            tile = golden(flight_form(segmenter, request.flight), request.golden_tile, folder / GOLDEN)
            manifest = manifest.model_copy(update={"golden": tile})
        manifest.save(folder)
        (folder / NOTES).write_text(request.notes)
        write_card(manifest, folder)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    return manifest


def manifest_of(request: PackageRequest, settings: FinetuneSettings, exported: Exported) -> Manifest:
    """What the exported file is, takes and gives; without provenance, figures and golden tile."""
    return Manifest(
        name=request.name,
        version=request.version,
        created=datetime.now(timezone.utc).replace(microsecond=0),
        description=request.description,
        architecture=described(settings.model, request.flight),
        total_parameters=exported.parameters,
        model=ModelFile.of(exported.path),
        input=ModelInput(
            name="tiles",
            bands=tuple(Band(name=name, common_name=name) for name in ("red", "green", "blue")),
            tile_size=request.tile_size,
            value_scaling="0..255 as delivered; mean and deviation are taken out inside the graph",
        ),
        output=ModelOutput(classes="classes", confidence="confidence"),
        halo=request.halo,
        classes=tuple(
            ClassInfo(code=item.code, name=item.name, title=item.title, color=item.colour)
            for item in read_description(settings.data.set).classes
        ),
        precision="fp32",
        opset=exported.opset,
    )


def centre_tiles(scenes: Iterable[LabelledScene], side: int) -> NDArray[np.uint8]:
    """The middle tile of each scene, uint8 (scenes, 3, side, side): real pixels to compare PyTorch and ONNX on."""
    tiles = []
    for scene in scenes:
        top, left = ((length - side) // 2 for length in scene.labels.shape)
        tiles.append(scene.pixels[:, top : top + side, left : left + side])
    return np.stack(tiles)


def golden(flight: FlightSegmenter, tile: NDArray[np.uint8], path: Path) -> GoldenTile:
    """Write a tile and PyTorch's FP32 class map of it."""
    with torch.inference_mode():
        classes = flight(torch.from_numpy(tile[None]))[0][0].numpy()
    np.savez_compressed(path, tile=tile, classes=classes)
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
