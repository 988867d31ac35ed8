"""A model of some heads of a model: the same files, the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.manifest import Manifest
from tests.tiny_heads import HEADS, write_heads_model
from tests.tiny_model import SIZE, write_model
from trainer.cli import main
from trainer.errors import ExportRefused, SettingsRefused
from trainer.export.card import CARD
from trainer.export.extract import extract_heads

FIRST, SECOND = list(HEADS)[:2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_heads_model(tmp_path / "both", changes={"gsd_m": 0.7, "gsd_range_m": (0.5, 1.3)})
    (folder / "notes.md").write_text("Of the model.")
    (folder / f"{SECOND}.notes.md").write_text("Of the second head.")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_head_by_itself_has_the_same_files_and_gives_the_same_answers(tmp_path: Path, model: Path) -> None:
    made = extract_heads(model, [SECOND], tmp_path / "out" / "alone", name="alone", gsd_range_m=(0.6, 0.8))
    before, after = files(model), files(tmp_path / "out" / "alone")
    shared = {"encoder.onnx", "golden.npz", f"{SECOND}.onnx", f"{SECOND}.golden.npz"}
    assert set(after) == {*shared, "manifest.json", "notes.md", CARD}
    assert {name: after[name] for name in shared} == {name: before[name] for name in shared}
    assert after["notes.md"] == b"Of the second head."
    whole = Manifest.load(model)
    assert (made.name, made.version, made.head_names) == ("alone", whole.version, (SECOND,))
    assert (made.gsd_m, made.gsd_range_m, made.familiarity) == (0.7, (0.6, 0.8), whole.familiarity)
    tiles = np.random.default_rng(0).integers(0, 256, (1, 3, SIZE, SIZE), dtype=np.uint8)
    said = []
    for folder, manifest in ((model, whole.with_heads([SECOND])), (tmp_path / "out" / "alone", made)):
        with OnnxRuntimeEngine(manifest, folder) as engine:
            said.append(engine.infer(tiles).classes)
    assert np.array_equal(said[0], said[1])


def test_several_heads_stand_in_the_order_given_and_keep_their_notes(tmp_path: Path, model: Path) -> None:
    made = extract_heads(model, [SECOND, FIRST, SECOND], tmp_path / "turned", name="turned")
    assert made.head_names == (SECOND, FIRST)
    assert made.gsd_range_m == (0.5, 1.3)
    after = files(tmp_path / "turned")
    assert after[f"{SECOND}.notes.md"] == b"Of the second head."
    assert "notes.md" not in after


@pytest.mark.parametrize(
    ("heads", "changes", "said"),
    [
        (["sky"], {}, f"has no head 'sky'; it has {FIRST}, {SECOND}"),
        ([FIRST], {"name": "A b"}, "no name of a model"),
        ([FIRST], {"gsd_range_m": (0.8, 1.0)}, "0.8 to 1 m does not hold the 0.7 m that tiny-heads is made for"),
    ],
)
def test_what_cannot_be_taken_is_refused(
    tmp_path: Path, model: Path, heads: list[str], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsRefused, match=said):
        extract_heads(model, heads, tmp_path / "out", **{"name": "x", **changes})
    assert not (tmp_path / "out").exists()


def test_a_model_does_not_take_its_own_place(tmp_path: Path, model: Path) -> None:
    before = files(model)
    with pytest.raises(SettingsRefused, match="is the model itself, which would lose its other heads"):
        extract_heads(model, [SECOND], tmp_path / "x" / ".." / "both", name="both")
    assert files(model) == before


def test_a_model_of_one_graph_and_a_damaged_one_are_refused(tmp_path: Path, model: Path) -> None:
    write_model(tmp_path / "graph")
    with pytest.raises(ExportRefused, match="is a model of one graph"):
        extract_heads(tmp_path / "graph", ["a"], tmp_path / "out", name="x")
    content = (model / "encoder.onnx").read_bytes()
    (model / "encoder.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Exception, match=r"encoder\.onnx"):
        extract_heads(model, [FIRST], tmp_path / "out", name="x")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_made(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", str(model), SECOND, "--name", "alone", "--out", str(tmp_path / "out")]) == 0
    assert f"{tmp_path / 'out' / 'alone'}: " in (said := capsys.readouterr().out)
    assert f"heads {SECOND}" in said
