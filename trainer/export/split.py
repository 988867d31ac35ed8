"""Splits an exported graph where its encoder ends: one file from tiles to features, one from features to a map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from trainer.errors import ExportRefused

ENCODER_SCOPE = re.compile(r"^/segmenter/student/|^/familiarity/")
"""Names of the encoder's nodes, as the exporter and trainer/familiarity give them."""
ROUNDING: Final = 8
"""Parts in 2^23 of a constant's largest value. Measured: one encoder exported on two machines, at most 2."""


@dataclass(frozen=True)
class SplitGraph:
    """The two halves of a graph; ``features`` are the tensors that cross the cut."""

    encoder: onnx.ModelProto
    head: onnx.ModelProto
    features: tuple[str, ...]


def split(model: onnx.ModelProto, outputs: Sequence[str]) -> SplitGraph:
    """Cuts a graph in two.

    Args:
        model: exported by trainer/export/onnx.py, in any precision.
        outputs: names of the head's outputs; the others are the encoder's.

    Raises:
        ExportRefused: the graph has no nodes of an encoder, or the head reads the tiles themselves.
    """
    model = _with_stable_names(model)
    graph = model.graph
    # These references also keep the nodes' Python objects alive: protobuf makes
    # new ones otherwise, and identities would change below.
    made_by = {output: node for node in graph.node for output in node.output}
    # Also what leads to the scope from outside: the cast and the normalisation of pixels have other names.
    encoder = _with_ancestors([node for node in graph.node if ENCODER_SCOPE.match(node.name)], made_by)
    if not encoder:
        raise ExportRefused("the graph has no nodes named /segmenter/student/...: export it again by this trainer")
    first = [node for node in graph.node if id(node) in encoder]
    rest = [node for node in graph.node if id(node) not in encoder]
    read = {name for node in rest for name in node.input}
    # Constants that both halves read stand in both.
    # A node without inputs is a constant; a copy of it costs less than a tensor that crosses the cut.
    shared = [node for node in first if not node.input and read.intersection(node.output)]
    rest = [*shared, *rest]
    made = {output for node in first for output in node.output} - {name for node in shared for name in node.output}
    crossing = tuple(dict.fromkeys(name for node in rest for name in node.input if name in made))
    tiles = {port.name for port in graph.input}
    # Aboard, a head gets features alone.
    if any(name in tiles for node in rest for name in node.input):
        raise ExportRefused("the head reads the tiles themselves, past the encoder: it cannot be split off")
    infos = {info.name: info for info in [*onnx.shape_inference.infer_shapes(model).graph.value_info, *graph.output]}
    if unknown := [name for name in crossing if name not in infos]:
        raise ExportRefused(f"the shape of {unknown[0]} is not known: the graph cannot be split there")
    ports = [_without_made_up_sizes(infos[name]) for name in crossing]
    own = [port for port in graph.output if port.name not in outputs]
    given = [port for port in graph.output if port.name in outputs]
    # The familiarity is made by the encoder and stays its output, beside the features.
    return SplitGraph(
        encoder=_graph(model, first, list(graph.input), [*ports, *own]),
        head=_graph(model, rest, ports, given),
        features=crossing,
    )


def _without_made_up_sizes(port: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """A copy whose open sizes have no names: shape inference numbers them, and no two graphs agree on the numbers."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(port)
    for dim in copy.type.tensor_type.shape.dim[1:]:
        if dim.HasField("dim_param"):
            dim.ClearField("dim_param")
    return copy


def same_network(first: onnx.ModelProto, second: onnx.ModelProto) -> bool:
    """Whether two encoders compute the same features from the same weights; familiarity does not count.

    Constants may differ by rounding: batch norms are folded in float32, whose last bits depend on the processor.
    """
    (nodes, constants), (others, other_constants) = _network(first), _network(second)
    return (
        nodes == others
        and constants.keys() == other_constants.keys()
        and all(_equal_but_rounding(constants[name], other_constants[name]) for name in constants)
    )


def _equal_but_rounding(first: NDArray[Any], second: NDArray[Any]) -> bool:
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    if first.dtype not in (np.float32, np.float16) or not first.size:
        return np.array_equal(first, second)
    # Relative to the tensor's largest value: folding subtracts (bias - mean x
    # scale), and a result near 0 keeps the rounding of its large terms.
    largest = np.maximum(np.abs(first), np.abs(second))
    allowed = ROUNDING * np.finfo(np.float32).eps * largest.max().astype(np.float64)
    if first.dtype == np.float16:  # rounded once more
        allowed = allowed + np.spacing(largest).astype(np.float64)
    return bool((np.abs(first.astype(np.float64) - second.astype(np.float64)) <= allowed).all())


def _network(model: onnx.ModelProto) -> tuple[dict[str, bytes], dict[str, NDArray[Any]]]:
    nodes = {
        # By name: the order of nodes that do not depend on each other says nothing.
        node.name: node.SerializeToString(deterministic=True)
        for node in model.graph.node
        if not node.name.startswith("/familiarity/")
    }
    constants = {
        item.name: numpy_helper.to_array(item)
        for item in model.graph.initializer
        if not item.name.startswith("/familiarity/")
    }
    return nodes, constants


def _with_stable_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose constants are named after the node that reads them: the exporter numbers them through the graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names: dict[str, str] = {}
    constants = {item.name for item in copy.graph.initializer}
    for node in copy.graph.node:
        for position, name in enumerate(node.input):
            if name in constants and not name.startswith("/familiarity/"):
                names.setdefault(name, f"{node.name}.{position}")
        node.input[:] = [names.get(name, name) for name in node.input]
    for item in copy.graph.initializer:
        item.name = names.get(item.name, item.name)
    return copy


def _with_ancestors(nodes: Sequence[onnx.NodeProto], made_by: dict[str, onnx.NodeProto]) -> set[int]:
    """Identities of these nodes and of all that lead to them."""
    seen: set[int] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        waiting += [made_by[name] for name in node.input if name in made_by]
    return seen


def _graph(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """A model of some nodes, with the constants that they read."""
    read = {name for node in nodes for name in node.input}
    constants = [item for item in model.graph.initializer if item.name in read]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(list(nodes), model.graph.name, list(inputs), list(outputs), constants),
        opset_imports=model.opset_import, ir_version=model.ir_version, producer_name=model.producer_name,
    )  # fmt: skip
    onnx.checker.check_model(made)
    return made
