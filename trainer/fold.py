"""What an exported graph still works out at run time though only the number of tiles is open, worked out once."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trainer.fold_input import fold_normalisation


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every Resize has constant scales, outputs have sizes, and nothing is left that no output needs.

    What normalises the pixels, up to eight passes over the largest tensor of all, becomes one addition before the first
    convolution, whose weights take the scale (:mod:`trainer.fold_input`).

    The exporter asks a tensor for its shape to keep the number of tiles open, cuts and joins it, and gives the result
    to Resize as sizes. Scales say the same without that number, and engines plan them ahead.
    """
    sides = _sides_of_one_tile(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for node in graph.node:
        if node.op_type == "Resize" and len(node.input) == 4 and node.input[3]:
            before, after = sides[node.input[0]][2:], sides[node.output[0]][2:]
            scales = [1.0, 1.0, *(_scale(one, other) for one, other in zip(before, after, strict=True))]
            name = f"{node.name}/scales"
            graph.initializer.append(numpy_helper.from_array(np.array(scales, np.float32), name))
            kept = [item for item in node.attribute if item.name != "keep_aspect_ratio_policy"]
            resized = helper.make_node("Resize", [node.input[0], "", name], node.output, name=node.name)
            resized.attribute.extend(kept)
            node.CopyFrom(resized)
    for port in graph.output:
        for dim, side in list(zip(port.type.tensor_type.shape.dim, sides[port.name], strict=True))[1:]:
            dim.dim_value = side
    _share_constants(graph)
    fold_normalisation(graph)
    _drop_unused(graph)
    return copy


def _sides_of_one_tile(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Shape of every tensor where one tile goes in: with that number known, all others follow."""
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    for port in alone.graph.input:
        port.type.tensor_type.shape.dim[0].dim_value = 1
    for port in alone.graph.output:
        port.type.tensor_type.ClearField("shape")  # the exporter's names of sizes would stand before what is inferred
    del alone.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(alone, data_prop=True, strict_mode=True).graph
    infos = [*graph.value_info, *graph.input, *graph.output]
    return {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in infos}


def _scale(before: int, after: int) -> np.float32:
    """The least FP32 number that makes `after` of `before`, which Resize rounds down."""
    scale = np.float32(after / before)
    while math.floor(np.float32(before) * scale) < after:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def _share_constants(graph: onnx.GraphProto) -> None:
    """Let the first of equal Constants serve for all: the exporter writes one for each use."""
    first: dict[bytes, str] = {}
    instead: dict[str, str] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)
        if node.op_type == "Constant":
            kept = first.setdefault(node.attribute[0].SerializeToString(), node.output[0])
            instead[node.output[0]] = kept


def _drop_unused(graph: onnx.GraphProto) -> None:
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    constants = [item for item in graph.initializer if item.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
