"""A model with weights enough to be hit: three convolutions of random values, 32 pixels a tile, for tests."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from engines.verify import write_golden
from tests.tiny_model import SIZE, manifest_of, random_tiles

WIDTH, CLASSES = 32, 4


def write_wide_model(folder: Path) -> Path:
    """Writes folder/{model.onnx, golden.npz, manifest.json}; equal calls give equal files."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(11)
    make = helper.make_node
    constants: dict[str, Any] = {"scale": np.float32(1 / 64), "one": np.int64(1), "full": np.float32(255)}
    nodes = [make("Cast", ["tiles"], ["real"], to=TensorProto.FLOAT), make("Mul", ["real", "scale"], ["layer0"])]
    widths = (3, WIDTH, WIDTH, CLASSES)
    for number, (taken, given) in enumerate(pairwise(widths)):
        weights = chance.normal(0, (2 / (9 * taken)) ** 0.5, (given, taken, 3, 3))
        constants[f"weights{number}"] = weights.astype(np.float32)
        constants[f"bias{number}"] = chance.normal(0, 0.3, given).astype(np.float32)
        inputs = [f"layer{number}", f"weights{number}", f"bias{number}"]
        nodes += [make("Conv", inputs, [f"sum{number}"], pads=[1, 1, 1, 1], name=f"conv{number}")]
        nodes += [make("Relu", [f"sum{number}"], [f"layer{number + 1}"])]
    nodes += [
        make("ArgMax", ["sum2"], ["index"], axis=1, keepdims=0),
        make("Add", ["index", "one"], ["code"]),
        make("Cast", ["code"], ["classes"], to=TensorProto.UINT8),
        make("Softmax", ["sum2"], ["probability"], axis=1),
        make("ReduceMax", ["probability"], ["largest"], axes=[1], keepdims=0),
        make("Mul", ["largest", "full"], ["scaled"]),
        make("Cast", ["scaled"], ["confidence"], to=TensorProto.UINT8),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "wide", [value("tiles", TensorProto.UINT8, ["N", 3, SIZE, SIZE])],
        [value(name, TensorProto.UINT8, ["N", SIZE, SIZE]) for name in ("classes", "confidence")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    tile = random_tiles(1, seed=7)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    classes = session.run(["classes"], {"tiles": tile})[0]
    golden = write_golden(
        folder, tile=tile[0], classes=classes[0], least_agreement={"fp32": 0.97, "bf16": 0.9, "int8": 0.9}
    )
    manifest_of(folder, golden=golden).save(folder)
    return folder
