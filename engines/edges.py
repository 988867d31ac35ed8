"""A graph as TensorRT takes it: uint8 only where tiles come in and classes go out.

TensorRT knows no uint8 tensor inside a network. Exported models round, pack and cast to uint8 before they pick their
outputs apart: here the cast goes behind that, to each output, which changes no value.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from engines.errors import BackendUnavailable

if TYPE_CHECKING:
    import onnx

UINT8 = 2
"""onnx.TensorProto.UINT8; the package is needed for building only and imported there."""


def uint8_at_the_edges(content: bytes) -> bytes:
    """The same model with every inner cast to uint8 moved to the outputs that it reaches.

    Raises:
        BackendUnavailable: the onnx package is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendUnavailable(
            "build", "the onnx package is not installed", f"{sys.executable} -m pip install onnx"
        ) from error
    model = onnx.load_from_string(content)
    graph = model.graph
    outputs = {output.name for output in graph.output}
    casts = [node for node in graph.node if _is_cast_to_uint8(node)]
    inner = {node.output[0]: node.input[0] for node in casts if node.output[0] not in outputs}
    if not inner:
        return content
    reached = set(inner)
    kept = []
    for node in graph.node:
        if node.output[0] in inner:
            continue
        if reached.intersection(node.input):
            reached.update(node.output)
            node.input[:] = [inner.get(name, name) for name in node.input]
        kept.append(node)
    for name in sorted(outputs & reached):
        wide = f"{name}_wide"
        for node in kept:
            node.output[:] = [wide if output == name else output for output in node.output]
            node.input[:] = [wide if given == name else given for given in node.input]
        kept.append(onnx.helper.make_node("Cast", [wide], [name], name=f"{name}_narrow", to=UINT8))
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    found: bytes = model.SerializeToString()
    return found


def _is_cast_to_uint8(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(one.name == "to" and one.i == UINT8 for one in node.attribute)
