"""When two encoders count as the same: layers equal, weights equal but for the rounding of another processor."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trainer.export.split import same_network

WEIGHTS = np.random.default_rng(1).normal(size=(8, 3, 3, 3)).astype(np.float32)
ULP = np.finfo(np.float32).eps * float(np.abs(WEIGHTS).max())


def encoder(weights: NDArray[np.floating], *, stride: int = 1, name: str = "weights") -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(weights.dtype)
    value = helper.make_tensor_value_info
    node = helper.make_node("Conv", ["x", name], ["y"], name="/segmenter/student/Conv", strides=[stride, stride])
    graph = helper.make_graph(
        [node], "tiny", [value("x", kind, ["N", 3, 8, 8])], [value("y", kind, None)],
        [numpy_helper.from_array(weights, name)],
    )  # fmt: skip
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (WEIGHTS, True),
        (WEIGHTS + np.float32(2 * ULP), True),
        (WEIGHTS + np.float32(20 * ULP), False),
        (WEIGHTS * np.float32(1.001), False),
        (WEIGHTS[:4], False),
        (WEIGHTS.astype(np.float16), False),
        (np.where(np.abs(WEIGHTS) > 1e9, WEIGHTS, np.nan).astype(np.float32), False),
    ],
)
def test_weights_may_differ_by_rounding_alone(other: NDArray[np.floating], is_same: bool) -> None:
    assert same_network(encoder(WEIGHTS), encoder(other)) == is_same


def test_halves_may_differ_by_one_step_each() -> None:
    half = WEIGHTS.astype(np.float16)
    assert same_network(encoder(half), encoder(np.nextafter(half, np.float16(9))))
    assert not same_network(encoder(half), encoder((half * np.float16(1.005)).astype(np.float16)))


def test_other_layers_are_another_network() -> None:
    assert not same_network(encoder(WEIGHTS), encoder(WEIGHTS, stride=2))
    assert not same_network(encoder(WEIGHTS), encoder(WEIGHTS, name="others"))
