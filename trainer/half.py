"""An ONNX graph in half precision: weights and products in FP16, and in FP32 only what measured ranges ask for.

FP16 ends at 65,504 and keeps eleven bits. Pixels are normalised in FP32, and logits are FP32 again before they are
resized and classes are chosen. LayerNorm and attention scores go to FP16, where engines have their fastest kernels,
unless real tiles show that they would overflow there or round too much away.

The graph is rewritten and not exported anew from a half network: CPUs trace one at a hundredth of the speed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from trainer.models.segmenter import Segmenter
from trainer.models.student import Attention

LARGEST = 65504.0
"""Of FP16."""
HEADROOM = 4.0
"""Factor left between what was measured on a few tiles and what overflows."""
ROUNDED = 64.0
"""Scores beyond this are rounded by 1/32 and more in FP16, which changes a weight of the softmax by 3 % and more."""
HALVED = ("/segmenter/student/", "/segmenter/decoder/")
"""Scopes of the graph that go to FP16; the exporter names nodes by module."""


@dataclass(frozen=True)
class Ranges:
    """What an FP32 run over some tiles reached.

    Attributes:
        squares: largest sum of squared deviations over the width inside a LayerNorm.
        score: largest magnitude of a scaled product of query and key.
        activation: largest magnitude of a linear layer, a norm, or the sum that runs from block to block.
    """

    squares: float
    score: float
    activation: float

    @property
    def wide_norms(self) -> bool:
        """LayerNorm must be FP32: an engine that sums squares in FP16 would overflow."""
        return self.squares * HEADROOM > LARGEST

    @property
    def wide_attention(self) -> bool:
        """Scores and softmax must be FP32."""
        return self.score > ROUNDED

    def described(self) -> str:
        """Which of both stay in FP32, and the measured reason."""
        norms = "FP32" if self.wide_norms else "FP16"
        attention = "FP32" if self.wide_attention else "FP16"
        return (
            f"LayerNorm in {norms} (sums of squares reach {self.squares:,.0f}, FP16 ends at {LARGEST:,.0f}), attention "
            f"scores and softmax in {attention} (scores reach {self.score:.0f}), all else between pixels and logits in "
            f"FP16 (activations reach {self.activation:.0f})."
        )


def measured_ranges(segmenter: Segmenter, tiles: Tensor) -> Ranges:
    """Run tiles uint8 (N, 3, S, S) through a copy in FP32 and note what its layers reach."""
    network = copy.deepcopy(segmenter).eval()
    reached = {"squares": 0.0, "score": 0.0, "activation": 0.0}

    def note(name: str, value: Tensor) -> None:
        reached[name] = max(reached[name], float(value))

    def norm_seen(_: nn.Module, inputs: tuple[Any, ...], __: Tensor) -> None:
        note("squares", inputs[0].var(dim=-1, unbiased=False).max() * inputs[0].shape[-1])
        note("activation", inputs[0].abs().max())

    def layer_seen(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        note("activation", output.abs().max())

    def attend(q: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        note("score", scores.abs().max())
        mixed: Tensor = scores.softmax(dim=-1) @ value
        return mixed

    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(norm_seen)
        if isinstance(module, (nn.Linear, nn.LayerNorm, nn.BatchNorm2d)):
            module.register_forward_hook(layer_seen)
        if isinstance(module, Attention):
            module._attend = attend  # type: ignore[method-assign]
    with torch.inference_mode():
        for tile in tiles:
            network(tile[None].float())
    return Ranges(**reached)


def half_from_onnx(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """A copy of an exported flight form or twin, in FP16 inside the student and the decoder."""
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in [*graph.value_info, *graph.output]}
    floats = {name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT}
    constants = {item.name: item for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in floats:
            constants[node.output[0]] = node.attribute[0].t
    rewrite = _Rewrite(floats - set(constants), constants)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in constants:
            continue  # as an initialiser, in the types its readers want
        nodes += rewrite.rewritten(node, half=_is_half(node, ranges))
    others = [item for item in graph.initializer if item.name not in constants]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*others, *rewrite.made.values()])
    return model


@dataclass
class _Rewrite:
    """Walks nodes in their order and keeps every float tensor in the type its readers want.

    Attributes:
        floats: names of float tensors that nodes give.
        constants: float tensors known before the run, by name.
        halves: tensors that a node in FP16 has given.
        made: constants in the types that were wanted, by new name.
    """

    floats: set[str]
    constants: dict[str, onnx.TensorProto]
    halves: set[str] = field(default_factory=set)
    made: dict[str, onnx.TensorProto] = field(default_factory=dict)
    cast: set[str] = field(default_factory=set)

    def rewritten(self, node: onnx.NodeProto, *, half: bool) -> Iterator[onnx.NodeProto]:
        """The node, after the casts that it needs first."""
        result = onnx.NodeProto()
        result.CopyFrom(node)
        for place, name in enumerate(node.input):
            # Scales of a Resize are FP32 by its definition.
            wanted_half = half and not (node.op_type == "Resize" and place > 0)
            if name in self.constants:
                result.input[place] = self._constant(name, half=wanted_half)
            elif name in self.floats and (name in self.halves) != wanted_half:
                renamed = name + ("/half" if wanted_half else "/float")
                if renamed not in self.cast:
                    self.cast.add(renamed)
                    kind = onnx.TensorProto.FLOAT16 if wanted_half else onnx.TensorProto.FLOAT
                    yield onnx.helper.make_node("Cast", [name], [renamed], name=renamed + "/Cast", to=kind)
                result.input[place] = renamed
        if half:
            self.halves |= self.floats & set(node.output)
        yield result

    def _constant(self, name: str, *, half: bool) -> str:
        renamed = name + "/half" if half else name
        if renamed not in self.made:
            values = onnx.numpy_helper.to_array(self.constants[name])
            self.made[renamed] = onnx.numpy_helper.from_array(values.astype(np.float16) if half else values, renamed)
        return renamed


def _is_half(node: onnx.NodeProto, ranges: Ranges) -> bool:
    if not node.name.startswith(HALVED):
        return False
    if node.op_type == "LayerNormalization":
        return not ranges.wide_norms
    if node.name.rsplit("/", 1)[0].endswith("/attention") and (
        node.op_type == "Softmax" or node.name.endswith("/MatMul")  # the first of two products: queries and keys
    ):
        return not ranges.wide_attention
    return True
