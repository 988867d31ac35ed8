from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import BackendUnavailable
from engines.manifest import Manifest
from engines.open import manifest_path
from engines.profiling.layer_report import named_layers
from engines.profiling.layers import Layer, layers_of
from tests.tiny_convolutional import write_convolutional

SIDE = 16
MAP = SIDE * SIDE


def counted(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], *, channels: int = 64) -> list[Layer]:
    """Layers of a graph from "x" (1, channels, 16, 16) to "y"."""
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", channels, SIDE, SIDE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=[numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return list(layers_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)))


def kernel(outputs: int, inputs: int, side: int = 3) -> np.ndarray:
    return np.zeros((outputs, inputs, side, side), np.float32)


def conv(x: str, weights: str, y: str, *, side: int = 3, group: int = 1) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, weights], [y], pads=[side // 2] * 4, group=group)


def test_activation_and_sum_are_part_of_the_convolution_before_them() -> None:
    node = helper.make_node
    (layer,) = counted(
        [
            conv("x", "w", "a"),
            node("Relu", ["a"], ["b"]),
            node("Add", ["b", "x"], ["y"]),
        ],
        {"w": kernel(64, 64)},
    )
    assert (layer.operators, layer.kind) == ("Conv+Relu+Add", "dense")
    assert layer.flops == 2 * 64 * MAP * 64 * 9
    assert layer.bytes_moved == 2 * (2 * 64 * MAP + 64 * 64 * 9)  # x once, y once, weights


def test_a_tensor_that_two_nodes_of_one_kernel_read_is_not_written() -> None:
    node = helper.make_node
    nodes = [conv("x", "w", "a"), node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["y"])]
    (layer,) = counted(nodes, {"w": kernel(64, 64)})
    assert layer.bytes_moved == 2 * (2 * 64 * MAP + 64 * 64 * 9)


def test_a_gate_that_waits_for_a_mean_is_a_kernel_of_its_own() -> None:
    node = helper.make_node
    layers = counted(
        [
            conv("x", "w", "a"),
            node("GlobalAveragePool", ["a"], ["mean"]),
            node("Sigmoid", ["mean"], ["gate"]),
            node("Mul", ["a", "gate"], ["y"]),
        ],
        {"w": kernel(64, 64)},
    )
    assert [layer.operators for layer in layers] == ["Conv", "GlobalAveragePool", "Sigmoid", "Mul"]
    assert layers[-1].bytes_moved == 2 * (2 * 64 * MAP + 64)


def test_a_sum_joins_the_later_of_two_convolutions() -> None:
    nodes = [conv("x", "w", "a"), conv("x", "w", "b"), helper.make_node("Add", ["a", "b"], ["y"])]
    first, second = counted(nodes, {"w": kernel(64, 64)})
    assert (first.operators, second.operators) == ("Conv", "Conv+Add")
    assert second.bytes_moved - first.bytes_moved == 2 * 64 * MAP  # a is read again


@pytest.mark.parametrize(
    ("weights", "side", "group", "kind"),
    [
        (kernel(64, 64), 3, 1, "dense"),
        (kernel(16, 64), 3, 1, "thin"),
        (kernel(64, 64, 1), 1, 1, "pointwise"),
        (kernel(64, 1), 3, 64, "depthwise"),
        (kernel(64, 32), 3, 2, "dense"),
        (kernel(64, 16), 3, 4, "thin"),
    ],
)
def test_kinds_of_convolutions(weights: np.ndarray, side: int, group: int, kind: str) -> None:
    (layer,) = counted([conv("x", "w", "y", side=side, group=group)], {"w": weights})
    assert layer.kind == kind
    assert layer.flops == 2 * MAP * weights.size


def test_attention_never_writes_its_scores() -> None:
    node = helper.make_node
    layers = counted(
        [
            node("Reshape", ["x", "tokens"], ["q"]),
            node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
            node("MatMul", ["q", "k"], ["scores"]),
            node("Mul", ["scores", "scale"], ["scaled"]),
            node("Softmax", ["scaled"], ["weights"], axis=-1),
            node("MatMul", ["weights", "q"], ["y"]),
        ],
        {"tokens": np.array([1, MAP, 64]), "scale": np.array(0.125, np.float32)},
    )
    attention = layers[-1]
    assert attention.operators == "MatMul+Mul+Softmax+MatMul"
    assert attention.flops == 2 * 2 * MAP * MAP * 64
    assert attention.bytes_moved == 2 * 3 * MAP * 64  # q, k, y


def test_a_classifiers_softmax_is_no_attention() -> None:
    node = helper.make_node
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Softmax", ["a"], ["b"]), node("MatMul", ["b", "v"], ["y"])]
    layers = counted(nodes, {"w": np.zeros((SIDE, 8), np.float32), "v": np.zeros((8, 4), np.float32)})
    assert [layer.operators for layer in layers] == ["MatMul", "Softmax", "MatMul"]


def test_parts_laid_side_by_side_cost_nothing() -> None:
    node = helper.make_node
    nodes = [conv("x", "w", "a"), conv("x", "w", "b"), node("Concat", ["a", "b"], ["c"], axis=1), conv("c", "v", "y")]
    layers = counted(nodes, {"w": kernel(64, 64), "v": kernel(64, 128)})
    assert [layer.operators for layer in layers] == ["Conv", "Conv", "Conv"]
    assert layers[-1].bytes_moved == 2 * (192 * MAP + 64 * 128 * 9)


def test_8_bit_tensors_count_one_byte_a_number() -> None:
    node = helper.make_node
    weights: dict[str, np.ndarray] = {
        "w8": np.zeros((64, 64, 3, 3), np.int8), "scale": np.array(0.1, np.float32), "zero": np.array(0, np.int8),
        "first": kernel(64, 64), "ws": np.full(64, 0.1, np.float32), "wz": np.zeros(64, np.int8),
    }  # fmt: skip
    layers = counted(
        [
            conv("x", "first", "a"),
            node("QuantizeLinear", ["a", "scale", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], axis=0),
            conv("d", "w", "y"),
        ],
        weights,
    )
    first, second = layers
    assert first.operators == "Conv+QuantizeLinear"
    assert (first.int8, second.int8) == (False, True)
    assert second.bytes_moved == 64 * MAP + 64 * 64 * 9 + 2 * 64 * MAP


def test_open_sizes_are_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "open",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, "H", "W"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BackendUnavailable, match=r"size of tensor . is not known; name the model's folder"):
        layers_of(model)
    (layer,) = layers_of(model, shape=(1, 3, 8, 8))
    assert layer.bytes_moved == 2 * 2 * 3 * 64


def test_the_shipped_default_is_counted_as_its_manifest_says() -> None:
    path: Path = manifest_path(None)
    cost = Manifest.load(path).cost
    assert cost is not None
    _, layers = named_layers(None)
    assert sum(layer.flops for layer in layers) == pytest.approx(cost.flops, rel=0.03)


def test_a_model_of_several_sides_is_counted_at_its_largest(tmp_path: Path) -> None:
    write_convolutional(tmp_path / "model")
    _, layers = named_layers(tmp_path / "model")
    _, *sides = layers[-1].shape
    assert sides[-2:] == [1024, 1024]
