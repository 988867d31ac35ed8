"""Converts an ONNX graph to half precision: FP16, except where measured value ranges require FP32.

FP16 ends at 65,504 and has eleven bits of precision. Pixels are normalised in FP32, and logits are converted to FP32
before resizing and the choice of classes. LayerNorm and attention scores use FP16, for which engines have the fastest
kernels, unless measurements on real tiles show an overflow or too large rounding errors.

The graph is rewritten instead of exported from a half-precision network, because a CPU traces such a network at a
hundredth of the speed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from trainer.models.segmenter import Segmenter
from trainer.models.student import Attention

LARGEST = 65504.0
"""Largest finite FP16 number."""
HEADROOM = 4.0
"""Safety factor between the largest value measured on a few tiles and overflow."""
ROUNDED = 64.0
"""Above this, FP16 rounds scores by 1/32 or more, which changes a weight of the softmax by 3 % or more."""
HALVED = ("/segmenter/student/", "/segmenter/decoder/")
"""Scopes of the graph that are converted to FP16; the exporter names nodes by module."""


@dataclass(frozen=True)
class Ranges:
    """Largest values in an FP32 run over some tiles.

    Attributes:
        squares: largest sum of squared deviations over the width inside a LayerNorm.
        score: largest magnitude of a scaled product of query and key.
        activation: largest magnitude of a linear layer, a norm, or the sum that runs from block to block.
        given_norms, given_attention: whether these need FP32 in spite of the values, for a head on an encoder's file
            that is written already; None: the values decide.
    """

    squares: float
    score: float
    activation: float
    given_norms: bool | None = None
    given_attention: bool | None = None

    @classmethod
    def joined(cls, ranges: Sequence[Ranges]) -> Ranges:
        """Of several heads on one encoder, so that the encoder gets the same widths under each."""
        return cls(
            squares=max(item.squares for item in ranges),
            score=max(item.score for item in ranges),
            activation=max(item.activation for item in ranges),
        )

    def under(self, encoder: onnx.ModelProto) -> Ranges:
        """These, with the widths that an encoder's FP16 file has."""
        kinds = {item.name: item.data_type for item in encoder.graph.initializer}
        # The scale of a norm is a constant in the width that the norm computes in.
        norms = [kinds.get(node.input[1]) for node in encoder.graph.node if node.op_type == "LayerNormalization"]
        scores = [node for node in encoder.graph.node if _is_score_product(node)]
        return replace(
            self,
            given_norms=norms[0] == onnx.TensorProto.FLOAT if norms else None,
            # Scores in FP32 read what `_Rewrite` cast for them, and such tensors have names of this ending.
            given_attention=any(name.endswith("/float") for name in scores[0].input) if scores else None,
        )

    @property
    def wide_norms(self) -> bool:
        """Whether LayerNorm needs FP32: an engine that sums squares in FP16 would overflow."""
        return self.squares * HEADROOM > LARGEST if self.given_norms is None else self.given_norms

    @property
    def wide_attention(self) -> bool:
        """Whether scores and softmax need FP32."""
        return self.score > ROUNDED if self.given_attention is None else self.given_attention

    def described(self) -> str:
        """Which of the two stay in FP32, with the measured reason, in words."""
        norms = "FP32" if self.wide_norms else "FP16"
        attention = "FP32" if self.wide_attention else "FP16"
        return (
            f"LayerNorm in {norms} (sums of squares reach {self.squares:,.0f}, FP16 ends at {LARGEST:,.0f}), attention "
            f"scores and softmax in {attention} (scores reach {self.score:.0f}), all else between pixels and logits in "
            f"FP16 (activations reach {self.activation:.0f})."
        )


def measured_ranges(segmenter: Segmenter, tiles: Tensor) -> Ranges:
    """Runs tiles uint8 (N, 3, S, S) through an FP32 copy and records the largest values of its layers."""
    # A copy: hooks and the replaced attention must not stay on the caller's network.
    network = copy.deepcopy(segmenter).eval()
    reached = {"squares": 0.0, "score": 0.0, "activation": 0.0}

    def note(name: str, value: Tensor) -> None:
        reached[name] = max(reached[name], float(value))

    def norm_seen(_: nn.Module, inputs: tuple[Any, ...], __: Tensor) -> None:
        # An engine may sum the squares before it divides by the width; the sum, not the mean, is what overflows.
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
            # torch's fused attention never shows its scores, so they are computed here once more.
            module._attend = attend  # type: ignore[method-assign]
    with torch.inference_mode():
        # One by one: the maxima are the same, and the activations of one tile are large enough.
        for tile in tiles:
            network(tile[None].float())
    return Ranges(reached["squares"], reached["score"], reached["activation"])


def half_from_onnx(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """A copy of an exported graph with student and decoder in FP16."""
    # Also makes the copy that is changed below.
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in [*graph.value_info, *graph.output]}
    floats = {name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT}
    constants = {item.name: item for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in floats:
            constants[node.output[0]] = node.attribute[0].t
    # Constants need no cast at run time: each is written in the type, or both types, that its readers want.
    rewrite = _Rewrite(floats - set(constants), constants)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in constants:
            continue  # as an initialiser, in the types its readers want
        nodes += rewrite.rewritten(node, half=_is_half(node, ranges))
    others = [item for item in graph.initializer if item.name not in constants]
    # The inferred types are of FP32 and would contradict the casts.
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*others, *rewrite.made.values()])
    return model


@dataclass
class _Rewrite:
    """Visits the nodes in order and casts each float tensor to the type that its readers need.

    Attributes:
        floats: names of float outputs of nodes.
        constants: constant float tensors, by name.
        halves: outputs of FP16 nodes.
        made: constants in the types that were needed, by new name.
    """

    floats: set[str]
    constants: dict[str, onnx.TensorProto]
    halves: set[str] = field(default_factory=set)
    made: dict[str, onnx.TensorProto] = field(default_factory=dict)
    cast: set[str] = field(default_factory=set)

    def rewritten(self, node: onnx.NodeProto, *, half: bool) -> Iterator[onnx.NodeProto]:
        """The node, preceded by the casts that it needs."""
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
    if _is_score_product(node) or (_is_of_attention(node) and node.op_type == "Softmax"):
        return not ranges.wide_attention
    return True


def _is_score_product(node: onnx.NodeProto) -> bool:
    """The first of attention's two products: queries and keys."""
    return _is_of_attention(node) and node.name.endswith("/MatMul")


def _is_of_attention(node: onnx.NodeProto) -> bool:
    return node.name.rsplit("/", 1)[0].endswith("/attention")
