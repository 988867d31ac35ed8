"""Cost of a model folder, counted on its ONNX graph with the counters of trainer/profile/network.py."""

from __future__ import annotations

import math
import re
from pathlib import Path

import onnx

from engines.graph_sides import with_sides
from engines.heads_graph import graph_of
from engines.manifest import Cost, Manifest
from trainer.errors import SettingsRefused
from trainer.profile.network import HALF_BYTES, Layer, Part, Profile

_COUNTED = re.compile(r"([^/]+/)?/segmenter/(student|decoder)")
"""Nodes of student and decoder, by the exporter's names; in a joined graph a head's own name goes before."""
VIEWS = frozenset({"Reshape", "Constant", "Shape", "Identity"})
"""Nodes that write nothing new."""


def profile_of_folder(folder: Path) -> Profile:
    """Counts a shipped model's student and decoder on one of its tiles, with the counters of trainer.profile.network.

    Positions are those that the graph adds: of its tile's size, where the network's table may be larger.

    Raises:
        SettingsRefused: the graph was not written by `trainer export`: its nodes are not named by module.
        ManifestError, ModelMismatch: as the engines raise them.
    """
    return profile_of_manifest(Manifest.load(folder), folder)


def profiles_of_folder(folder: Path) -> list[Profile]:
    """The profile of a model; of one with heads, the encoder under each head alone, and under all of them.

    Raises:
        As profile_of_folder.
    """
    manifest = Manifest.load(folder)
    choices: list[tuple[str, ...]] = [(head,) for head in manifest.head_names]
    if len(choices) > 1:
        choices.append(manifest.head_names)
    return [profile_of_manifest(manifest.with_heads(heads), folder) for heads in choices or [()]]


def profile_of_manifest(manifest: Manifest, folder: Path) -> Profile:
    """The same of a model seen with some of its heads."""
    graph = _Graph(with_sides(onnx.load_from_string(graph_of(manifest, folder)), manifest.input.tile_size))
    layers = graph.layers
    parts = {layer.part for layer in layers}
    if "decoder" not in parts or not parts & {"stem", "linear"}:  # a student of convolutions is all stem
        raise SettingsRefused(str(folder), "nodes of the graph are not named by module, so parts cannot be separated")
    heads = " + ".join(head.name for head in manifest.opened_heads)
    return Profile(
        name=f"{manifest.name} {manifest.version}" + (f", {heads}" if heads else ""),
        tile=manifest.input.tile_size,
        parameters=manifest.total_parameters or graph.parameters,
        positions=graph.positions,
        layers=layers,
        peak_bytes=graph.peak_bytes(fused=False),
        peak_bytes_fused=graph.peak_bytes(fused=True),
        peak_method="tensors of the ONNX graph in its order, each freed after its last reader",
    )


def cost_of(folder: Path) -> Cost:
    """The manifest's entry.

    Raises:
        As profile_of_folder.
    """
    profile = profile_of_folder(folder)
    return Cost(flops=profile.flops, bytes_moved=profile.bytes_moved)


def cost_of_part(part: onnx.ModelProto) -> Cost | None:
    """Of an encoder's file, or of a head's; None where nodes are not named by module."""
    copy = onnx.ModelProto()
    copy.CopyFrom(part)
    layers = _Graph(copy).layers
    if not layers:
        return None
    return Cost(
        flops=2 * sum(layer.products for layer in layers), bytes_moved=HALF_BYTES * sum(layer.moved for layer in layers)
    )


class _Graph:
    """Nodes of student and decoder, with the shape of every tensor at one tile."""

    def __init__(self, model: onnx.ModelProto) -> None:
        # The caller's graph is changed: whoever needs it afterwards gives a copy.
        for port in [*model.graph.input, *model.graph.output]:
            port.type.tensor_type.shape.dim[0].dim_value = 1
        # Shapes written by the exporter are of an open batch and would stand before those of one tile.
        del model.graph.value_info[:]
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.shapes: dict[str, tuple[int, ...]] = {item.name: tuple(item.dims) for item in graph.initializer}
        self.weights = set(self.shapes)
        for info in [*graph.input, *graph.value_info, *graph.output]:
            self.shapes[info.name] = tuple(size.dim_value for size in info.type.tensor_type.shape.dim)
        for node in graph.node:
            if node.op_type == "Constant":
                self.weights.add(node.output[0])
                self.shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
        self.nodes = [node for node in graph.node if _COUNTED.match(node.name)]
        self.parameters = sum(math.prod(item.dims) for item in graph.initializer)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What the counters have."""
        return tuple(layer for node in self.nodes if (layer := self.layer(node)) is not None)

    @property
    def positions(self) -> int:
        """Values added to the first tokens."""
        sums = [node for node in self.nodes if node.name == "/segmenter/student/Add"]
        return sum(self._values(name) for node in sums for name in node.input if name in self.weights)

    def layer(self, node: onnx.NodeProto) -> Layer | None:
        """What a node counts as, None for those that no counter has."""
        inputs, written = [name for name in node.input if name], self._values(node.output[0])
        moved = sum(self._values(name) for name in inputs) + written
        if node.op_type == "Conv":
            # A kernel is (out, in / groups, rows, columns): a value written takes
            # as many products as the last three have entries.
            products = written * math.prod(self.shapes[inputs[1]][1:])
            return Layer(_part(node), counted_by_module=True, products=products, moved=moved)
        if node.op_type == "LayerNormalization":
            return Layer(_part(node), counted_by_module=False, products=0, moved=moved)
        if node.op_type != "MatMul":
            return None
        products = written * self.shapes[inputs[0]][-1]
        if _mixes_tokens(node):
            scores = written if node.name.endswith("/MatMul") else self._values(inputs[0])
            return Layer("attention", counted_by_module=False, products=products, moved=moved - scores)
        by_module = "/decoder/" not in node.name  # the decoder's only matrix products are the pyramid's means
        # Linear layers are exported as MatMul and Add; the counters by module know the bias as the layer's.
        bias = self.shapes[inputs[1]][-1] if by_module else 0
        return Layer(_part(node), counted_by_module=by_module, products=products, moved=moved + bias)

    def peak_bytes(self, *, fused: bool) -> int:
        """Most bytes at once at FP16; ``fused`` leaves out what passes between attention's two products."""
        last = {name: number for number, node in enumerate(self.nodes) for name in node.input}
        live: dict[str, int] = {}
        peak = 0
        for number, node in enumerate(self.nodes):
            if node.op_type not in VIEWS and not (fused and _is_score(node)):
                live |= {name: self._values(name) for name in node.output}
            elif node.op_type == "Reshape" and node.input[0] in live:  # the same memory by another name
                live[node.output[0]] = live.pop(node.input[0])
            peak = max(peak, sum(live.values()))
            # After the peak is taken: a node's inputs are still there while it writes.
            live = {name: size for name, size in live.items() if last.get(name, -1) > number}
        return HALF_BYTES * peak

    def _values(self, name: str) -> int:
        return math.prod(self.shapes[name])


def _part(node: onnx.NodeProto) -> Part:
    if "/decoder/" in node.name:
        return "decoder"
    return "stem" if "/stem/" in node.name else "linear"


def _mixes_tokens(node: onnx.NodeProto) -> bool:
    """Of attention itself, not of the linear layers inside it: a product of two tensors, neither of them weights."""
    return node.name.rsplit("/", 1)[0].endswith("/attention")


def _is_score(node: onnx.NodeProto) -> bool:
    return _mixes_tokens(node) and (
        node.op_type == "Softmax" or (node.op_type == "MatMul" and node.name.endswith("/MatMul"))
    )
