"""From a run's averaged weights to the ONNX file that flies."""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.errors import ExportRefused
from trainer.models.flight import FlightSegmenter, FlightSettings
from trainer.models.segmenter import Segmenter
from trainer.models.student import Attention

log = logging.getLogger(__name__)

OPSET = 17
HIGHEST_IR = 10
"""What the oldest runtime aboard reads. Source: ONNX Runtime 1.18 reads IR 10; TensorRT 8.6 reads opset 17."""
LEAST_AGREEMENT = 0.999
"""Share of pixels on which PyTorch and ONNX must agree (issue 2)."""


@dataclass(frozen=True)
class Exported:
    """An exported file; ``agreement`` is the share of pixels equal to the network's over the tiles it was tried on."""

    path: Path
    opset: int
    ir: int
    parameters: int
    agreement: float


def onnx_from_segmenter(
    segmenter: Segmenter, path: Path, *, tiles: NDArray[np.uint8], settings: FlightSettings | None = None
) -> Exported:
    """Write the flight form of a network, and try it on real tiles uint8 (N, 3, S, S).

    Only N stays open in the file; S is that of the tiles. Batch norms are folded into their convolutions.

    Raises:
        ExportRefused: the file is newer than the engines read, or agrees with PyTorch on too few pixels. No file is
            left behind.
    """
    flight = flight_form(segmenter, settings)
    partial = path.with_name(path.name + ".part")
    try:
        _write(flight, partial, torch.from_numpy(tiles[:1]))
        model = onnx.load(partial)
        opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if opset != OPSET or model.ir_version > HIGHEST_IR:
            raise ExportRefused(f"opset {opset}, IR {model.ir_version}; wanted opset {OPSET}, IR {HIGHEST_IR} or less")
        agreement = agreement_of(flight, partial, tiles)
        if agreement < LEAST_AGREEMENT:
            raise ExportRefused(f"PyTorch and ONNX agree on {agreement:.4%} of pixels, {LEAST_AGREEMENT:.1%} needed")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    parameters = sum(parameter.numel() for parameter in segmenter.parameters())
    return Exported(path=path, opset=opset, ir=model.ir_version, parameters=parameters, agreement=agreement)


def flight_form(segmenter: Segmenter, settings: FlightSettings | None = None) -> FlightSegmenter:
    """A copy that infers, with attention written out in products the engines fuse."""
    flight = FlightSegmenter(copy.deepcopy(segmenter), settings).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in flight.modules():
        if isinstance(module, Attention):
            module.explicit = True
    return flight  # type: ignore[no-any-return]


def agreement_of(flight: FlightSegmenter, path: Path, tiles: NDArray[np.uint8]) -> float:
    """Share of pixels with the same class in PyTorch (FP32) and ONNX Runtime (CPU)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    same = 0
    for tile in tiles:
        with torch.inference_mode():
            expected = flight(torch.from_numpy(tile[None]))[0].numpy()
        same += int((session.run(["classes"], {"tiles": tile[None]})[0] == expected).sum())
    return same / int(tiles.size // tiles.shape[1])


def _write(flight: FlightSegmenter, path: Path, tile: Tensor) -> None:
    names = ("tiles", "classes", "confidence")
    with warnings.catch_warnings():
        # The tracer warns of every size it takes as a constant (wanted), and that it is the older of two exporters:
        # the newer one writes opset 18 and converts down, which leaves it unsure of LayerNormalization.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            flight,
            (tile,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "N"} for name in names},
            do_constant_folding=True,
        )
