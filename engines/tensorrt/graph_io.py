"""Rewrites a graph for TensorRT: uint8 tensors only as inputs and outputs of the network, which is all it supports.

Exported models cast to uint8 and then split the result into their outputs. Here the cast moves behind the split, to
each output. No value changes.
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
    nodes = []
    for node in graph.node:
        if node.output[0] in inner:
            continue
        if reached.intersection(node.input):
            # What reads the input of a removed cast gives wide values as well, up to the outputs.
            reached.update(node.output)
            node.input[:] = [inner.get(name, name) for name in node.input]
        nodes.append(node)
    for name in sorted(outputs & reached):
        # The wide tensor gets the new name, so that the output keeps the one of the manifest.
        wide = f"{name}_wide"
        for node in nodes:
            node.output[:] = [wide if output == name else output for output in node.output]
            node.input[:] = [wide if given == name else given for given in node.input]
        nodes.append(onnx.helper.make_node("Cast", [wide], [name], name=f"{name}_narrow", to=UINT8))
    del graph.node[:]
    graph.node.extend(nodes)
    # Types noted at the export are wrong now: inner tensors that were uint8 are wide.
    del graph.value_info[:]
    rewritten: bytes = model.SerializeToString()
    return rewritten


def _is_cast_to_uint8(node: onnx.NodeProto) -> bool:
    target_types = [attribute.i for attribute in node.attribute if attribute.name == "to"]
    return node.op_type == "Cast" and UINT8 in target_types
