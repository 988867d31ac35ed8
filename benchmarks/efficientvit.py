"""EfficientViT's segmentation networks as ONNX graphs: their published latencies on an Orin check our roofline.

Source: Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction", ICCV 2023, and
the authors' tables (github.com/mit-han-lab/efficientvit, applications/efficientvit_seg/README.md): Jetson AGX Orin,
TensorRT, FP16, batch of one, data transfer included. Widths, depths and heads are those of the authors' models; the
graphs are written anew. Batch norms are folded into convolutions, as they are before anything runs; weights have
shapes but no values, which nothing here reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.profiling.layers import layers_of
from engines.profiling.roofline import AGX_ORIN


@dataclass(frozen=True)
class Head:
    """Of a segmentation network: width, blocks, their expansion and kind, the last expansion (0: none), classes."""

    width: int
    depth: int
    expand: int
    fused: bool
    final: int
    classes: int


@dataclass(frozen=True)
class Published:
    """One network as published.

    Attributes:
        widths, depths: of the stem and four stages.
        dim: numbers of a head of attention.
        large: of the L series.
        size: rows and columns.
        giga_macs: as published.
        latency_ms: as published, on a Jetson AGX Orin.
    """

    name: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    dim: int
    large: bool
    head: Head
    size: tuple[int, int]
    giga_macs: float
    latency_ms: float


# Cityscapes and ADE20K at the sizes of the authors' tables.
_CITY, _ADE = (1024, 2048), (512, 512)
_LARGE = (32, 64, 128, 256, 512)
_B1 = Published("B1", (16, 32, 64, 128, 256), (1, 2, 3, 3, 4), 16, False, Head(64, 3, 4, False, 4, 19), _CITY, 25, 24.3)
_B2 = Published("B2", (24, 48, 96, 192, 384), (1, 3, 4, 4, 6), 32, False, Head(96, 3, 4, False, 4, 19), _CITY, 74, 46.5)
_B3 = Published(
    "B3", (32, 64, 128, 256, 512), (1, 4, 6, 6, 9), 32, False, Head(128, 3, 4, False, 4, 19), _CITY, 179, 81.8
)
_L1 = Published("L1", _LARGE, (1, 1, 1, 6, 6), 32, True, Head(256, 3, 1, True, 0, 19), _CITY, 282, 45.9)
_L2 = Published("L2", _LARGE, (1, 2, 2, 8, 8), 32, True, Head(256, 5, 1, True, 0, 19), _CITY, 396, 60.0)
CALIBRATED = (
    Published("B0", (8, 16, 32, 64, 128), (1, 2, 2, 2, 2), 16, False, Head(32, 1, 4, False, 4, 19), _CITY, 4.4, 9.9),
    _B1, _L1, _L2,
)  # fmt: skip
"""What the roofline's rates were chosen by."""
HELD_OUT = (
    _B2,
    _B3,
    replace(_B1, name="B1, 512", head=Head(64, 3, 4, False, 0, 150), size=_ADE, giga_macs=3.1, latency_ms=4.0),
    replace(_B2, name="B2, 512", head=Head(96, 3, 4, False, 0, 150), size=_ADE, giga_macs=9.1, latency_ms=7.3),
    replace(_B3, name="B3, 512", head=Head(128, 3, 4, False, 0, 150), size=_ADE, giga_macs=22, latency_ms=12.5),
    replace(_L1, name="L1, 512", head=Head(128, 3, 4, True, 8, 150), size=_ADE, giga_macs=36, latency_ms=7.2),
    replace(_L2, name="L2, 512", head=Head(128, 3, 4, True, 8, 150), size=_ADE, giga_macs=45, latency_ms=9.0),
)
"""What it was not."""


def predicted_beside_published(_folder: Path, *, quick: bool) -> None:
    """Prints the roofline's latencies on AGX Orin beside the published ones."""
    print("EfficientViT, segmentation, AGX Orin, TensorRT FP16, one image: published, expected by our roofline")
    for kind, networks in (("the rates were chosen by", CALIBRATED), ("held out", HELD_OUT)):
        for network in networks[: 2 if quick else None]:
            layers = layers_of(graph(network))
            # Published are multiply-adds, each of which is two operations here.
            macs = sum(layer.flops for layer in layers) / 2e9
            expected = 1e3 / AGX_ORIN.tiles_per_s(layers)
            print(
                f"  {network.name:<9}{network.giga_macs:6.1f} GMAC published, {macs:6.1f} counted;"
                f"{network.latency_ms:7.1f} ms published, {expected:5.1f} expected "
                f"{expected / network.latency_ms - 1:+6.0%}   {kind}"
            )


def graph(network: Published) -> onnx.ModelProto:
    """The network, (1, 3, rows, columns) float in, class scores at an eighth of that out; weights have no values."""
    writer = _Writer()
    # As published: the B series has HardSwish, the L series GELU.
    activation = "Gelu" if network.large else "HardSwish"
    features = (_large if network.large else _small)(writer, network, activation)
    scores = _head(writer, network, features, activation)
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, *network.size))]
    outputs = [helper.make_tensor_value_info(scores.name, TensorProto.FLOAT, None)]
    body = helper.make_graph(writer.nodes, network.name, inputs, outputs, initializer=writer.weights)
    # Gelu is an operator of ONNX from opset 20 on.
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@dataclass(frozen=True)
class _Tensor:
    name: str
    channels: int
    rows: int
    columns: int


class _Writer:
    """Nodes and weights so far."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def shape_only(self, shape: Sequence[int]) -> str:
        """A weight without values: 40 M of them would take longer to make than everything else here."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT))
        return name

    def constant(self, values: object, kind: type = np.int64) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, kind), name))
        return name

    def conv(
        self, x: _Tensor, channels: int, window: int = 1, *, stride: int = 1, groups: int = 1, activation: str = ""
    ) -> _Tensor:
        weights = [self.shape_only((channels, x.channels // groups, window, window)), self.shape_only((channels,))]
        name = self.node(
            "Conv", [x.name, *weights], kernel_shape=[window] * 2, strides=[stride] * 2, group=groups,
            pads=[window // 2] * 4,
        )  # fmt: skip
        if activation:
            name = self.node(activation, [name])
        return _Tensor(name, channels, x.rows // stride, x.columns // stride)

    def add(self, x: _Tensor, y: _Tensor) -> _Tensor:
        return replace(x, name=self.node("Add", [x.name, y.name]))


def _mb(writer: _Writer, x: _Tensor, channels: int, expand: int, activation: str, *, stride: int = 1) -> _Tensor:
    """1 x 1, depthwise 3 x 3, 1 x 1."""
    wide = writer.conv(x, x.channels * expand, activation=activation)
    deep = writer.conv(wide, wide.channels, 3, stride=stride, groups=wide.channels, activation=activation)
    return writer.conv(deep, channels)


def _fused_mb(writer: _Writer, x: _Tensor, channels: int, expand: int, activation: str, *, stride: int = 1) -> _Tensor:
    """3 x 3, 1 x 1."""
    return writer.conv(writer.conv(x, x.channels * expand, 3, stride=stride, activation=activation), channels)


def _attention(writer: _Writer, x: _Tensor, dim: int) -> _Tensor:
    """Linear attention over one further scale: ReLU kernels, so that keys meet values first."""
    heads = x.channels // dim
    qkv = writer.conv(x, 3 * heads * dim)
    # Depthwise 5 x 5, then 1 x 1 within each head's q, k and v: the further scale of "multi-scale".
    coarse = writer.conv(qkv, qkv.channels, 5, groups=qkv.channels)
    coarse = writer.conv(coarse, qkv.channels, groups=3 * heads)
    both = writer.node("Concat", [qkv.name, coarse.name], axis=1)
    pixels = x.rows * x.columns
    rows = writer.node("Reshape", [both, writer.constant([1, -1, 3 * dim, pixels])])
    q, key, value = (
        writer.node("Slice", [rows, writer.constant([dim * i]), writer.constant([dim * (i + 1)]), writer.constant([2])])
        for i in range(3)
    )
    q, key = writer.node("Relu", [q]), writer.node("Relu", [key])
    turned = writer.node("Transpose", [key], perm=[0, 1, 3, 2])
    # A row of ones under the values: its product with the keys is the normaliser, in the same MatMul.
    padded = writer.node("Pad", [value, writer.constant([0, 0, 0, 0, 0, 0, 1, 0]), writer.constant(1, np.float32)])
    # Values by keys first, dim + 1 by dim numbers: so the cost is linear in pixels.
    out = writer.node("MatMul", [writer.node("MatMul", [padded, turned]), q])
    top = writer.node("Slice", [out, writer.constant([0]), writer.constant([dim]), writer.constant([2])])
    norm = writer.node("Slice", [out, writer.constant([dim]), writer.constant([dim + 1]), writer.constant([2])])
    # The authors' epsilon.
    ratio = writer.node("Div", [top, writer.node("Add", [norm, writer.constant(1e-15, np.float32)])])
    shaped = writer.node("Reshape", [ratio, writer.constant([1, -1, x.rows, x.columns])])
    return writer.conv(_Tensor(shaped, 2 * heads * dim, x.rows, x.columns), x.channels)


def _attended(writer: _Writer, x: _Tensor, dim: int, expand: int, activation: str) -> _Tensor:
    x = writer.add(_attention(writer, x, dim), x)
    return writer.add(_mb(writer, x, x.channels, expand, activation), x)


def _small(writer: _Writer, network: Published, activation: str) -> list[_Tensor]:
    """The B series; features of the last three stages."""
    x = writer.conv(_Tensor("image", 3, *network.size), network.widths[0], 3, stride=2, activation=activation)
    for _ in range(network.depths[0]):
        deep = writer.conv(x, x.channels, 3, groups=x.channels, activation=activation)
        x = writer.add(writer.conv(deep, x.channels), x)
    features = []
    for stage, (width, depth) in enumerate(zip(network.widths[1:], network.depths[1:], strict=True), 1):
        attends = stage > 2
        x = _mb(writer, x, width, 4, activation, stride=2)
        for _ in range(depth if attends else depth - 1):
            if attends:
                x = _attended(writer, x, network.dim, 4, activation)
            else:
                x = writer.add(_mb(writer, x, width, 4, activation), x)
        features.append(x)
    return features[1:]


def _large(writer: _Writer, network: Published, activation: str) -> list[_Tensor]:
    """The L series; features of the last three stages."""
    x = writer.conv(_Tensor("image", 3, *network.size), network.widths[0], 3, stride=2, activation=activation)
    for _ in range(network.depths[0]):
        first = writer.conv(x, x.channels, 3, activation=activation)
        x = writer.add(writer.conv(first, x.channels, 3), x)
    features = []
    for stage, (width, depth) in enumerate(zip(network.widths[1:], network.depths[1:], strict=True), 1):
        expand = 6 if stage == 4 else 4
        block = _fused_mb if stage < 3 else _mb
        x = block(writer, x, width, 4 * expand, activation, stride=2)
        for _ in range(depth):
            if stage == 4:
                x = _attended(writer, x, network.dim, expand, activation)
            else:
                x = writer.add(block(writer, x, width, expand, activation), x)
        features.append(x)
    return features[1:]


def _head(writer: _Writer, network: Published, features: list[_Tensor], activation: str) -> _Tensor:
    """All features at an eighth of the image, summed; blocks; class scores."""
    head = network.head
    sums = []
    for x in reversed(features):
        y = writer.conv(x, head.width)
        if (factor := features[0].rows // y.rows) > 1:
            scales = writer.constant([1, 1, factor, factor], np.float32)
            name = writer.node("Resize", [y.name, "", scales], mode="cubic")
            y = _Tensor(name, y.channels, y.rows * factor, y.columns * factor)
        sums.append(y)
    x = writer.add(writer.add(sums[0], sums[1]), sums[2])
    block = _fused_mb if head.fused else _mb
    for _ in range(head.depth):
        x = writer.add(block(writer, x, head.width, head.expand, activation), x)
    if head.final:
        x = writer.conv(x, head.width * head.final, activation=activation)
    return writer.conv(x, head.classes)
