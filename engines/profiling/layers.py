"""What a graph's layers cost on a GPU: operations and bytes of each kernel, once neighbours are fused as TensorRT does.

A layer here is what runs as one kernel: a convolution or matrix product with the elementwise operators behind it, a
run of elementwise operators, or one operator that mostly moves memory (resize, pooling, softmax). Bytes are those of
tensors that kernels read and write, at two bytes a real number (FP16) and one where the graph has 8-bit tensors; what
passes inside a kernel costs nothing. Reshapes, concatenations and splits cost nothing.

Source: NVIDIA TensorRT Developer Guide, "Layer Fusion": convolution and pointwise, pointwise chains, shuffle and
concatenation elimination, multi-head attention.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engines.errors import BackendUnavailable, ModelNotFound

if TYPE_CHECKING:
    import onnx

Kind = Literal["dense", "thin", "pointwise", "depthwise", "matmul", "memory"]
"""Convolutions larger than 1 x 1 with at least WIDE channels on both sides; with fewer; 1 x 1 convolutions; those with
a group for each channel or few; matrix products and attention; everything without products."""

WIDE = 32
"""Channels from which a convolution fills the tiles that tensor cores work on."""
FEW_A_GROUP = 8
"""Channels of a group up to which its products do not run on tensor cores."""

VIEWS = frozenset({
    "Concat", "Dropout", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze",
    "DequantizeLinear",
})  # fmt: skip
ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod",
    "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign",
    "Sqrt", "Sub", "Sum", "Swish", "Tanh", "Transpose", "Where", "BatchNormalization",
})  # fmt: skip
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

HALF_BYTES = 2
# onnx.TensorProto's numbers of 1-byte types: uint8, int8, bool, and the four float8.
_BYTE_TYPES = frozenset({2, 3, 9, 17, 18, 19, 20})
# Of real numbers: float, float16, double, bfloat16; TensorRT keeps other integers in four.
_REAL_TYPES = frozenset({1, 10, 11, 16})


@dataclass(frozen=True)
class Layer:
    """One kernel, for one tile.

    Attributes:
        name: of its first node in the graph.
        operators: its nodes' types in order, such as "Conv+Clip+Add".
        flops: two of each multiply-add; 0 for kind "memory".
        bytes_moved: read and written.
        shape: of what it writes last.
        int8: whether its products are of 8-bit numbers.
    """

    name: str
    operators: str
    kind: Kind
    flops: int
    bytes_moved: int
    shape: tuple[int, ...]
    int8: bool = False


def layers_of_file(path: Path, *, shape: tuple[int, ...] | None = None) -> tuple[Layer, ...]:
    """Layers of an ONNX file; see layers_of.

    Raises:
        ModelNotFound: no such file, or no ONNX.
        BackendUnavailable: the onnx package is not installed, or sizes of the graph's tensors are not known.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelNotFound(path, (error.strerror or "cannot be read").lower(), "name an .onnx file") from error
    return layers_of_bytes(content, path, shape=shape)


def layers_of_bytes(content: bytes, path: Path, *, shape: tuple[int, ...] | None = None) -> tuple[Layer, ...]:
    """Layers of an ONNX file's bytes; ``path`` is what errors name.

    Raises:
        ModelNotFound, BackendUnavailable: as :func:`layers_of_file`.
    """
    _require_onnx()
    import onnx

    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf's DecodeError has no public home
        raise ModelNotFound(path, "is no ONNX file", "name an .onnx file") from error
    # No bytes at all are a valid message, of a model without a graph: a file whose copy was cut off, for one.
    if not model.graph.node:
        raise ModelNotFound(path, "is an ONNX file without a graph", "copy it again, or name another .onnx file")
    layers = layers_of(model, shape=shape)
    if not layers:
        raise BackendUnavailable("roofline", f"no layer of {path} costs anything", "name a file with a network in it")
    return layers


def layers_of(model: onnx.ModelProto, *, shape: tuple[int, ...] | None = None) -> tuple[Layer, ...]:
    """Layers of a graph in its order, for a batch of one.

    Args:
        model: the graph; weights need no values, only shapes.
        shape: of the first input, where the graph leaves sizes open; its batch is set to 1 in any case.

    Raises:
        BackendUnavailable: sizes of the graph's tensors are not known.
    """
    tensors = _Tensors(_sized(model, shape))
    return tuple(tensors.layers())


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401 - asked for here, once, with a line that helps
    except ImportError as error:
        remedy = f"{sys.executable} -m pip install onnx"
        raise BackendUnavailable("roofline", "the onnx package is not installed", remedy) from error


def _sized(model: onnx.ModelProto, shape: tuple[int, ...] | None) -> onnx.GraphProto:
    """The graph with one tile in its inputs and the shapes of all tensors inferred."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # Up to IR version 3 of ONNX weights are inputs too.
    weights = {item.name for item in copy.graph.initializer}
    ports = [port for port in copy.graph.input if port.name not in weights]
    for port in [*ports, *copy.graph.output]:
        if port.type.tensor_type.shape.dim:
            port.type.tensor_type.shape.dim[0].dim_value = 1
    for port in ports[:1]:  # a graph of constants has none
        for place, size in zip(port.type.tensor_type.shape.dim, shape or (), strict=False):
            place.dim_value = size
    # Shapes that the exporter noted have an open batch, and inference would keep them.
    del copy.graph.value_info[:]
    # data_prop follows small integers through the graph: a Reshape may have a target that is computed.
    return onnx.shape_inference.infer_shapes(copy, data_prop=True).graph


@dataclass
class _Kernel:
    """Nodes that run together; `last` is the place of the last of them in the graph."""

    kind: Kind
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    last: int = 0
    flops: int = 0
    int8: bool = False
    values: int = 0
    own: set[str] = field(default_factory=set)


class _Tensors:
    """Shapes, types and producers of a graph's tensors; views stand for the tensors they look into."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, int] = {}
        for info in [*graph.input, *graph.value_info, *graph.output]:
            kind = info.type.tensor_type
            self.shapes[info.name] = tuple(size.dim_value for size in kind.shape.dim)
            self.types[info.name] = kind.elem_type
        self.constants: set[str] = set()
        for item in graph.initializer:
            self.constants.add(item.name)
            self.shapes[item.name], self.types[item.name] = tuple(item.dims), item.data_type
        self.roots: dict[str, tuple[str, ...]] = {}
        self.kernel_of: dict[str, _Kernel] = {}
        self.kernels: list[_Kernel] = []
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def layers(self) -> Iterator[Layer]:
        """Fuses, then counts."""
        for place, node in enumerate(self.graph.node):
            self._take(place, node)
        outputs = {root for port in self.graph.output for root in self.root(port.name)}
        read_from = {root for kernel in self.kernels for root in self._outside(kernel)}
        # By the last of its nodes: a kernel runs when all that it reads is there.
        for kernel in sorted(self.kernels, key=lambda kernel: kernel.last):
            yield self._layer(kernel, outputs | read_from)

    def root(self, name: str) -> tuple[str, ...]:
        """The tensors that hold a view's values; the tensor itself where it is no view."""
        return self.roots.get(name, (name,))

    def count(self, name: str) -> int:
        """Numbers in a tensor."""
        shape = self.shapes.get(name)
        if shape is None or 0 in shape:
            problem = f"the size of tensor {name} is not known"
            raise BackendUnavailable("roofline", problem, "name the model's folder, or export with fixed sizes")
        return math.prod(shape)

    def bytes_of(self, name: str) -> int:
        """Bytes to read or write a tensor or view once."""
        whole = [(self.count(root), self._width(root)) for root in self.root(name)]
        everything = sum(count * width for count, width in whole)
        # A slice reads less than the tensor below it, an expanded view reads that tensor once.
        return min(everything, self.count(name) * max(width for _, width in whole))

    def _width(self, name: str) -> int:
        kind = self.types.get(name, 0)
        return 1 if kind in _BYTE_TYPES else HALF_BYTES if kind in _REAL_TYPES else 4

    def _take(self, place: int, node: onnx.NodeProto) -> None:
        inputs = [name for name in node.input if name]
        if node.op_type == "DequantizeLinear" or (node.op_type in VIEWS and not self._constant(inputs)):
            # The other inputs of a view are sizes, axes or scales.
            seen = inputs[:1] if node.op_type != "Concat" else inputs
            roots = tuple(dict.fromkeys(root for name in seen for root in self.root(name)))
            self.roots.update(dict.fromkeys(node.output, roots))
            if self._constant(inputs):
                self.constants.update(node.output)
        elif node.op_type in ("Constant", "Shape") or self._constant(inputs):
            self.constants.update(node.output)
        # A convolution pads by itself, so this is counted as part of it.
        elif node.op_type == "Pad" and self._feeds_a_convolution(node):
            self.roots[node.output[0]] = self.root(inputs[0])
        else:
            kernel = self._kernel(node, inputs)
            kernel.nodes.append(node)
            kernel.last = place
            kernel.values = self.count(node.output[0])
            kernel.own.update(node.output)
            self.kernel_of.update(dict.fromkeys(node.output, kernel))

    def _constant(self, names: Iterable[str]) -> bool:
        return all(name in self.constants for name in names)

    def _feeds_a_convolution(self, node: onnx.NodeProto) -> bool:
        readers = self._readers.get(node.output[0], [])
        return [reader.op_type for reader in readers] == ["Conv"]

    def _kernel(self, node: onnx.NodeProto, inputs: list[str]) -> _Kernel:
        """The kernel a node joins, or a new one."""
        if node.op_type in PRODUCTS:
            if (attention := self._attention(node, inputs)) is not None:
                attention.flops += self._flops(node)
                return attention
            return self._new(self._kind(node), flops=self._flops(node), int8=self._is_int8(inputs))
        if node.op_type == "Softmax" and (scores := self._scores(inputs[0])) is not None:
            return scores
        if node.op_type in ELEMENTWISE and (before := self._joined(node, inputs)) is not None:
            return before
        return self._new("memory")

    def _new(self, kind: Kind, *, flops: int = 0, int8: bool = False) -> _Kernel:
        self.kernels.append(_Kernel(kind, flops=flops, int8=int8))
        return self.kernels[-1]

    def _joined(self, node: onnx.NodeProto, inputs: list[str]) -> _Kernel | None:
        """The kernel that an elementwise node can be the end of: the latest of those it reads, of the same size.

        An earlier one will not do: the node may wait for what that kernel's results lead to.
        """
        before = [self.kernel_of[root] for name in inputs for root in self.root(name) if root in self.kernel_of]
        if not before:
            return None
        latest = max(before, key=lambda kernel: kernel.last)
        fits = latest.values == self.count(node.output[0])
        return latest if fits and latest.nodes[0].op_type in PRODUCTS | ELEMENTWISE else None

    def _scores(self, name: str) -> _Kernel | None:
        """The kernel of a product of two activations whose result this is."""
        (root, *others) = self.root(name)
        kernel = self.kernel_of.get(root)
        if others or kernel is None or kernel.nodes[0].op_type != "MatMul":
            return None
        # A product with weights is a layer of its own, and the softmax behind it a classifier's.
        return None if any(self._constant([given]) for given in kernel.nodes[0].input) else kernel

    def _attention(self, node: onnx.NodeProto, inputs: list[str]) -> _Kernel | None:
        """The kernel of the scores this product weights values by: both run as one, the scores are never written."""
        if node.op_type != "MatMul":
            return None
        kernel = self.kernel_of.get(self.root(inputs[0])[0])
        return kernel if kernel is not None and kernel.nodes[-1].op_type == "Softmax" and kernel.flops else None

    def _kind(self, node: onnx.NodeProto) -> Kind:
        if node.op_type not in ("Conv", "ConvTranspose"):
            return "matmul"
        # Weights of Conv: (outputs, inputs of a group, window); of ConvTranspose: (inputs, outputs of a group, window).
        first, second, *window = self.shapes[node.input[1]]
        groups = next((item.i for item in node.attribute if item.name == "group"), 1)
        outputs = first if node.op_type == "Conv" else second * groups
        inputs = second * groups if node.op_type == "Conv" else first
        if groups > 1 and min(inputs, outputs) // groups <= FEW_A_GROUP:
            return "depthwise"
        if math.prod(window) == 1:
            return "pointwise"
        return "dense" if min(inputs, outputs) // groups >= WIDE else "thin"

    def _flops(self, node: onnx.NodeProto) -> int:
        if node.op_type == "Conv":
            return 2 * self.count(node.output[0]) * math.prod(self.shapes[node.input[1]][1:])
        # Each value of the input is spread over a window of all outputs of its group.
        if node.op_type == "ConvTranspose":
            return 2 * self.count(node.input[0]) * math.prod(self.shapes[node.input[1]][1:])
        inner = self.shapes[node.input[0]][-1]
        if node.op_type == "Gemm" and any(item.name == "transA" and item.i for item in node.attribute):
            inner = self.shapes[node.input[0]][0]
        return 2 * self.count(node.output[0]) * inner

    def _is_int8(self, inputs: list[str]) -> bool:
        # Both factors: a kernel of 8-bit weights and FP16 values multiplies in FP16.
        return all(self._width(root) == 1 for name in inputs[:2] for root in self.root(name))

    def _outside(self, kernel: _Kernel) -> set[str]:
        """Tensors of other kernels that a kernel reads."""
        read = {root for node in kernel.nodes for name in node.input if name for root in self.root(name)}
        return {root for root in read if root not in kernel.own and root not in self.constants}

    def _layer(self, kernel: _Kernel, needed: set[str]) -> Layer:
        moved = 0
        for name in {name for node in kernel.nodes for name in node.input if name}:
            # A scalar is a parameter of the kernel.
            if not set(self.root(name)) <= kernel.own and self.shapes.get(name) != ():
                moved += self.bytes_of(name) if name in self.shapes else 0
        # A result that is read within the kernel alone is never written.
        moved += sum(self.bytes_of(name) for name in kernel.own & needed)
        return Layer(
            name=kernel.nodes[0].name or kernel.nodes[0].output[0],
            operators="+".join(node.op_type for node in kernel.nodes),
            kind=kernel.kind, flops=kernel.flops, bytes_moved=moved,
            shape=self.shapes[kernel.nodes[-1].output[0]], int8=kernel.int8,
        )  # fmt: skip
