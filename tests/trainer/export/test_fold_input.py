"""What normalises the pixels of an exported graph, as one addition."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from trainer.export.fold_input import fold_normalisation

Floats = NDArray[np.float32]
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
BANDS = (1, 3, 1, 1)
STEPS: list[tuple[str, Floats]] = [
    ("Sub", np.array([123.7, 116.3, 103.5], np.float32).reshape(BANDS)),
    ("Div", np.array([58.4, 57.1, 57.4], np.float32).reshape(BANDS)),
    ("Mul", np.array([0.46], np.float32)),
    ("Add", np.array([-0.03, 0.1, 0.2], np.float32).reshape(BANDS)),
]


def graph_of(steps: list[tuple[str, Floats]], *, read_twice: bool = False) -> onnx.ModelProto:
    """Bytes, a cast, the steps, and a convolution that pads with zeros."""
    nodes = [helper.make_node("Cast", ["tiles"], ["t0"], to=onnx.TensorProto.FLOAT)]
    constants = [numpy_helper.from_array(WEIGHTS, "w")]
    for place, (kind, by) in enumerate(steps):
        nodes.append(helper.make_node(kind, [f"t{place}", f"c{place}"], [f"t{place + 1}"], name=f"step{place}"))
        constants.append(numpy_helper.from_array(by, f"c{place}"))
    nodes.append(helper.make_node("Conv", [f"t{len(steps)}", "w"], ["y"], pads=[1, 1, 1, 1]))
    info = helper.make_tensor_value_info
    outputs = [info("y", onnx.TensorProto.FLOAT, [1, 4, 8, 8])]
    if read_twice:
        nodes.append(helper.make_node("Identity", ["t1"], ["seen"]))
        outputs.append(info("seen", onnx.TensorProto.FLOAT, [1, 3, 8, 8]))
    tiles = info("tiles", onnx.TensorProto.UINT8, [1, 3, 8, 8])
    return helper.make_model(
        helper.make_graph(nodes, "g", [tiles], outputs, constants), opset_imports=[helper.make_opsetid("", 17)]
    )


def run(model: onnx.ModelProto) -> list[Floats]:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    results = ReferenceEvaluator(model).run(None, {"tiles": pixels})
    assert isinstance(results, list)  # of arrays; a dictionary only where it is asked for
    return results


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_first_convolution_gives_the_same_to_its_very_border(count: int) -> None:
    model = graph_of(STEPS[:count])
    before = run(model)[0]
    fold_normalisation(model.graph)
    assert run(model)[0] == pytest.approx(before, rel=1e-4, abs=1e-4 * float(np.abs(before).max()))
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    (addition,) = (node for node in model.graph.node if conv.input[0] in node.output)
    assert (addition.op_type, addition.input[0]) == ("Add", "t0")


@pytest.mark.parametrize("model", [
    graph_of(STEPS, read_twice=True),
    graph_of([]),
    graph_of([("Mul", np.zeros(1, np.float32))]),
    graph_of([("Sub", np.ones((1, 3, 8, 1), np.float32))]),
], ids=["read twice", "no steps", "times nothing", "by row"])  # fmt: skip
def test_a_graph_of_another_form_stays_as_it_is(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    fold_normalisation(model.graph)
    assert model.SerializeToString() == before
