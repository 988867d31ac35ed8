"""Folds the normalisation of the input into the first convolution: a cast and one addition remain."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Doubles = NDArray[np.float64]
_BANDS = 3


@dataclass
class _Affine:
    """scale x pixel + shift for each band, and the chain of nodes that computes it."""

    end: str
    scale: Doubles = field(default_factory=lambda: np.ones(_BANDS))
    shift: Doubles = field(default_factory=lambda: np.zeros(_BANDS))
    nodes: list[onnx.NodeProto] = field(default_factory=list)


def fold_normalisation(graph: onnx.GraphProto) -> None:
    """Folds, in place, the products and additions by constants between the pixels' cast and the first convolution.

    scale x pixel + shift = scale x (pixel + shift / scale): the convolution's weights take the scale. The addition
    stays before the convolution, so that its zero padding keeps its meaning. A graph of another form is not changed.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    cast = readers.get(graph.input[0].name, [])
    # Pixels come as bytes, so the exporter's graph begins with one cast. Any other graph is left as it is.
    if len(cast) != 1 or cast[0].op_type != "Cast":
        return
    chain = _followed(cast[0].output[0], readers, _constants(graph))
    following = readers.get(chain.end, [])
    weights = {item.name: item for item in graph.initializer}
    # A band of scale 0 has no shift / scale.
    if not chain.nodes or len(following) != 1 or following[0].op_type != "Conv" or (chain.scale == 0).any():
        return
    tensor = weights.get(following[0].input[1])
    # Weights that another node reads too must keep their values.
    if tensor is None or len(readers[tensor.name]) != 1 or tensor.dims[1] != _BANDS:
        return
    # In 64 bits, so that the product is rounded once.
    scaled = numpy_helper.to_array(tensor).astype(np.float64) * chain.scale.reshape(1, _BANDS, 1, 1)
    tensor.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), tensor.name))
    shift = (chain.shift / chain.scale).astype(np.float32).reshape(1, _BANDS, 1, 1)
    # The last node keeps its name and tensor: half precision and INT8 find the parts of the graph by these names.
    last, constant = chain.nodes[-1], f"{chain.nodes[-1].name}/shift"
    graph.initializer.append(numpy_helper.from_array(shift, constant))
    last.CopyFrom(helper.make_node("Add", [cast[0].output[0], constant], [chain.end], name=last.name))


def _followed(start: str, readers: dict[str, list[onnx.NodeProto]], constants: dict[str, Doubles]) -> _Affine:
    """Nodes from a tensor on, while each has one reader and combines with a scalar or one number per band."""
    chain = _Affine(start)
    while len(following := readers.get(chain.end, [])) == 1:
        node = following[0]
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or node.input[0] != chain.end:
            break
        value = constants.get(node.input[1])
        if value is None or value.size not in (1, _BANDS) or (value.size > 1 and value.shape[-3:] != (_BANDS, 1, 1)):
            break
        # Scale and shift are kept as one affine map, in whatever order the exporter wrote its steps.
        by = np.broadcast_to(value.reshape(-1), (_BANDS,))
        if node.op_type in ("Add", "Sub"):
            chain.shift = chain.shift + (by if node.op_type == "Add" else -by)
        else:
            factor = by if node.op_type == "Mul" else 1 / by
            chain.scale, chain.shift = chain.scale * factor, chain.shift * factor
        chain.nodes.append(node)
        chain.end = node.output[0]
    return chain


def _constants(graph: onnx.GraphProto) -> dict[str, Doubles]:
    """Small constant float tensors, by name."""
    given = {item.name: item for item in graph.initializer}
    given |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    return {
        name: numpy_helper.to_array(item).astype(np.float64)
        for name, item in given.items()
        # Larger ones cannot be one number a band; the weights are not copied for nothing.
        if item.data_type == onnx.TensorProto.FLOAT and np.prod(item.dims) <= _BANDS
    }
