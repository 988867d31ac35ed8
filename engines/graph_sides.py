"""Gives the input of an ONNX graph whose tiles may have several sides one size, for tools that need numbers.

Engine builders, counters and the fit of the familiarity look at a graph for one tile. A graph of the exporter has open
sides where the network is convolutional throughout (trainer/models/deploy.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def has_open_sides(model: onnx.ModelProto) -> bool:
    """Whether the first input, (N, bands, h, w), leaves height or width open."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return len(dims) == 4 and any(not dim.HasField("dim_value") for dim in dims[2:])


def with_sides(model: onnx.ModelProto, side: int) -> onnx.ModelProto:
    """The same model where its sides are fixed, else a copy for squares of ``side`` pixels; N stays as it is."""
    import onnx

    if not has_open_sides(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for dim in copy.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = side
    for port in copy.graph.output:
        # Maps are (N, h, w). The sizes of anything else follow from the input.
        dims = port.type.tensor_type.shape.dim
        for dim in dims[1:] if len(dims) == 3 else ():
            dim.dim_value = side
    # What was inferred for open sides would stand before what follows from these.
    del copy.graph.value_info[:]
    return copy


def of_side(content: bytes, side: int) -> bytes:
    """:func:`with_sides` of a file's bytes, which are given back as they are where the sides are fixed."""
    import onnx

    model = onnx.load_from_string(content)
    if not has_open_sides(model):
        return content
    fixed: bytes = with_sides(model, side).SerializeToString()
    return fixed
