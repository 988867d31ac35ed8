"""INT8 post-training quantisation: Q/DQ pairs on convolutions and linear layers of an exported graph.

Symmetric, weights by channel, activations by tensor, only where they enter a layer: sums, norms, softmax and the
products of attention stay as they were, as TensorRT wants it (its guide, "Explicit quantization"). Ranges are the
largest magnitudes over real tiles. What each group of layers costs is measured alone: one that changes many pixels is
left out, and while the whole costs too much, the dearest of the others.

The Q/DQ pairs are written by ONNX Runtime's quantiser. NVIDIA's modelopt does the same and brings a copy of torch
with CUDA along.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from engines.metrics import Confusion
from trainer.errors import ExportRefused

LEAST_AGREEMENT = 0.995
"""Share of pixels. A group that alone keeps fewer is left out whatever the labels say: they are of scenes that were
fitted to, where a change may pass for a gain (the first blocks of dubai-lite: +0.2 points there, -0.5 on scene 1)."""
OPSET_OF_HALF_PAIRS = 19
"""The first in which the pairs take FP16, and one that TensorRT 10.3 reads. Source: ONNX operators, QuantizeLinear."""
NETWORK = "/segmenter/"
"""Scope of the nodes that have learnt weights; what makes classes of logits stays as exact as it was."""
_TRUNK = re.compile(r"/stem/trunk/(?:first|blocks\.(\d+))/")


@dataclass(frozen=True)
class GroupCost:
    """Accuracy cost of one group of layers when only this group is INT8.

    Attributes:
        layers: names of their nodes.
        agreement: share of pixels that keep their class.
        miou_change: on the trial's labels, INT8 minus FP32; NaN without labels.
    """

    group: str
    layers: tuple[str, ...]
    agreement: float
    miou_change: float


@dataclass(frozen=True)
class Quantized:
    """The quantised graph, the cost of its groups, and the groups that were left out."""

    model: onnx.ModelProto
    costs: tuple[GroupCost, ...]
    left_out: tuple[str, ...]
    tiles: int

    def described(self) -> str:
        """For the model's card."""
        left = f", but not {', '.join(self.left_out)}" if self.left_out else ""
        return (
            f"INT8 on convolutions and linear layers{left}: symmetric, weights by channel, activations by tensor, "
            f"ranges from {self.tiles} tiles."
        )


def quantized(
    model: onnx.ModelProto,
    calibration: Sequence[NDArray[np.uint8]],
    trial: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.uint8]] | None,
    *,
    classes: int,
    most_loss: float,
) -> Quantized:
    """Quantises as many groups of layers to INT8 as the allowed loss of mIoU permits.

    Args:
        model: exported in FP32 by `trainer export`.
        calibration: tiles uint8 (1, 3, S, S) to take ranges from.
        trial: other tiles, to measure the cost on.
        labels: of the trial, uint8 (S, S); without them agreement alone decides what is left out, and nothing is.
        classes: K.
        most_loss: of mIoU over the trial.

    Raises:
        ExportRefused: no group can be INT8 at this loss, or without changing too many pixels.
    """
    groups = groups_of(model.graph)
    with tempfile.TemporaryDirectory(prefix="quantize-") as place:
        # Once for the whole graph: the trials below differ in which layers have pairs, not in ranges.
        ranges = _ranges(model, calibration, Path(place))
    truth = _Judge(model, trial, labels, classes)
    # Each group alone: a cost that two groups make together cannot be laid to one of them.
    costs = tuple(
        GroupCost(name, layers, *truth.cost(_with_pairs(model, ranges, layers))) for name, layers in groups.items()
    )
    left_out = [cost.group for cost in costs if cost.agreement < LEAST_AGREEMENT]
    rest = [cost for cost in costs if cost.group not in left_out]
    # The last of the list costs most; of equals, the one that changes most pixels.
    dearest = [cost.group for cost in sorted(rest, key=lambda cost: (-cost.miou_change, -cost.agreement))]
    while len(left_out) < len(groups):
        layers = [layer for name, group in groups.items() if name not in left_out for layer in group]
        # Measured together again, since the costs of groups do not simply add up.
        with_pairs = _with_pairs(model, ranges, layers)
        _, change = truth.cost(with_pairs)
        if not change < -most_loss:  # NaN passes: without labels there is no loss to tell
            return Quantized(with_pairs, costs, tuple(left_out), len(calibration))
        left_out.append(dearest.pop())
    changing = f"changes more than {100 * (1 - LEAST_AGREEMENT):.1f} % of the pixels"
    if not rest:
        raise ExportRefused(f"INT8 {changing} in every group of layers")
    others = f", or {changing}," if len(rest) < len(costs) else ""
    raise ExportRefused(f"INT8 costs more than {100 * most_loss:.2f} points of mIoU{others} in every group of layers")


def groups_of(graph: onnx.GraphProto) -> dict[str, tuple[str, ...]]:
    """Names of the nodes that can be INT8, by part of the network."""
    weights = {item.name for item in graph.initializer}  # the means of pyramid pooling are products with Constants
    strides = _strides_of_blocks(graph)
    groups: dict[str, list[str]] = {}
    for node in graph.node:
        if not node.name.startswith(NETWORK):
            continue
        if node.op_type == "Conv" or (node.op_type in ("MatMul", "Gemm") and node.input[1] in weights):
            groups.setdefault(_group(node.name, strides), []).append(node.name)
    return {name: tuple(layers) for name, layers in groups.items()}


def _strides_of_blocks(graph: onnx.GraphProto) -> dict[int, int]:
    """Image pixels a side of a cell of each block's output, by the block's number in the stem's trunk."""
    factors: dict[int, int] = {}
    for node in graph.node:
        if node.op_type == "Conv" and (match := _TRUNK.search(node.name)):
            number = -1 if match[1] is None else int(match[1])  # the first layer comes before all blocks
            # 1 is the operator's default. Source: ONNX operators, Conv.
            step = next((item.ints[0] for item in node.attribute if item.name == "strides"), 1)
            factors[number] = factors.get(number, 1) * int(step)
    numbers = sorted(factors)
    return dict(zip(numbers, accumulate((factors[number] for number in numbers), mul), strict=True))


def _group(name: str, strides: Mapping[int, int]) -> str:
    if (match := _TRUNK.search(name)) and match[1] is not None:
        # Each stride by itself: landcover's one layer of stride 2 changed 4 % of the pixels, the stem's rest 0.3 %.
        return f"stem, stride {strides[int(match[1])]}"
    # Order matters: the trunk's blocks were looked for above, so this is the stem's first layer and its projections.
    if "/stem/" in name:
        return "stem, first and last"
    if match := re.search(r"/student/blocks\.\d+/(attention|mlp)", name):
        return "projections of attention" if match[1] == "attention" else "perceptrons"
    if match := re.search(r"/decoder/([a-z]+)", name):
        return f"decoder, {match[1]}"
    return "rest"


class _Judge:
    """Compares another graph's classes on some tiles with those of FP32."""

    def __init__(
        self, model: onnx.ModelProto, tiles: Sequence[NDArray[np.uint8]], labels: Sequence[NDArray[np.uint8]] | None,
        classes: int,
    ) -> None:  # fmt: skip
        self.tiles, self.labels, self.classes = tiles, labels, classes
        self.reference = list(self._predicted(model))

    def cost(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Agreement, and change of mIoU (NaN without labels)."""
        wanted, given, same = Confusion(self.classes), Confusion(self.classes), []
        for number, predicted in enumerate(self._predicted(model)):
            same.append(float((predicted == self.reference[number]).mean()))
            if self.labels is not None:
                wanted.add(self.labels[number], self.reference[number])
                given.add(self.labels[number], predicted)
        return float(np.mean(same)), given.scores().miou - wanted.scores().miou

    def _predicted(self, model: onnx.ModelProto) -> Iterator[NDArray[np.uint8]]:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for tile in self.tiles:
            yield session.run(["classes"], {"tiles": tile})[0][0]


class _Tiles(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, tiles: Sequence[NDArray[np.uint8]]) -> None:
        self._tiles = iter(tiles)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next tile as the graph takes it."""
        tile = next(self._tiles, None)
        return None if tile is None else {"tiles": tile}


def _ranges(model: onnx.ModelProto, tiles: Sequence[NDArray[np.uint8]], place: Path) -> Any:
    # The calibrator reads and writes files only.
    path = place / "model.onnx"
    onnx.save(model, path)
    calibrator = create_calibrator(
        path, ["Conv", "MatMul", "Gemm"], augmented_model_path=str(place / "augmented.onnx"),
        calibrate_method=CalibrationMethod.MinMax, extra_options={"symmetric": True},
    )  # fmt: skip
    calibrator.collect_data(_Tiles(tiles))
    return calibrator.compute_data()


def _with_pairs(model: onnx.ModelProto, ranges: Any, layers: Sequence[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    options: Mapping[str, Any] = {
        "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
        # With pairs on outputs too, 1.2 points of mIoU were lost and 3.8 % of
        # pixels changed; without, none and 0.8 % (docs/decisions/0007).
        "OpTypesToExcludeOutputQuantization": ["Conv", "MatMul", "Gemm"],
    }  # fmt: skip
    quantizer = QDQQuantizer(
        copy, True, False, QuantType.QInt8, QuantType.QInt8, ranges, list(layers), [], ["Conv", "MatMul", "Gemm"],
        options,
    )  # fmt: skip
    quantizer.quantize_model()
    # The quantiser appends its nodes at the end, and later passes read the nodes in order.
    quantizer.model.topological_sort()
    quantized_model: onnx.ModelProto = quantizer.model.model
    # The quantiser adds the domain of operators it might have used.
    opsets = [item for item in quantized_model.opset_import if item.domain in ("", "ai.onnx")]
    del quantized_model.opset_import[:]
    quantized_model.opset_import.extend(opsets)
    # The quantiser gives every reader of a tensor the pair, also a sum that runs past the layer.
    _only_for(quantized_model.graph, set(layers))
    _named_by_reader(quantized_model.graph)
    return quantized_model


def _only_for(graph: onnx.GraphProto, layers: set[str]) -> None:
    """Lets only the quantised layers read quantised tensors; all other readers keep the full precision."""
    before = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    whole = {
        node.output[0]: before[node.input[0]]
        for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in before
    }  # fmt: skip
    for node in graph.node:
        if node.name not in layers and node.op_type != "DequantizeLinear":
            node.input[:] = [whole.get(name, name) for name in node.input]


def _named_by_reader(graph: onnx.GraphProto) -> None:
    """Names the Q/DQ pairs of weights after their layer, since later steps find nodes by module names."""
    readers = {name: node.name for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and not node.name.startswith("/"):
            node.name = f"{readers[node.output[0]]}/weight_DequantizeLinear"


def _fit_scales(graph: onnx.GraphProto) -> None:
    """Rounds the scales of weights up to FP16 numbers and adapts the integers.

    A channel with tiny weights has a scale that FP16 would round to zero, which TensorRT refuses. With FP16's smallest
    number, 6e-8, most of its integers become zero, which changes its weights by less than that.
    """
    values = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in values:
            continue
        weights, scales = (numpy_helper.to_array(values[name]) for name in node.input[:2])
        fitted = scales.astype(np.float16)
        # Up and never down: a smaller scale would push the largest weights beyond 127.
        fitted = np.where(fitted < scales, np.nextafter(fitted, np.float16(np.inf)), fitted).astype(np.float32)
        # 1 is the operator's default. Source: ONNX operators, DequantizeLinear.
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        ratio = (scales / fitted).reshape([-1 if place == axis else 1 for place in range(weights.ndim)])
        again = np.rint(weights * ratio).astype(np.int8)
        values[node.input[0]].CopyFrom(numpy_helper.from_array(again, node.input[0]))
        values[node.input[1]].CopyFrom(numpy_helper.from_array(fitted, node.input[1]))


def at_opset_of_half_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph at the opset whose pairs may be FP16, scales fit for that.

    Only ReduceMean and its kin changed between the opsets.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _fit_scales(copy.graph)
    for node in copy.graph.node:
        if node.op_type in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"):
            axes = [item for item in node.attribute if item.name == "axes"]
            # Since opset 18 the axes are an input of these operators, no attribute.
            if axes:
                name = f"{node.name}/axes"
                copy.graph.initializer.append(numpy_helper.from_array(np.array(axes[0].ints, np.int64), name))
                node.input.append(name)
                node.attribute.remove(axes[0])
    del copy.opset_import[:]
    copy.opset_import.append(helper.make_opsetid("", OPSET_OF_HALF_PAIRS))
    onnx.checker.check_model(copy)
    return copy
