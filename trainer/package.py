"""From a finished run to a model folder: ONNX, manifest, golden tile, card."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engines.manifest import (
    Band,
    ClassInfo,
    DataSet,
    FileEntry,
    GoldenTile,
    Manifest,
    ModelFile,
    ModelInput,
    ModelOutput,
    Training,
)
from trainer.card import NOTES, write_card
from trainer.checkpoint import FACTS, load_weights, read_average
from trainer.config import FitSettings
from trainer.data.labelled import DATASETS, LabelledScene, data_root, read_scenes
from trainer.data.landscape import Landscape
from trainer.errors import CheckpointRefused
from trainer.export import flight_form, onnx_from_segmenter
from trainer.models.segmenter import Segmenter, SegmenterSettings

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


def package(request: PackageRequest) -> Manifest:
    """Write ``out``/``name`` whole, or not at all; gives its manifest.

    Raises:
        CheckpointRefused: the run has no averaged weights.
        ExportRefused: the ONNX file does not repeat the network.
    """
    stretches = history(request.run)
    settings = FitSettings.model_validate(stretches[-1]["settings"])
    segmenter = Segmenter(settings.model)
    load_weights(segmenter, read_average(request.run), request.run)
    scenes = read_scenes(data_root(settings.data.root), settings.data.dataset, settings.data.scenes)
    target = request.out / request.name
    request.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=request.out, prefix=".package-") as made:
        folder = Path(made) / request.name
        folder.mkdir()
        exported = onnx_from_segmenter(segmenter, folder / MODEL, tiles=centre_tiles(scenes, request.tile_size))
        manifest = Manifest(
            name=request.name,
            version=request.version,
            created=datetime.now(timezone.utc).replace(microsecond=0),
            description=request.description,
            architecture=described(settings.model),
            total_parameters=sum(parameter.numel() for parameter in segmenter.parameters()),
            model=ModelFile.of(folder / MODEL),
            input=ModelInput(
                name="tiles",
                bands=tuple(Band(name=name, common_name=name) for name in ("red", "green", "blue")),
                tile_size=request.tile_size,
                value_scaling="0..255 as delivered; mean and deviation are taken out inside the graph",
            ),
            output=ModelOutput(classes="classes", confidence="confidence"),
            halo=request.halo,
            classes=tuple(
                ClassInfo(code=item.code, name=item.name, title=item.title, color=item.color)
                for item in DATASETS[settings.data.dataset]
            ),
            precision="fp32",
            opset=exported.opset,
            training=training_of(stretches, scenes, agreement=exported.agreement),
            golden=None if request.golden_tile is None else golden(segmenter, request.golden_tile, folder / GOLDEN),
        )
        manifest.save(folder)
        (folder / NOTES).write_text(request.notes)
        write_card(manifest, folder)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    return manifest


def history(run: Path) -> list[dict[str, Any]]:
    """Facts of a run and of those it started from, the oldest first.

    Raises:
        CheckpointRefused: a run has no facts.
    """
    path = run / FACTS
    if not path.is_file():
        raise CheckpointRefused(run, f"no {FACTS} in it")
    facts: dict[str, Any] = json.loads(path.read_text())
    earlier = facts["settings"].get("start_from")
    return [*(history(Path(earlier)) if earlier else []), facts]


def training_of(stretches: list[dict[str, Any]], scenes: list[LabelledScene], *, agreement: float) -> Training:
    """Provenance of the weights."""
    settings = FitSettings.model_validate(stretches[-1]["settings"])
    labelled = sum(int((scene.labels > 0).sum()) for scene in scenes)
    names = ", ".join(scene.name.split("/")[-1] for scene in scenes)
    share = max(facts["settings"]["data"].get("landscape_share", 0.0) for facts in stretches)
    made = [
        DataSet(
            name="Landscapes made by rule (trainer/data/landscape.py)", license="MIT", use=f"{share:.0%} of the crops"
        )
    ] * (share > 0)
    minutes = sum(facts["seconds"] for facts in stretches) / 60
    return Training(
        data_sets=(
            DataSet(
                name="Semantic segmentation of aerial imagery, MBRSC and Humans in the Loop",
                license="CC0",
                use=f"supervised fit on scenes {names}",
            ),
            *made,
        ),
        license="MIT",
        commit=commit(),
        seed=settings.seed,
        epochs=round(sum(facts["pixels"] for facts in stretches) / labelled, 2),
        hyperparameters={
            "optimiser": "AdamW, betas 0.9 and 0.98",
            "learning_rate": ", then ".join(str(facts["settings"]["learning_rate"]) for facts in stretches),
            "schedule": "linear warm-up, half a cosine",
            "weight_decay": settings.weight_decay,
            "loss": f"cross-entropy weighted by share^-{settings.class_weight_power} + {settings.dice} x dice",
            "weight_average": settings.average,
            "steps": sum(facts["step"] for facts in stretches),
            "crops": sum(facts["crops"] for facts in stretches),
            "crop_sizes": ", then ".join(
                " ".join(str(stage["crop"]) for stage in facts["settings"]["stages"]) for facts in stretches
            ),
            "scale_augmentation": f"{settings.data.scale[0]} to {settings.data.scale[1]}",
            "class_balanced_share": settings.data.balanced,
            "minutes": round(minutes),
            "stretches": len(stretches),
            "pytorch_onnx_agreement": round(agreement, 6),
        },
        notes=f"Supervised, from random weights, {minutes:.0f} minutes on two CPU cores in {len(stretches)} "
        f"stretch{'es' if len(stretches) > 1 else ''}, each annealed to the end; exponential average of the weights.",
    )


def described(model: SegmenterSettings) -> str:
    """The network in a sentence."""
    student, decoder = model.student, model.decoder
    blocks = ", ".join(str(block) for block in student.global_blocks)
    return (
        f"ViT student: {student.stem} stem {student.stem_widths} at strides 2, 4, 8 with {student.stem_blocks} "
        f"residual blocks at 4 and 8, {student.depth} blocks of width {student.width}, {student.heads} heads, MLP "
        f"{student.mlp_ratio:g}, windows of {student.window} tokens, blocks {blocks} global with keys and values "
        f"averaged over {student.kv_pool}x{student.kv_pool}; UPerNet of width {decoder.width} at stride 16"
        + (f", {decoder.detail_widths[0]} at 8 and {decoder.detail_widths[1]} at 4." if decoder.detail_widths else ".")
    )


def centre_tiles(scenes: list[LabelledScene], side: int) -> NDArray[np.uint8]:
    """The middle tile of each scene, uint8 (scenes, 3, side, side): real pixels to compare PyTorch and ONNX on."""
    tiles = []
    for scene in scenes:
        top, left = ((length - side) // 2 for length in scene.labels.shape)
        tiles.append(scene.pixels[:, top : top + side, left : left + side])
    return np.stack(tiles)


def golden(segmenter: Segmenter, tile: NDArray[np.uint8], path: Path) -> GoldenTile:
    """Write a tile and PyTorch's FP32 class map of it."""
    with torch.inference_mode():
        classes = flight_form(segmenter)(torch.from_numpy(tile[None]))[0][0].numpy()
    np.savez_compressed(path, tile=tile, classes=classes)
    entry: FileEntry = ModelFile.of(path)
    return GoldenTile.model_validate({"file": entry.file, "sha256": entry.sha256, "least_agreement": LEAST_AGREEMENT})


def commit() -> str:
    """Of the checkout this runs from; "unknown" where there is none."""
    answer = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 -- git as the PATH has it
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def golden_landscape() -> NDArray[np.uint8] | None:
    """A made landscape to check engines on, real imagery being not ours to ship; None where it cannot be made.

    The first of the seeds from 2001 on whose tile has 2 % or more of every class: a map of one class checks nothing.
    """
    for seed in range(2001, 2033):
        pixels, labels = Landscape(seed).window(0, 0, TILE, TILE)
        if (np.bincount(labels.ravel(), minlength=6)[1:6] >= 0.02 * labels.size).all():
            return np.ascontiguousarray(pixels)
    return None
