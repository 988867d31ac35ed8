"""Constant folding of what an exported graph computes at run time although only the batch size is dynamic."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engines.graph_sides import has_open_sides
from trainer.errors import ExportRefused
from trainer.export.fold_input import fold_normalisation


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every Resize has constant scales, outputs have fixed sizes, and unused nodes are removed.

    In a graph whose input leaves height and width open, outputs stay open too, and no Resize may aim at a size.

    The normalisation of the pixels, up to eight passes over the largest tensor, becomes one addition before the first
    convolution, whose weights take the scale (:mod:`trainer.export.fold_input`).

    To keep the batch size dynamic, the exporter computes the sizes of a Resize from a tensor's shape at run time.
    Constant scales give the same result without the batch size, and engines can plan them ahead.
    """
    is_open = has_open_sides(model)
    sides = {} if is_open else _sides_of_one_tile(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for node in graph.node:
        if node.op_type == "Resize" and len(node.input) == 4 and node.input[3]:
            if is_open:
                raise ExportRefused(f"{node.name} resizes to one size: the graph is not one for tiles of several sides")
            before, after = sides[node.input[0]][2:], sides[node.output[0]][2:]
            scales = [1.0, 1.0, *(_scale(side, target) for side, target in zip(before, after, strict=True))]
            name = f"{node.name}/scales"
            graph.initializer.append(numpy_helper.from_array(np.array(scales, np.float32), name))
            # By the operator's definition this attribute is about sizes, not about scales.
            attributes = [item for item in node.attribute if item.name != "keep_aspect_ratio_policy"]
            resized = helper.make_node("Resize", [node.input[0], "", name], node.output, name=node.name)
            resized.attribute.extend(attributes)
            node.CopyFrom(resized)
    for port in () if is_open else graph.output:
        # The first dimension, the number of tiles, stays open.
        for dim, side in list(zip(port.type.tensor_type.shape.dim, sides[port.name], strict=True))[1:]:
            dim.dim_value = side
    _share_constants(graph)
    fold_normalisation(graph)
    drop_unused(graph)
    return copy


def _sides_of_one_tile(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Shape of every tensor for a batch of one tile."""
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    for port in alone.graph.input:
        port.type.tensor_type.shape.dim[0].dim_value = 1
    for port in alone.graph.output:
        port.type.tensor_type.ClearField("shape")  # the exporter's names of sizes would stand before what is inferred
    del alone.graph.value_info[:]
    # `data_prop` follows shapes through the arithmetic that the exporter wrote for them.
    # Strict: a size that could not be inferred would be 0, and a wrong scale above.
    graph = onnx.shape_inference.infer_shapes(alone, data_prop=True, strict_mode=True).graph
    infos = [*graph.value_info, *graph.input, *graph.output]
    return {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in infos}


def _scale(before: int, after: int) -> np.float32:
    """The smallest FP32 scale from `before` to `after` pixels; Resize rounds the product down."""
    scale = np.float32(after / before)
    # In FP32 the quotient may be rounded down, and the product with it: a map of one row less.
    while math.floor(np.float32(before) * scale) < after:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def _share_constants(graph: onnx.GraphProto) -> None:
    """Merges equal Constants, of which the exporter writes one per use."""
    first: dict[bytes, str] = {}
    instead: dict[str, str] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)
        if node.op_type == "Constant":
            shared = first.setdefault(node.attribute[0].SerializeToString(), node.output[0])
            instead[node.output[0]] = shared


def drop_unused(graph: onnx.GraphProto) -> None:
    """Removes, in place, the nodes and constants that no output needs, and the shapes noted in the graph."""
    needed = {output.name for output in graph.output}
    used = []
    # Nodes stand in topological order, so one pass from the end sees every reader before what it reads.
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            used.append(node)
    constants = [item for item in graph.initializer if item.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(used))
    graph.initializer.extend(constants)
