"""A tiny real model for tests: what the exporter makes, small enough to be written by hand."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.manifest import Band, ClassInfo, Familiarity, Manifest, ModelFile, ModelInput, ModelOutput
from engines.verify import write_golden

SIZE = 32
MEAN, STD = 100.0, 50.0
WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
COLORS = ("#e2574c", "#6e6e6e", "#4c9f4c", "#3b82c4")


def tiny_classes(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The tiny model in numpy: the brightest band's number, 4 where all are darker than the mean."""
    normal = (tiles.astype(np.float32) - MEAN) / STD
    logits = np.einsum("kb,nbhw->nkhw", WEIGHTS, normal)
    codes: NDArray[np.uint8] = (logits.argmax(1) + 1).astype(np.uint8)
    return codes


def tiny_familiarity(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of the tiny model with that output: mean of a tile's values / 255, float32 (N,)."""
    means: NDArray[np.float32] = (tiles.astype(np.float32).mean(axis=(1, 2, 3)) / 255).astype(np.float32)
    return means


def familiarity_facts(**changes: Any) -> Familiarity:
    """The manifest's entry for it."""
    facts: dict[str, Any] = {
        "threshold": 0.02, "fitted_on": "noise", "held_out": "noise", "held_out_tiles": 50, "wrongly_unfamiliar": 0.02,
    }  # fmt: skip
    return Familiarity(**(facts | changes))


def write_onnx(  # each option is one way to be no model of ours
    path: Path,
    *,
    batch: str | int = "N",
    size: int = SIZE,
    bands: int = 3,
    taken: str = "tiles",
    told: str = "classes",
    told_type: int = TensorProto.UINT8,
    scale: float = 1.0,
    failing: bool = False,
    familiarity: bool = False,
) -> None:
    """uint8 in; normalisation, a 1x1 convolution and argmax inside; classes and confidence out, uint8."""
    weights = np.pad(WEIGHTS, ((0, 0), (0, bands - 3)))[:, :, None, None] * np.float32(scale)
    constants: dict[str, Any] = {
        "mean": np.float32(MEAN), "std": np.float32(STD), "weights": weights.astype(np.float32),
        "one": np.int64(1), "full": np.float32(255),
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("Cast", [taken], ["real"], to=TensorProto.FLOAT),
        make("Sub", ["real", "mean"], ["centred"]),
        make("Div", ["centred", "std"], ["normal"]),
        make("Conv", ["normal", "weights"], ["logits"]),
        make("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
        make("Add", ["index", "one"], ["code"]),
        make("Cast", ["code"], [told], to=told_type),
        make("Softmax", ["logits"], ["probability"], axis=1),
        make("ReduceMax", ["probability"], ["largest"], axes=[1], keepdims=0),
        make("Mul", ["largest", "full"], ["scaled"]),
        make("Round", ["scaled"], ["rounded"]),
        make("Cast", ["rounded"], ["confidence"], to=TensorProto.UINT8),
    ]
    if failing:  # rows that are not there: only running it finds out
        constants["rows"] = np.arange(SIZE) + 1000
        nodes[4:5] = [
            make("ArgMax", ["logits"], ["whole"], axis=1, keepdims=0),
            make("Gather", ["whole", "rows"], ["index"], axis=1),
        ]
    value = helper.make_tensor_value_info
    outputs = [
        value(told, told_type, [batch, size, size]), value("confidence", TensorProto.UINT8, [batch, size, size]),
    ]  # fmt: skip
    if familiarity:
        nodes += [
            make("ReduceMean", ["real"], ["mean_value"], axes=[1, 2, 3], keepdims=0),
            make("Div", ["mean_value", "full"], ["familiarity"]),
        ]
        outputs.append(value("familiarity", TensorProto.FLOAT, [batch]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value(taken, TensorProto.UINT8, [batch, bands, size, size])],
        outputs,
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def manifest_of(folder: Path, **changes: Any) -> Manifest:
    """A valid manifest for folder/model.onnx."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "version": "1.0",
        "created": datetime(2024, 5, 6, tzinfo=timezone.utc),
        "model": ModelFile.of(folder / "model.onnx"),
        "input": ModelInput(
            bands=tuple(Band(name=band, common_name=band) for band in ("red", "green", "blue")),
            tile_size=SIZE,
            value_scaling=f"(value - {MEAN}) / {STD}, in the graph",
        ),
        "output": ModelOutput(confidence="confidence"),
        "halo": 4,
        "classes": tuple(
            ClassInfo(code=code, name=f"c{code}", title=f"class {code}", color=color)
            for code, color in enumerate(COLORS, 1)
        ),
        "precision": "fp32",
        "opset": 17,
    }
    return Manifest(**(fields | changes))


def random_tiles(count: int, seed: int = 0, size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def write_model(folder: Path, manifest: dict[str, Any] | None = None, **graph: Any) -> Path:
    """Writes folder/{model.onnx, golden.npz, manifest.json}; graph options go into the ONNX file."""
    folder.mkdir(parents=True)
    write_onnx(folder / "model.onnx", **graph)
    tile = random_tiles(1, seed=7)
    golden = write_golden(
        folder, tile=tile[0], classes=tiny_classes(tile)[0], least_agreement={"fp32": 0.999, "bf16": 0.9, "int8": 0.95}
    )
    manifest_of(folder, **({"golden": golden} | (manifest or {}))).save(folder)
    return folder
