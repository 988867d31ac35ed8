"""A tiny model with heads: the encoder normalises, one head says the brightest band, another light or dark."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.manifest import (
    Band,
    ClassInfo,
    Encoder,
    Head,
    HeadsManifest,
    ManifestWithHeads,
    ModelFile,
    ModelInput,
    ModelOutput,
)
from engines.verify import write_answer, write_golden
from tests.tiny_model import COLORS, MEAN, SIZE, STD, WEIGHTS, familiarity_facts, random_tiles, tiny_classes

FEATURE = "/student/normal"
HEADS: dict[str, NDArray[np.float32]] = {
    "bands": WEIGHTS,
    # No sum of whole numbers by these is nearly 0, where runtimes may round to either side.
    "light": np.array([[1, 0.7310585, 0.4142135], [-1, -0.7310585, -0.4142135]], np.float32),
}
LEAST = {"fp32": 0.999, "bf16": 0.9, "fp16": 0.99, "int8": 0.95}


def head_classes(name: str, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a head of the tiny model says, computed by numpy: uint8 (N, S, S)."""
    if name == "bands":
        return tiny_classes(tiles)
    normal = (tiles.astype(np.float32) - MEAN) / STD
    codes: NDArray[np.uint8] = (np.einsum("kb,nbhw->nkhw", HEADS[name], normal).argmax(1) + 1).astype(np.uint8)
    return codes


def write_encoder(path: Path, *, mean: float = MEAN, feature: str = FEATURE) -> None:
    """uint8 in; a normalised feature and the familiarity out."""
    value, make = helper.make_tensor_value_info, helper.make_node
    nodes = [
        make("Cast", ["tiles"], ["real"], to=TensorProto.FLOAT),
        make("Sub", ["real", "mean"], ["centred"]),
        make("Div", ["centred", "std"], [feature]),
        make("ReduceMean", ["real"], ["mean_value"], axes=[1, 2, 3], keepdims=0),
        make("Div", ["mean_value", "full"], ["familiarity"]),
    ]
    constants = {"mean": np.float32(mean), "std": np.float32(STD), "full": np.float32(255)}
    outputs = [value(feature, TensorProto.FLOAT, ["N", 3, SIZE, SIZE]), value("familiarity", TensorProto.FLOAT, ["N"])]
    _save(path, nodes, [value("tiles", TensorProto.UINT8, ["N", 3, SIZE, SIZE])], outputs, constants)


def write_head(
    path: Path, weights: NDArray[np.float32], *, confidence: bool = True, reads: str = FEATURE, failing: bool = False
) -> None:
    """A feature in; classes, and confidence, out. Its inner names are those of every other head."""
    value, make = helper.make_tensor_value_info, helper.make_node
    nodes = [
        make("Conv", [reads, "weights"], ["logits"]),
        make("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
        make("Add", ["index", "one"], ["code"]),
        make("Cast", ["code"], ["classes"], to=TensorProto.UINT8),
    ]
    constants: dict[str, Any] = {"weights": weights[:, :, None, None], "one": np.int64(1), "full": np.float32(255)}
    if failing:  # rows that are not there: only running it finds out
        constants["rows"] = np.arange(SIZE) + 1000
        nodes[1:2] = [
            make("ArgMax", ["logits"], ["whole"], axis=1, keepdims=0),
            make("Gather", ["whole", "rows"], ["index"], axis=1),
        ]
    outputs = [value("classes", TensorProto.UINT8, ["N", SIZE, SIZE])]
    if confidence:
        nodes += [
            make("Softmax", ["logits"], ["probability"], axis=1),
            make("ReduceMax", ["probability"], ["largest"], axes=[1], keepdims=0),
            make("Mul", ["largest", "full"], ["scaled"]),
            make("Round", ["scaled"], ["rounded"]),
            make("Cast", ["rounded"], ["confidence"], to=TensorProto.UINT8),
        ]
        outputs.append(value("confidence", TensorProto.UINT8, ["N", SIZE, SIZE]))
    _save(path, nodes, [value(reads, TensorProto.FLOAT, ["N", 3, SIZE, SIZE])], outputs, constants)


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any]) -> None:
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, arrays), opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )  # fmt: skip
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_heads_model(
    folder: Path,
    heads: dict[str, NDArray[np.float32]] | None = None,
    *,
    changes: dict[str, Any] | None = None,
    head_changes: dict[str, Any] | None = None,
    without_confidence: tuple[str, ...] = (),
    mean: float = MEAN,
    failing: tuple[str, ...] = (),
    only_head: str | None = None,
) -> Path:
    """Writes folder/{encoder.onnx, NAME.onnx, NAME.golden.npz, golden.npz, manifest.json}.

    Args:
        heads: weights (K, 3) by name.
        changes: of the manifest; head_changes: of each head's entry, or of that of only_head.
        without_confidence: heads that give none; failing: heads that cannot be run.
        mean: of the encoder; another one makes another encoder.
    """
    heads = HEADS if heads is None else heads
    folder.mkdir(parents=True)
    write_encoder(folder / "encoder.onnx", mean=mean)
    entry = ModelFile.of(folder / "encoder.onnx")
    tile = random_tiles(1, seed=7)
    normal = (tile.astype(np.float32) - np.float32(mean)) / np.float32(STD)
    golden = write_golden(folder, tile=tile[0], classes=tiny_classes(tile)[0], least_agreement=dict(LEAST))  # type: ignore[arg-type]
    entries = []
    for name, weights in heads.items():
        confidence = name not in without_confidence
        write_head(folder / f"{name}.onnx", weights, confidence=confidence, failing=name in failing)
        classes = (np.einsum("kb,nbhw->nkhw", weights, normal).argmax(1) + 1).astype(np.uint8)[0]
        fields: dict[str, Any] = {
            "name": name, "description": f"Tiny {name}.", "model": ModelFile.of(folder / f"{name}.onnx"),
            "encoder_sha256": entry.sha256, "output": ModelOutput(confidence="confidence" if confidence else None),
            "classes": tuple(
                ClassInfo(code=code, name=f"{name}{code}", title=f"{name} {code}", color=COLORS[code - 1])
                for code in range(1, len(weights) + 1)
            ),
            "golden": write_answer(folder, name, classes, dict(LEAST)),  # type: ignore[arg-type]
        }  # fmt: skip
        changed = head_changes if only_head in (None, name) else None
        entries.append(Head(**(fields | (changed or {}))))
    fields = {
        "schema_version": 2, "name": "tiny-heads", "version": "1.0",
        "created": datetime(2024, 5, 6, tzinfo=timezone.utc),
        "encoder": Encoder(**entry.model_dump(), features=(FEATURE,)),
        "input": ModelInput(
            bands=tuple(Band(name=band, common_name=band) for band in ("red", "green", "blue")), tile_size=SIZE,
            value_scaling="in the graph",
        ),
        "halo": 4, "precision": "fp32", "opset": 17, "golden": golden, "familiarity": familiarity_facts(),
        "heads": tuple(entries),
    }  # fmt: skip
    ManifestWithHeads.of(HeadsManifest(**(fields | (changes or {})))).save(folder)
    return folder
