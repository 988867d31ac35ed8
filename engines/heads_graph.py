"""Joins the graphs of a model with heads: one ONNX graph of the encoder and the heads that are asked for.

One graph, since every runtime then sees what it would see of a model made in one piece: the encoder runs once, and
layers are fused across the border (docs/decisions/0016-heads.md has the figures beside graphs run one after the other).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import BackendUnavailable, ModelMismatch, one_line
from engines.manifest import Manifest, ManifestWithHeads

if TYPE_CHECKING:
    import onnx


def graph_of(manifest: Manifest, folder: Path) -> bytes:
    """The ONNX file that an engine of this manifest runs: the model's own, or one joined from its parts.

    Raises:
        ModelMismatch: a file is missing, is another than the manifest's, or a head does not fit the encoder.
        BackendUnavailable: the model has heads, and the package that joins them is not installed.
    """
    if not isinstance(manifest, ManifestWithHeads):
        return manifest.model.read_verified(folder)
    encoder = manifest.source.encoder
    content = encoder.read_verified(folder)
    heads = {head.name: head.model.read_verified(folder) for head in manifest.opened_heads}
    outputs = [port for head in manifest.opened_heads for port in (head.output.classes, head.output.confidence) if port]
    familiarity = () if manifest.familiarity is None else (manifest.familiarity.output,)
    try:
        return joined(content, heads, features=encoder.features, kept=familiarity)
    except JoinRefused as error:
        files = {None: encoder.file, "": ""} | {head.name: head.model.file for head in manifest.opened_heads}
        raise ModelMismatch(
            folder / files[error.head], "graph", given=str(error), required=f"outputs {', '.join(outputs)}"
        ) from error


class JoinRefused(ValueError):
    """Graphs that do not fit together; ``head`` is the one at fault, None for the encoder, "" for what they make."""

    def __init__(self, problem: str, head: str | None) -> None:
        self.head = head
        super().__init__(problem)


def joined(encoder: bytes, heads: Mapping[str, bytes], *, features: Sequence[str], kept: Sequence[str] = ()) -> bytes:
    """One graph of an encoder and some heads.

    Args:
        encoder: ONNX file from tiles to features and what is ``kept``.
        heads: ONNX files from features, by name; every name in such a graph gets the head's name and / before it.
        features: outputs of the encoder that heads may read; they are no outputs of the result.
        kept: outputs of the encoder that the result has too.

    Raises:
        JoinRefused: a file cannot be read, or its inputs and outputs are not these.
        BackendUnavailable: the package onnx is not installed.
    """
    onnx = _onnx()
    graph = _read(encoder, None)
    outputs = {port.name: port for port in graph.graph.output}
    if missing := [name for name in (*features, *kept) if name not in outputs]:
        raise JoinRefused(f"the encoder has no output {missing[0]}", None)
    # Features become tensors within the graph: as outputs, every runtime would have to write them to memory.
    del graph.graph.output[:]
    for name, content in heads.items():
        head = _read(content, name)
        if foreign := [port.name for port in head.graph.input if port.name not in features]:
            raise JoinRefused(f"it reads {foreign[0]}, which the encoder does not give", name)
        # One graph has one opset: by another one a node may mean something else.
        if {entry.domain: entry.version for entry in head.opset_import} != {
            entry.domain: entry.version for entry in graph.opset_import
        }:
            raise JoinRefused("it has other opsets than the encoder", name)
        _append(graph.graph, head.graph, name, frozenset(features))
        graph.ir_version = max(graph.ir_version, head.ir_version)
    graph.graph.output.extend(outputs[name] for name in kept)
    try:
        # Finds what joining may break: a name that is given twice, an input that nothing makes.
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as error:
        raise JoinRefused(one_line(error), "") from error
    result: bytes = graph.SerializeToString()
    return result


def _append(graph: onnx.GraphProto, head: onnx.GraphProto, name: str, features: frozenset[str]) -> None:
    """Moves a head's nodes, constants and outputs over, under names of its own."""

    def own(tensor: str) -> str:
        # An empty name stands for an optional input that is left out.
        return tensor if not tensor or tensor in features else f"{name}/{tensor}"

    for node in head.node:
        node.name = own(node.name)
        node.input[:] = [own(tensor) for tensor in node.input]
        node.output[:] = [own(tensor) for tensor in node.output]
        # Names within such a graph (of If or Loop) would have to change too; exported heads have none.
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise JoinRefused(f"its node {node.name} holds a graph of its own", name)
    for constant in head.initializer:
        constant.name = own(constant.name)
    for info in (*head.value_info, *head.output):
        info.name = own(info.name)
    graph.node.extend(head.node)
    graph.initializer.extend(head.initializer)
    graph.value_info.extend(head.value_info)
    graph.output.extend(head.output)


def _read(content: bytes, head: str | None) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = _onnx().load_from_string(content)
    except Exception as error:  # the protobuf library's own, which has no public name
        raise JoinRefused(f"no ONNX file ({one_line(error)})", head) from error
    return model


def _onnx() -> Any:
    """The package, which loads in a tenth of a second and which a model of one graph does not need."""
    try:
        import onnx
    except ImportError as error:
        remedy = f"{sys.executable} -m pip install onnx"
        raise BackendUnavailable("a model with heads", f"onnx is not here ({one_line(error)})", remedy) from error
    return onnx
