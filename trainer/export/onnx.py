"""Exports a run's averaged weights to ONNX in FP32, FP16 or INT8, with a second graph of probabilities."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.manifest import Agreement
from engines.metrics import Confusion
from trainer.config import FinetuneSettings
from trainer.errors import ExportRefused
from trainer.export.fold import folded
from trainer.export.half import Ranges, half_from_onnx, measured_ranges
from trainer.export.provenance import finetuning_of
from trainer.export.quantize import OPSET_OF_HALF_PAIRS, GroupCost, at_opset_of_half_pairs, quantized
from trainer.models.deploy import DeploySegmenter, DeploySettings, ProbabilitySegmenter
from trainer.models.segmenter import Segmenter
from trainer.models.student import Attention, Student
from trainer.profile.peak_memory import available_bytes, peak_bytes
from trainer.training.checkpoint import load_weights, read_average
from trainer.training.history import history

OPSET = 17
HIGHEST_IR = 10
"""Highest IR version that the oldest runtime on board reads. Source: ONNX Runtime 1.18 reads IR 10; TensorRT 8.6 reads
opset 17."""
LEAST_SAME = {"fp32": 0.999, "fp16": 0.995, "int8": 0.95, "int8-fp16": 0.95}
"""Smallest share of pixels with the class that PyTorch predicts in FP32, by precision (issues 3 and 6)."""
MOST_MIOU_CHANGE = {"fp32": math.inf, "fp16": 0.0005, "int8": 0.005, "int8-fp16": 0.005}
"""Largest difference of mIoU on labelled tiles from PyTorch's: 0.05 points, 0.5 in INT8 (same issues)."""
_STEP = 1 / 255
MOST_PROBABILITY_CHANGE = {"fp32": _STEP, "fp16": _STEP, "int8": 5 * _STEP, "int8-fp16": 5 * _STEP}
"""Largest mean difference of confidence or probabilities, in steps of 1/255."""

ExportPrecision = Literal["fp32", "fp16", "int8", "int8-fp16"]
"""INT8 applies to convolutions and linear layers; the rest is FP32 (for CPUs) or FP16 (for GPUs)."""


@dataclass(frozen=True)
class Trial:
    """Real tiles to compare ONNX with PyTorch on: uint8 (N, 3, h, w), and labels uint8 (N, h, w) if available."""

    tiles: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Exported:
    """An exported file that passed its comparison with PyTorch.

    Attributes:
        widths: the precision of each part of the graph, in words; empty for FP32.
        sides: that a tile may have, in pixels, rising; None where the graph is for one size.
        costs: accuracy cost of INT8, by group of layers.
    """

    path: Path
    precision: ExportPrecision
    opset: int
    ir: int
    parameters: int
    agreement: Agreement
    widths: str = ""
    costs: tuple[GroupCost, ...] = ()
    sides: tuple[int, ...] | None = None


def segmenter_of(run: Path) -> tuple[FinetuneSettings, Segmenter]:
    """Settings and network of a finished run, with the averaged weights.

    Raises:
        CheckpointRefused: the run has no facts, is none of a finetuning, or has no averaged weights of its network.
    """
    settings = finetuning_of(history(run)[-1], run)
    segmenter = Segmenter(settings.model)
    load_weights(segmenter, read_average(run), run)
    return settings, segmenter.eval()


def onnx_from_segmenter(
    segmenter: Segmenter,
    path: Path,
    *,
    trial: Trial,
    settings: DeploySettings | None = None,
    precision: ExportPrecision = "fp32",
    twin: bool = False,
    calibration: Sequence[NDArray[np.uint8]] = (),
    ranges: Ranges | None = None,
    sides: tuple[int, ...] | None = None,
) -> Exported:
    """Writes the deployed form of a network, or its probability graph, and compares it with PyTorch on real tiles.

    The batch size N is dynamic. So are height and width, where ``sides`` are given (pixels, rising) and the network
    takes them all (`DeploySegmenter.takes_any_side`); else S is that of the tiles. Batch norms are folded into
    their convolutions. INT8 takes its value ranges from ``calibration``, tiles uint8 (1, 3, S, S); FP16 from
    ``ranges``, else measured on the trial.

    Raises:
        ExportRefused: INT8 without calibration tiles; the network needs more memory on a tile than is available; the
            file is newer than the engines support; or its output differs too much from PyTorch's. No file is left.
    """
    deploy, widths = deploy_form(segmenter, settings, twin=twin), ""
    sides = sides if deploy.takes_any_side else None
    if isinstance(student := deploy.segmenter.student, Student):
        # A tile larger than the table of positions gets a table of its
        # own: else the graph would interpolate at each tile.
        student.fit_positions(*(side // student.settings.patch for side in trial.tiles.shape[2:]))
    # On meta tensors, before the exporter runs the network for real.
    _check_memory(deploy, trial.tiles.shape[2])
    # A file takes its name only after the comparison: one that differs from PyTorch is never found under it.
    partial = path.with_name(path.name + ".part")
    try:
        _write(deploy, partial, torch.from_numpy(trial.tiles[:1]), is_open=sides is not None)
        model = folded(onnx.load(partial))
        wanted_opset = OPSET
        costs: tuple[GroupCost, ...] = ()
        if precision in ("int8", "int8-fp16"):
            if not calibration:
                raise ExportRefused("INT8 needs tiles to take its ranges from")
            result = quantized(
                model, calibration, [tile[None] for tile in trial.tiles],
                None if trial.labels is None else list(trial.labels), classes=segmenter.settings.classes,
                most_loss=MOST_MIOU_CHANGE[precision],
            )  # fmt: skip
            model, widths, costs = result.model, result.described(), result.costs
        if precision == "int8-fp16":
            model, wanted_opset = at_opset_of_half_pairs(model), OPSET_OF_HALF_PAIRS
        # The quantiser reads FP32 graphs, so the widths are changed after it.
        if precision in ("fp16", "int8-fp16"):
            ranges = ranges or measured_ranges(segmenter, torch.from_numpy(trial.tiles))
            model, widths = half_from_onnx(model, ranges), " ".join(filter(None, [widths, ranges.described()]))
        onnx.save(model, partial)
        # An exporter of another version may write another opset. Engines aboard would refuse the file after its upload.
        opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if opset != wanted_opset or model.ir_version > HIGHEST_IR:
            wanted = f"opset {wanted_opset}, IR {HIGHEST_IR} or less"
            raise ExportRefused(f"opset {opset}, IR {model.ir_version}; wanted {wanted}")
        half_pairs = precision == "int8-fp16"
        agreement = agreement_of(deploy, partial, trial, segmenter.settings.classes, half_pairs=half_pairs)
        _hold(agreement, precision)
        if sides is not None:
            smaller = Trial(trial.tiles[:1, :, : sides[0], : sides[len(sides) // 2]])
            _hold(_agreement_on_smaller(deploy, partial, smaller, segmenter.settings.classes, half_pairs), precision)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return Exported(
        path=path,
        precision=precision,
        opset=opset,
        ir=model.ir_version,
        parameters=sum(parameter.numel() for parameter in segmenter.parameters()),
        agreement=agreement,
        widths=widths,
        costs=costs,
        sides=sides,
    )


def _check_memory(deploy: DeploySegmenter, side: int) -> None:
    """Refuses a network that needs too much memory on one tile: the kernel would kill the process without a message."""
    needed, available = peak_bytes(deploy, (1, 3, side, side)), available_bytes()
    if available is not None and needed > available:
        raise ExportRefused(
            f"on a tile of {side} x {side} pixels the network takes {needed / 2**30:.1f} GiB of memory at least, and "
            f"{available / 2**30:.1f} GiB are free: export it on a larger machine, or make it smaller (fewer "
            "global_blocks, a larger patch)"
        )


def deploy_form(segmenter: Segmenter, settings: DeploySettings | None = None, *, twin: bool = False) -> DeploySegmenter:
    """A copy for inference, with attention written as the matrix products that engines fuse."""
    kind = ProbabilitySegmenter if twin else DeploySegmenter
    deploy = kind(copy.deepcopy(segmenter), settings).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in deploy.modules():
        # What the exporter makes of torch's own attention is not the form that engines fuse.
        if isinstance(module, Attention):
            module.explicit = True
    return deploy  # type: ignore[no-any-return]


def agreement_of(
    deploy: DeploySegmenter, path: Path, trial: Trial, classes: int, *, half_pairs: bool = False
) -> Agreement:
    """Agreement of an ONNX file on ONNX Runtime (CPU) with a network of ``classes`` classes in PyTorch.

    In a probability graph the class of a pixel is its most probable one. ``half_pairs``: the INT8 pairs are FP16.
    """
    options = onnxruntime.SessionOptions()
    if half_pairs:
        # Its optimiser multiplies the scales of a layer's pairs in FP16, where the product underflows: 44 % of the
        # golden tile's pixels were right with it, 98 % without. TensorRT keeps such products in FP32.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    same, change, wanted, given = 0.0, 0.0, Confusion(classes), Confusion(classes)
    # One tile at a time: the paper's network takes seconds and much memory for each.
    for number, tile in enumerate(trial.tiles):
        with torch.inference_mode():
            expected = _classes_and_sureness([layer.numpy() for layer in deploy(torch.from_numpy(tile[None]))])
        predicted = _classes_and_sureness(session.run(None, {"tiles": tile[None]}))
        same += float((predicted[0] == expected[0]).mean())
        change += float(np.abs(predicted[1] - expected[1]).mean())
        if trial.labels is not None:
            wanted.add(trial.labels[number], expected[0])
            given.add(trial.labels[number], predicted[0])
    count = len(trial.tiles)
    scored = trial.labels is not None and bool((trial.labels > 0).any())
    return Agreement(
        tiles=count,
        same_class=same / count,
        probability_change=None if math.isnan(change) else change / count,
        reference_miou=wanted.scores().miou if scored else None,
        miou=given.scores().miou if scored else None,
    )


def _agreement_on_smaller(
    deploy: DeploySegmenter, path: Path, trial: Trial, classes: int, half_pairs: bool
) -> Agreement:
    """Agreement on a rectangle that is smaller than the traced tile: a size of that one, left in the graph, shows here.

    Raises:
        ExportRefused: the runtime cannot run it.
    """
    try:
        return agreement_of(deploy, path, trial, classes, half_pairs=half_pairs)
    except Exception as error:  # the runtime's own, which have no base class of their own
        height, width = trial.tiles.shape[2:]
        raise ExportRefused(
            f"the graph was to take tiles of several sides, and fails at {height} x {width} pixels: {error}"
        ) from error


def _classes_and_sureness(outputs: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes uint8 (S, S) of one tile and their probabilities 0..1; NaN where the graph gives none."""
    first = outputs[0][0]
    if first.ndim == 3:  # a twin: (K, S, S)
        return (first.argmax(axis=0) + 1).astype(np.uint8), first.astype(np.float32)
    sure = outputs[1][0].astype(np.float32) / 255 if len(outputs) > 1 else np.full(first.shape, np.nan, np.float32)
    return first, sure


def _hold(agreement: Agreement, precision: ExportPrecision) -> None:
    """Raises ExportRefused where a file differs too much from PyTorch."""
    # Not `<`: every comparison with NaN is false, and a file whose figures are NaN must be refused too.
    if not agreement.same_class >= LEAST_SAME[precision]:
        raise ExportRefused(
            f"PyTorch and ONNX in {precision.upper()} agree on {agreement.same_class:.4%} of pixels, "
            f"{LEAST_SAME[precision]:.1%} needed"
        )
    if agreement.miou is not None and agreement.reference_miou is not None:
        change = agreement.miou - agreement.reference_miou
        # Up or down: a gain on these tiles is a change as well, and they are tiles that were fitted to.
        if not abs(change) <= MOST_MIOU_CHANGE[precision]:
            raise ExportRefused(
                f"mIoU in {precision.upper()} is {100 * change:+.3f} points off PyTorch's, "
                f"{100 * MOST_MIOU_CHANGE[precision]:.2f} allowed"
            )
    most = MOST_PROBABILITY_CHANGE[precision]
    if agreement.probability_change is not None and not agreement.probability_change <= most:
        raise ExportRefused(
            f"probabilities in {precision.upper()} differ from PyTorch's by {agreement.probability_change:.4f} in the "
            f"mean, {most:.4f} allowed"
        )


def output_names(deploy: DeploySegmenter) -> tuple[str, ...]:
    """Of the graph's outputs, in their order."""
    if isinstance(deploy, ProbabilitySegmenter):
        return ("probabilities",)
    return ("classes", "confidence") if deploy.settings.confidence else ("classes",)


def _write(deploy: DeploySegmenter, path: Path, tile: Tensor, *, is_open: bool) -> None:
    outputs = output_names(deploy)
    axes = {name: {0: "N"} for name in ("tiles", *outputs)}
    if is_open:
        axes["tiles"] |= {2: "H", 3: "W"}
        for name in outputs:
            axes[name] |= {1: "H", 2: "W"}
    with warnings.catch_warnings():
        # The tracer warns of every size that it takes as a constant (intended), and that it is the older exporter:
        # the newer one writes opset 18 and converts down, which leaves it unsure of LayerNormalization.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            deploy,
            (tile,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["tiles"],
            output_names=list(outputs),
            dynamic_axes=axes,
            do_constant_folding=True,
        )
