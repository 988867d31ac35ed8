"""A tiny convolutional network as the exporter writes it: its graph takes tiles of several sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engines.manifest import Manifest, ModelFile
from tests.tiny_model import manifest_of
from trainer.export.onnx import ExportPrecision, Trial, onnx_from_segmenter
from trainer.models.deploy import DeploySettings
from trainer.models.plain import FpnSettings, PlainSettings
from trainer.models.segmenter import Segmenter, SegmenterSettings

SIDES = (512, 768, 1024)
FLIES = DeploySettings(prior=0)


def network(classes: int = 4, *, seed: int = 0, stride: int = 4) -> Segmenter:
    """Not trained, of eight channels; no class is ahead of the others everywhere."""
    torch.manual_seed(seed)
    settings = SegmenterSettings(
        student=PlainSettings(kind="plain", widths=(8, 8, 8, 8, 8), blocks=(0, 0, 1, 0)),
        decoder=FpnSettings(kind="fpn", widths=(8, 8, 8, 8), stride=stride),
        classes=classes,
    )
    made = Segmenter(settings).eval()
    with torch.no_grad(), torch.inference_mode():
        bias = made(torch.from_numpy(ground(9, 256)[None]).float()).mean(dim=(0, 2, 3))
    with torch.no_grad():
        assert isinstance(made.decoder.classifier.bias, torch.Tensor)
        made.decoder.classifier.bias.sub_(bias)
    return made


def ground(seed: int, side: int = 1024) -> NDArray[np.uint8]:
    """Squares of 16 pixels in colours of their own, (3, side, side)."""
    cells = np.random.default_rng(seed).integers(0, 256, (3, side // 16, side // 16), dtype=np.uint8)
    return cells.repeat(16, axis=1).repeat(16, axis=2)


def write_convolutional(folder: Path, *, precision: ExportPrecision = "fp32") -> Manifest:
    """Writes folder/model.onnx and its manifest, which names the sides."""
    folder.mkdir(parents=True)
    exported = onnx_from_segmenter(
        network(), folder / "model.onnx", trial=Trial(ground(0)[None]), settings=FLIES, precision=precision, sides=SIDES
    )
    plain = manifest_of(folder)
    manifest = manifest_of(
        folder, model=ModelFile.of(exported.path), halo=64, precision=precision,
        input=plain.input.model_copy(update={"tile_size": SIDES[-1], "tile_sides": exported.sides}),
    )  # fmt: skip
    manifest.save(folder)
    return manifest
