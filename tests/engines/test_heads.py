"""Models with heads: the manifest, the joined graph on each backend, golden answers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio

from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.cli import main
from engines.engine import HeadPrediction, Prediction
from engines.errors import AcceptanceFailed, AnswerChanged, GoldenFailed, HeadsRefused, ManifestError, ModelMismatch
from engines.heads_graph import graph_of
from engines.integrity.self_check import SelfCheck, same_answer
from engines.manifest import Manifest, ManifestWithHeads, ModelFile
from engines.open import open_engine
from engines.verify import verify_golden
from tests.tiny_heads import HEADS, head_classes, write_encoder, write_head, write_heads_model
from tests.tiny_model import random_tiles, tiny_familiarity

BOTH = ("bands", "light")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_heads_model(tmp_path / "model")


def rewritten(folder: Path, change: Any) -> None:
    """Changes the manifest's text as a person with an editor would."""
    facts = json.loads((folder / "manifest.json").read_text())
    change(facts)
    (folder / "manifest.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("heads", [(), ("bands",), ("light",), BOTH, BOTH[::-1]])
def test_an_engine_gives_the_heads_that_are_asked_for(model: Path, backend: str, heads: tuple[str, ...]) -> None:
    tiles = random_tiles(3)
    with open_engine(model, heads=heads, backend=backend) as engine:
        prediction = engine.infer(tiles)
    first, *further = heads or ("bands",)
    assert np.array_equal(prediction.classes, head_classes(first, tiles))
    assert list(prediction.further) == further
    for name in further:
        assert np.array_equal(prediction.further[name].classes, head_classes(name, tiles))
    assert all(head.confidence is not None for head in prediction.heads)
    assert prediction.familiarity is not None
    assert np.allclose(prediction.familiarity, tiny_familiarity(tiles), rtol=1e-5)


def test_without_a_choice_the_first_head_is_used(model: Path) -> None:
    manifest = Manifest.load(model)
    assert manifest.head_names == BOTH
    assert [head.name for head in manifest.opened_heads] == ["bands"]
    assert [item.name for item in manifest.classes] == ["bands1", "bands2", "bands3", "bands4"]
    light = manifest.with_heads(["light"])
    assert [item.name for item in light.classes] == ["light1", "light2"]
    assert light.model.sha256 != manifest.model.sha256
    both = manifest.with_heads(BOTH)
    assert [head.name for head in both.further_heads] == ["light"]
    assert both.model.sha256 not in (manifest.model.sha256, light.model.sha256)


def test_the_graph_holds_no_head_that_is_not_asked_for(model: Path) -> None:
    manifest = Manifest.load(model)
    outputs = [port.name for port in onnx.load_from_string(graph_of(manifest, model)).graph.output]
    assert outputs == ["bands/classes", "bands/confidence", "familiarity"]
    graph = onnx.load_from_string(graph_of(manifest.with_heads(BOTH), model)).graph
    assert sum(node.op_type == "Sub" for node in graph.node) == 1  # one encoder
    assert sum(node.op_type == "Conv" for node in graph.node) == 2


def test_a_head_without_confidence_flies_beside_one_with_it(tmp_path: Path) -> None:
    folder = write_heads_model(tmp_path / "model", without_confidence=("light",))
    with open_engine(folder, heads=BOTH, backend="onnxruntime") as engine:
        prediction = engine.infer(random_tiles(1))
    assert prediction.confidence is not None
    assert prediction.further["light"].confidence is None


def test_the_manifest_is_written_as_it_was_read(model: Path) -> None:
    text = (model / "manifest.json").read_text()
    manifest = Manifest.load(model)
    assert manifest.to_json() == text
    assert manifest.with_heads(["light"]).to_json() == text
    changed = manifest.with_heads(["light"]).model_copy(update={"gsd_m": 0.5})
    changed.save(model)
    again = Manifest.load(model)
    assert (again.gsd_m, again.head_names) == (0.5, BOTH)


@pytest.mark.parametrize(
    ("heads", "problem"),
    [
        (["roads"], "there is no head roads; the model tiny-heads 1.0 has bands, light"),
        (["bands", "roads"], "there is no head roads; the model tiny-heads 1.0 has bands, light"),
        (
            ["bands", "bands"],
            "the head bands is named twice; the model tiny-heads 1.0 has bands, light: name each once at most",
        ),
    ],
)
def test_a_head_that_is_not_there_is_refused(model: Path, heads: list[str], problem: str) -> None:
    with pytest.raises(HeadsRefused) as refused:
        open_engine(model, heads=heads)
    assert str(refused.value) == problem


def test_a_model_of_one_graph_has_no_heads(tiny_model: Path) -> None:
    with pytest.raises(HeadsRefused, match=r"there is no head bands; the model tiny 1\.0 has no heads"):
        open_engine(tiny_model, heads=["bands"])
    manifest = Manifest.load(tiny_model)
    assert (manifest.head_names, manifest.further_heads, manifest.with_heads([])) == ((), (), manifest)


def test_every_head_is_held_to_its_golden_answer(tmp_path: Path) -> None:
    swapped = {"bands": HEADS["bands"], "light": -HEADS["light"]}
    folder, other = write_heads_model(tmp_path / "model"), write_heads_model(tmp_path / "other", swapped)
    (folder / "light.golden.npz").write_bytes((other / "light.golden.npz").read_bytes())
    entry = Manifest.load(other).with_heads(["light"]).golden_answers["light"]
    rewritten(folder, lambda facts: facts["heads"][1]["golden"].update(sha256=entry.sha256))
    open_engine(folder, heads=["bands"], backend="onnxruntime").close()
    for heads in (["light"], ["bands", "light"]):
        with pytest.raises(GoldenFailed):
            open_engine(folder, heads=heads, backend="onnxruntime")


def test_the_digest_of_the_check_is_of_all_heads(model: Path) -> None:
    digests = set()
    for heads in (["bands"], ["light"], list(BOTH)):
        with open_engine(model, heads=heads, backend="onnxruntime") as engine:
            check = verify_golden(engine)
            assert check is not None
            digests.add(check.output_sha256)
    assert len(digests) == 3


class _OtherLight:
    """An engine whose second head says something else from the second call on."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.changed = engine, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def infer(self, tiles: Any) -> Prediction:
        told = self._engine.infer(tiles)
        if not self.changed:
            return told  # type: ignore[no-any-return]
        light = told.further["light"]
        classes = light.classes.copy()
        classes[0, 0, 0] = 3 - classes[0, 0, 0]
        return Prediction(told.classes, told.confidence, told.familiarity, {"light": HeadPrediction(classes, None)})


def test_the_self_check_sees_a_change_of_any_head(model: Path) -> None:
    with open_engine(model, heads=BOTH, backend="onnxruntime") as engine:
        wrapped: Any = _OtherLight(engine)
        check = SelfCheck.of(wrapped)
        check.check(wrapped)
        wrapped.changed = True
        assert not same_answer(check.answer, wrapped.infer(check.tiles))
        with pytest.raises(AnswerChanged, match="1 pixels"):
            check.check(wrapped)


def test_a_head_of_another_encoder_is_refused(tmp_path: Path) -> None:
    folder = write_heads_model(tmp_path / "model")
    rewritten(folder, lambda facts: facts["heads"][1].update(encoder_sha256="0" * 64))
    with pytest.raises(ManifestError, match="head light was trained on another encoder"):
        Manifest.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: facts["heads"][1].update(name="bands"), "heads given twice: bands"),
        (lambda facts: facts["heads"][1]["model"].update(file="bands.onnx"), "files named twice: bands.onnx"),
        (lambda facts: facts["heads"][0]["classes"][1].update(code=1), "codes are"),
        (lambda facts: facts.update(heads=[]), "at least 1"),
        (lambda facts: facts["heads"][0].update(colour="red"), "Extra inputs"),
        (lambda facts: facts.update(schema_version=3), "Input should be 1 or 2"),
        (lambda facts: facts["encoder"].update(features=[]), "at least 1"),
    ],
)
def test_a_manifest_with_heads_that_is_wrong_is_refused(model: Path, change: Any, words: str) -> None:
    rewritten(model, change)
    with pytest.raises(ManifestError, match=words):
        Manifest.load(model)


@pytest.mark.parametrize("name", ["encoder.onnx", "bands.onnx", "light.golden.npz"])
def test_a_changed_file_is_refused(model: Path, name: str) -> None:
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    with pytest.raises(ModelMismatch, match="sha256"):
        open_engine(model, heads=BOTH, backend="onnxruntime")
    with pytest.raises(ModelMismatch, match="sha256"):
        Manifest.load(model).check_files(model)


def signed_again(folder: Path, head: int, name: str) -> None:
    """Puts a changed head's digest into the manifest, so that only its graph is wrong."""
    entry = ModelFile.of(folder / f"{name}.onnx").model_dump()
    rewritten(folder, lambda facts: facts["heads"][head].update(model=entry))


def test_a_graph_that_does_not_fit_the_encoder_is_refused(model: Path) -> None:
    write_head(model / "light.onnx", HEADS["light"], reads="/student/other")
    signed_again(model, 1, "light")
    with pytest.raises(ModelMismatch, match="reads /student/other, which the encoder does not give"):
        open_engine(model, heads=["light"], backend="onnxruntime")
    (model / "light.onnx").write_bytes(b"no graph at all")
    signed_again(model, 1, "light")
    with pytest.raises(ModelMismatch, match="no ONNX file"):
        open_engine(model, heads=["light"], backend="onnxruntime")


def test_an_encoder_without_its_features_is_refused(model: Path) -> None:
    write_encoder(model / "encoder.onnx", feature="/student/renamed")
    entry = ModelFile.of(model / "encoder.onnx")

    def change(facts: Any) -> None:
        facts["encoder"].update(entry.model_dump())
        for head in facts["heads"]:
            head["encoder_sha256"] = entry.sha256

    rewritten(model, change)
    with pytest.raises(ModelMismatch, match="the encoder has no output /student/normal"):
        open_engine(model, backend="onnxruntime")


def test_inspect_and_bench_show_the_heads(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "heads     bands, light (the first one is used" in shown
    assert "light 2" in shown
    assert main(["bench", str(model), "--backend", "onnxruntime", "--seconds", "0.05"]) == 0
    shown = capsys.readouterr().out
    assert "tiny-heads 1.0, onnxruntime" in shown
    assert "tiny-heads 1.0 + light, onnxruntime" in shown


def test_the_manifest_of_all_heads_is_what_an_engine_carries(model: Path) -> None:
    manifest = Manifest.load(model).with_heads(BOTH)
    assert isinstance(manifest, ManifestWithHeads)
    with OnnxRuntimeEngine(manifest, model) as engine:
        assert engine.manifest is manifest


def test_a_precision_that_any_head_refuses_does_not_fly(model: Path) -> None:
    refused = {
        "precision": "fp32", "backend": "x 1", "data": "scenes", "tiles": 3, "pixel_agreement": 0.9, "worst_tile": 0.8,
        "miou_reference": 0.6, "miou": 0.5, "most_loss": 0.01,
    }  # fmt: skip
    rewritten(model, lambda facts: facts["heads"][1].update(acceptance=[refused]))
    open_engine(model, heads=["bands"], backend="onnxruntime").close()
    assert not Manifest.load(model).with_heads(BOTH).accepts("fp32")
    for heads in (["light"], ["bands", "light"]):
        with pytest.raises(AcceptanceFailed, match=r"10\.00 points"):
            open_engine(model, heads=heads, backend="onnxruntime")


def test_an_acceptance_is_measured_and_kept_for_one_head(model: Path, tmp_path: Path) -> None:
    tiles = random_tiles(1, seed=3, size=40)
    scene, labels = tmp_path / "scene.tif", tmp_path / "labels.tif"
    light = head_classes("light", tiles)
    for path, pixels in ((scene, tiles[0]), (labels, light)):
        place = rasterio.Affine(1, 0, 5e5, 0, -1, 2.8e6)
        with rasterio.open(path, "w", "GTiff", 40, 40, len(pixels), dtype="uint8", transform=place) as file:
            file.write(pixels)
    command = ["verify", str(model), "--backend", "openvino", "--scenes", str(scene), "--labels", str(labels)]
    assert main([*command, "--head", "light", "--record", "--data", "noise"]) == 0
    manifest = Manifest.load(model)
    (entry,) = manifest.with_heads(["light"]).acceptance
    assert (entry.precision, entry.data, entry.miou) == ("fp32", "noise", 1.0)
    assert manifest.acceptance == ()  # of the first head nothing is known
    assert main([*command, "--head", "roads"]) == 2


def _rewritten_head(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / "light.onnx")
    change(model)
    onnx.save(model, folder / "light.onnx")
    signed_again(folder, 1, "light")


def test_a_head_of_another_opset_or_with_a_graph_inside_is_refused(model: Path) -> None:
    kept = (model / "light.onnx").read_bytes()

    def other_opset(head: onnx.ModelProto) -> None:
        head.opset_import[0].version = 18

    _rewritten_head(model, other_opset)
    with pytest.raises(ModelMismatch, match="it has other opsets than the encoder"):
        open_engine(model, heads=["light"], backend="onnxruntime")
    (model / "light.onnx").write_bytes(kept)

    def graph_inside(head: onnx.ModelProto) -> None:
        inner = onnx.helper.make_graph([], "inner", [], [])
        head.graph.node[0].attribute.append(onnx.helper.make_attribute("then_branch", inner))

    _rewritten_head(model, graph_inside)
    with pytest.raises(ModelMismatch, match="holds a graph of its own"):
        open_engine(model, heads=["light"], backend="onnxruntime")
