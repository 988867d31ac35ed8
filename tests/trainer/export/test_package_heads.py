"""Models with heads made of runs: all heads of one run, a head for a model that exists, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from numpy.typing import NDArray

from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.engine import HeadPrediction
from engines.manifest import Manifest, ManifestWithHeads
from engines.open import open_engine
from engines.verify import golden_tiles
from tests.trainer.tiny_sets import many_sets_settings, write_set
from trainer.cli import main
from trainer.config import FinetuneSettings, checked_settings
from trainer.errors import ExportRefused, SettingsRefused
from trainer.export.card import CARD
from trainer.export.half import LARGEST, Ranges
from trainer.export.join import join_heads
from trainer.export.onnx import Trial, onnx_from_segmenter
from trainer.export.package import TILE_SIDES, CalibrationRun, FamiliarityImages, PackageRequest, package
from trainer.export.package_heads import HeadOptions, heads_of_run, package_head, package_heads
from trainer.export.split import same_network, split
from trainer.familiarity.imagery import Images
from trainer.finetune.task import finetune
from trainer.models.deploy import DeploySettings
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.models.student import StudentSettings
from trainer.models.upernet import DecoderSettings
from trainer.profile.onnx_graph import cost_of

SIDE = 128
CELLS = {"cover": 2, "coarse": 4}
LAND = [
    {"code": 1, "name": "dry", "title": "Dry", "colour": "#00FF00", "codes": [1, 2]},
    {"code": 2, "name": "wet", "title": "Wet", "colour": "#0000FF", "codes": [3]},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the heads cover and coarse, and runs of a new head, on its encoder and on another one."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(20)
    finetune(many_sets_settings(folder, max_steps=6, learning_rate=1e-2, average=0.5), folder / "run")
    for name, frozen in (("second", True), ("learnt-on", False)):
        finetune(of_one_set(folder / name, encoder=str(folder / "run"), frozen_encoder=frozen), folder / name / "run")
    return folder


def of_one_set(folder: Path, **more: Any) -> FinetuneSettings:
    told: dict[str, Any] = {
        "name": "second", "data": {"set": write_set(folder, "land", 96, 2, classes=LAND)},
        "model": {
            "classes": 2, "student": {"kind": "plain", "widths": [8, 8, 8, 8, 8], "blocks": [0, 0, 1, 0]},
            "decoder": {"kind": "fpn", "widths": [8, 8, 8, 8]},
        },
        "stages": [{"until": 1.0, "crop": 64, "batch": 4}], "max_steps": 4, "learning_rate": 1e-2, "average": 0.5,
        "machine": {"precision": "32-true", "threads": 1}, **more,
    }  # fmt: skip
    return checked_settings(told, FinetuneSettings, "made")


def a_tile() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)


def request_for(run: Path, out: Path, **changes: Any) -> PackageRequest:
    told: dict[str, Any] = {
        "run": run, "out": out, "name": "both", "version": "1.0.0", "description": "Two maps.",
        "notes": "## Limits\n\nKnows stripes.", "golden_tile": a_tile(), "tile_size": SIDE, "halo": 16, **changes,
    }  # fmt: skip
    return PackageRequest(**told)


def options_of(**changes: Mapping[str, Any]) -> dict[str, HeadOptions]:
    return {
        head: HeadOptions(**{"deploy": DeploySettings(cell=cell), **changes.get(head, {})})
        for head, cell in CELLS.items()
    }


@pytest.fixture(scope="module")
def models(place: Path) -> Path:
    """The model with heads in both precisions, and beside it each head as a model of one graph."""
    out = place / "models"
    package_heads(request_for(place / "run", out, precisions=("fp32", "fp16")), options_of())
    for head, cell in CELLS.items():
        package(
            request_for(
                place / "run", out, name=head, head=head, deploy=DeploySettings(cell=cell), precisions=("fp32", "fp16")
            )
        )
    return out


@pytest.fixture
def model(models: Path, tmp_path: Path) -> Path:
    """A copy of the model with heads, to be changed."""
    return Path(shutil.copytree(models / "both", tmp_path / "both"))


def answers(folder: Path, heads: tuple[str, ...] = ()) -> dict[str, HeadPrediction]:
    """What each head says of some tiles, by ONNX Runtime on the CPU; a model of one graph by its name."""
    tiles = np.random.default_rng(3).integers(0, 256, (2, 3, SIDE, SIDE), dtype=np.uint8)
    tiles[0, :, :, : SIDE // 2] = np.array([220, 60, 60], np.uint8)[:, None, None]
    manifest = Manifest.load(folder).with_heads(heads)
    with OnnxRuntimeEngine(manifest, folder) as engine:
        given = engine.infer(tiles).heads
    return dict(zip(heads or (manifest.name,), given, strict=True))


def same(first: HeadPrediction, second: HeadPrediction) -> bool:
    assert first.confidence is not None
    assert second.confidence is not None
    return np.array_equal(first.classes, second.classes) and np.array_equal(first.confidence, second.confidence)


@pytest.mark.parametrize("suffix", ["", "-fp16"])
def test_each_head_says_what_its_model_of_one_graph_says(models: Path, suffix: str) -> None:
    folder = models / f"both{suffix}"
    alone = {head: answers(models / f"{head}{suffix}")[f"{head}{suffix}"] for head in CELLS}
    together = answers(folder, tuple(CELLS))
    for head in CELLS:
        assert same(together[head], alone[head])
        assert same(answers(folder, (head,))[head], alone[head])
    assert len(np.unique(alone["cover"].classes)) > 1
    # Cells of four pixels have one class each.
    blocks = together["coarse"].classes.reshape(2, SIDE // 4, 4, SIDE // 4, 4)
    assert (blocks == blocks[:, :, :1, :, :1]).all()


def test_the_folders_hold_what_a_model_needs(models: Path) -> None:
    assert sorted(path.name for path in models.iterdir()) == [
        "both", "both-fp16", "coarse", "coarse-fp16", "cover", "cover-fp16",
    ]  # fmt: skip
    assert sorted(path.name for path in (models / "both").iterdir()) == [
        "MODEL_CARD.md", "coarse.golden.npz", "coarse.onnx", "cover.golden.npz", "cover.onnx", "encoder.onnx",
        "golden.npz", "manifest.json", "notes.md",
    ]  # fmt: skip
    for name in ("both", "both-fp16"):
        manifest = Manifest.load(models / name)
        manifest.check_files(models / name)
        assert (manifest.name, manifest.head_names, manifest.gsd_m) == (name, ("cover", "coarse"), 1.0)
        with open_engine(models / name, heads=tuple(CELLS), threads=1):  # holds it to the golden answers
            pass
    half = Manifest.load(models / "both-fp16")
    assert half.precision == "fp16"
    assert (models / "both-fp16" / "encoder.onnx").stat().st_size < (models / "both" / "encoder.onnx").stat().st_size


@pytest.mark.parametrize("suffix", ["", "-fp16"])
def test_costs_of_encoder_and_head_add_up_to_those_of_one_graph(models: Path, suffix: str) -> None:
    manifest = Manifest.load(models / f"both{suffix}")
    for head in CELLS:
        assert manifest.with_heads([head]).cost == cost_of(models / f"{head}{suffix}")
        assert manifest.with_heads([head]).cost == Manifest.load(models / f"{head}{suffix}").cost
    both = manifest.with_heads(tuple(CELLS)).cost
    one = manifest.cost
    assert both is not None
    assert one is not None
    assert both.flops > one.flops


def test_the_card_has_a_section_for_each_head_and_one_for_the_encoder(models: Path) -> None:
    card = (models / "both" / CARD).read_text()
    headings = [line for line in card.splitlines() if line.startswith(("# ", "## "))]
    assert headings == ["# both 1.0.0", "## Encoder", "## Training", "## Head cover", "## Head coarse", "## Limits"]
    cover, coarse = card.split("## Head cover")[1].split("## Head coarse")
    assert "| 1 | Roof | `#FF0000` |" in cover
    assert "| 1 | Land | `#00FF00` |" in coarse
    assert "### Accuracy\n\nNot measured yet." in coarse
    assert "cover: roof, green, water." in cover
    assert "| coarse.onnx | FP32 |" in coarse
    assert "cells of 4 pixels" in coarse
    assert card.endswith("## Limits\n\nKnows stripes.\n")


def test_each_head_is_calibrated_on_its_own_images(place: Path, tmp_path: Path) -> None:
    cover, coarse = (str(place / name / "set.yaml") for name in ("cover", "coarse"))
    calibration: dict[str, Mapping[str, Any]] = {
        "cover": {"calibration": (CalibrationRun(place / "run", ("0",), cover),)},
        "coarse": {"calibration": (CalibrationRun(place / "run", ("1", "2"), coarse),), "notes": "## Of coarse"},
    }
    (manifest,) = package_heads(request_for(place / "run", tmp_path), options_of(**calibration))
    assert isinstance(manifest, ManifestWithHeads)
    first, second = (head.calibration for head in manifest.source.heads)
    assert first is not None
    assert second is not None
    assert first.temperature != second.temperature
    assert "set.yaml: 0, up to" in first.data
    assert "set.yaml: 1, 2, up to" in second.data
    assert not first.held_out
    card = (tmp_path / "both" / CARD).read_text()
    assert card.count("### Calibration") == 2
    assert "### Of coarse" in card


def test_a_head_is_added_to_a_model_on_the_same_encoder(place: Path, models: Path, model: Path) -> None:
    before = Manifest.load(model)
    request = request_for(place / "second" / "run", model.parent, version="1.1.0", tile_size=1024, halo=64)
    after = package_head(replace(request, name="ignored"), model, "land")
    assert isinstance(after, ManifestWithHeads)
    assert isinstance(before, ManifestWithHeads)
    assert after == Manifest.load(model)
    assert (after.name, after.version, after.head_names) == ("both", "1.1.0", ("cover", "coarse", "land"))
    assert (model / "encoder.onnx").read_bytes() == (models / "both" / "encoder.onnx").read_bytes()
    assert after.source.heads[:2] == before.source.heads
    assert (model / "notes.md").read_text() == "## Limits\n\nKnows stripes."
    package(request_for(place / "second" / "run", model.parent, name="alone"))
    said = answers(model, ("cover", "land"))
    assert same(said["land"], answers(model.parent / "alone")["alone"])
    assert same(said["cover"], answers(models / "cover")["cover"])
    training = after.source.heads[2].training
    assert training is not None
    assert [item.name for item in training.data_sets] == ["cover", "coarse", "land"]


def test_a_head_of_the_same_name_takes_its_place(place: Path, model: Path) -> None:
    request = request_for(place / "second" / "run", model.parent, version="1.1.0")
    after = package_head(request, model, "cover")
    assert after.head_names == ("cover", "coarse")
    assert [item.name for item in after.classes] == ["dry", "wet"]
    assert sorted(path.name for path in model.parent.iterdir()) == ["both"]


def test_a_head_is_added_to_a_model_in_half_precision(place: Path, models: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(models / "both-fp16", tmp_path / "flies"))
    after = package_head(request_for(place / "second" / "run", tmp_path, version="1.1.0"), model, "land")
    assert (after.name, after.precision) == ("both-fp16", "fp16")
    assert (model / "encoder.onnx").read_bytes() == (models / "both-fp16" / "encoder.onnx").read_bytes()
    package(request_for(place / "second" / "run", tmp_path, name="alone", precisions=("fp16",)))
    assert same(answers(model, ("land",))["land"], answers(tmp_path / "alone-fp16")["alone-fp16"])


@pytest.mark.parametrize(("tested", "is_taken"), [((0.7, 1.3), True), ((0.9, 1.3), False), (None, False)])
def test_a_head_learnt_at_another_resolution_goes_where_the_model_was_tested_at_it(
    place: Path, model: Path, tested: tuple[float, float] | None, is_taken: bool
) -> None:
    run = Path(shutil.copytree(place / "second" / "run", model.parent / "run"))
    (state,) = run.glob("checkpoints/*/state.json")
    facts = json.loads(state.read_text())
    facts["settings"]["data"]["gsd_m"] = 0.8
    state.write_text(json.dumps(facts))
    manifest = Manifest.load(model)
    assert manifest.gsd_m == 1.0
    manifest.model_copy(update={"gsd_range_m": tested}).save(model)
    request = request_for(run, model.parent, version="1.1.0")
    if is_taken:
        assert package_head(request, model, "land").gsd_m == 1.0
    else:
        with pytest.raises(ExportRefused, match="gsd_m"):
            package_head(request, model, "land")


def test_a_head_of_another_encoder_is_refused_and_the_model_left_alone(place: Path, model: Path) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    request = request_for(place / "learnt-on" / "run", model.parent, version="1.1.0")
    with pytest.raises(ExportRefused, match="has other weights or layers: finetune the head on this model's encoder"):
        package_head(request, model, "land")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert sorted(path.name for path in model.parent.iterdir()) == ["both"]


def test_the_command_adds_a_head_in_place(place: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "--run", str(place / "second" / "run"), "--head-of", str(model), "--head", "land"]
    assert main([*command, "--version", "2.0.0", "--cell", "4", "--prior", "0", "--description", "Wet or dry."]) == 0
    assert f"{model}: " in (said := capsys.readouterr().out)
    assert "heads cover, coarse, land" in said
    manifest = Manifest.load(model).with_heads(["land"])
    assert (manifest.version, manifest.description) == ("2.0.0", "Two maps. Wet or dry.")
    assert "cells of 4 pixels." in manifest.architecture
    assert main([*command, "--version", "2.0.0"]) == 2
    assert "both is 2.0.0 already: a changed model gets another" in capsys.readouterr().err


def test_a_bias_changes_one_class_of_one_head(place: Path, models: Path, tmp_path: Path) -> None:
    command = ["export", "--run", str(place / "run"), "--out", str(tmp_path), "--name", "both", "--heads"]
    golden = a_tile()
    before = answers(models / "both", tuple(CELLS))
    (given,) = np.unique(before["coarse"].classes)[:1]
    name = ("land", "sea")[int(given) - 1]
    request = request_for(place / "run", tmp_path, golden_tile=golden)
    biased = {"coarse": {"deploy": DeploySettings(cell=4, bias={name: -1000.0})}}
    package_heads(request, options_of(**biased))
    after = answers(tmp_path / "both", tuple(CELLS))
    assert given not in np.unique(after["coarse"].classes)
    assert same(after["cover"], before["cover"])
    assert f"Added to the logits: {name} -1000." in Manifest.load(tmp_path / "both").with_heads(["coarse"]).architecture
    assert main([*command, "--version", "2.0.0", "--bias", f"coarse:{name}=-1000", "--cell", "coarse=4"]) == 0
    assert f"{name} -1000." in Manifest.load(tmp_path / "both").with_heads(["coarse"]).architecture


def test_the_command_joins_folders_in_any_order(models: Path, tmp_path: Path) -> None:
    """Also where the first head reads fewer features than the second."""
    command = ["join", str(tmp_path / "joined"), "--name", "joined", "--version", "0.2.0"]
    assert main([*command, "--head", f"coarse={models / 'coarse'}", "--head", f"cover={models / 'cover'}"]) == 0
    manifest = Manifest.load(tmp_path / "joined")
    assert (manifest.version, manifest.head_names) == ("0.2.0", ("coarse", "cover"))
    said = answers(tmp_path / "joined", ("coarse", "cover"))
    assert all(same(said[head], answers(models / head)[head]) for head in CELLS)
    card = (tmp_path / "joined" / CARD).read_text()
    assert card.count("### Limits") == 2  # each folder's notes stand under its head


def test_figures_go_into_the_entry_of_their_head(
    place: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cover, coarse = (str(place / name / "set.yaml") for name in ("cover", "coarse"))
    command = ["evaluate", "--model", str(model), "--split", "train", "--threads", "1", "--record", "all"]
    assert main([*command, "--set", coarse, "--head", "coarse"]) == 0
    assert "mIoU" in capsys.readouterr().out
    assert main([*command, "--set", coarse]) == 2
    assert "its classes are" in capsys.readouterr().err
    assert main([*command, "--set", coarse, "--head", "roads"]) == 2
    assert "cover, coarse" in capsys.readouterr().err
    places = {
        "heads": {"cover": cover, "coarse": coarse, "other": cover},
        "places": [
            {"name": "sea", "set": coarse, "split": "train", "head": "coarse"},
            {"name": "stripes", "set": cover, "split": "train", "head": "cover"},
            {"name": "nowhere", "set": cover, "split": "train", "head": "other"},
        ],
    }
    (tmp_path / "places.yaml").write_text(yaml.safe_dump(places))
    assert main(["places", str(model), "--config", str(tmp_path / "places.yaml"), "--threads", "1", "--record"]) == 0
    said = capsys.readouterr().out
    assert said.index("| sea |") < said.index("| stripes |")
    assert "nowhere" not in said
    manifest = Manifest.load(model)
    assert isinstance(manifest, ManifestWithHeads)
    first, second = manifest.source.heads
    assert ([row.place for row in first.places], [row.place for row in second.places]) == (["stripes"], ["sea"])
    assert (len(first.evaluation), len(second.evaluation)) == (0, 1)
    # A subset would take the place of all figures.
    command = ["places", str(model), "--config", str(tmp_path / "places.yaml"), "--only", "sea", "--record"]
    assert main(command) == 2
    assert "--record: it replaces the figures of all places" in capsys.readouterr().err
    assert Manifest.load(model) == manifest
    card = (model / CARD).read_text()
    assert (
        card.index("## Head cover") < card.index("| stripes |") < card.index("## Head coarse") < card.index("| sea |")
    )


def test_no_engine_stays_open_when_places_are_scored(
    place: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, closed = [], []
    opening, closing = OnnxRuntimeEngine.__init__, OnnxRuntimeEngine.close

    def init(self: OnnxRuntimeEngine, *given: Any, **more: Any) -> None:
        opening(self, *given, **more)
        opened.append(self)

    def close(self: OnnxRuntimeEngine) -> None:
        closing(self)
        closed.append(self)

    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", init)
    monkeypatch.setattr(OnnxRuntimeEngine, "close", close)
    cover, coarse = (str(place / name / "set.yaml") for name in ("cover", "coarse"))
    places = {
        "heads": {"cover": cover, "coarse": coarse},
        "places": [
            {"name": name, "set": table, "split": "train", "head": name}
            for name, table in (("cover", cover), ("coarse", coarse))
        ],
    }
    (tmp_path / "places.yaml").write_text(yaml.safe_dump(places))
    for name in ("both", "cover"):
        command = ["places", str(models / name), "--config", str(tmp_path / "places.yaml"), "--threads", "1"]
        assert main([*command, "--backend", "onnxruntime"]) == 0
    assert {id(engine) for engine in opened} == {id(engine) for engine in closed}
    assert opened


def test_a_head_of_other_classes_is_not_scored_by_its_name(
    place: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(place / "coarse" / "set.yaml")
    places = {"heads": {"cover": table}, "places": [{"name": "x", "set": table, "split": "train", "head": "cover"}]}
    (tmp_path / "places.yaml").write_text(yaml.safe_dump(places))
    assert main(["places", str(model), "--config", str(tmp_path / "places.yaml")]) == 2
    assert "head of that name has the classes Roof, Green, Water" in capsys.readouterr().err
    places = {"heads": {"a": table}, "places": []}
    (tmp_path / "places.yaml").write_text(yaml.safe_dump(places))
    assert main(["places", str(model), "--config", str(tmp_path / "places.yaml")]) == 2
    assert "its heads cover, coarse are none of a" in capsys.readouterr().err


def test_profile_counts_each_head_and_all_together(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--model", str(models / "both")]) == 0
    said = capsys.readouterr().out
    assert "| one tile | both 1.0.0, cover | both 1.0.0, coarse | both 1.0.0, cover + coarse |" in said


def test_familiarity_is_fitted_before_joining(
    place: Path, model: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = f"{place / 'cover' / 'set.yaml'}:0,1"
    assert main(["familiarity", str(model), "--fit", images, "--in-turn"]) == 1
    assert "fit before joining" in capsys.readouterr().err
    assert main(["familiarity", str(models / "cover"), "--like", str(model)]) == 1
    assert "no familiarity to take over" in capsys.readouterr().err
    assert main(["familiarity", str(models / "cover"), "--like", str(model), "--version", "a b"]) == 2
    assert "--version: 'a b' is no version" in capsys.readouterr().err


BAD_EXPORTS: list[tuple[list[str], str]] = [
    (["--heads", "roads", "--name", "x"], "no head 'roads' in the run made; there are cover, coarse"),
    (["--heads", "cover", "cover", "--name", "x"], "a head is named twice"),
    (["--heads"], "--name: the model needs one"),
    (["--heads", "--name", "x", "--head", "cover"], "it is one head, and --heads are several"),
    (["--heads", "--name", "x", "--precision", "int8"], "int8 is fitted to each head"),
    (["--heads", "--name", "x", "--twin"], "no graph of probabilities"),
    (["--heads", "--name", "x", "--bias", "water=-1"], "--bias: water=-1: give HEAD:CLASS=LOGITS, HEAD one of cover"),
    (["--heads", "--name", "x", "--bias", "cover:water=x"], "cover:water=x is no bias"),
    (["--heads", "--name", "x", "--bias", "cover:sea=-1"], "no class 'sea'; there are roof, green, water"),
    (["--head", "cover", "--name", "x", "--bias", "cover:water=-1"], "give CLASS=LOGITS"),
    (["--heads", "--name", "x", "--cell", "roads=4"], "--cell: roads=4: give HEAD=VALUE, HEAD one of cover, coarse"),
    (["--heads", "--name", "x", "--cell", "3"], "--cell: 3 is no side of a cell; give one of 1, 2, 4, 8, 16"),
    (["--heads", "--name", "x", "--gsd-range", "1.3", "0.45"], "--gsd-range: 1.3 0.45 is no range"),
    (["--heads", "--name", "x", "--gsd-range", "1.1", "1.3"], "1.1 to 1.3 m does not hold the 1 m that the run was"),
    (["--heads", "--name", "x", "--version", "a b/../c"], "--version: 'a b/../c' is no version"),
    (["--heads", "--name", "X"], "--name: 'X' is no name of a model"),
    (["--heads", "--name", "x", "--prior", "cover=much"], "--prior: much is no number of logits"),
    (["--heads", "--name", "x", "--calibrate", "run=0"], "with --heads, give HEAD@RUN=NAMES"),
    (["--heads", "--name", "x", "--head-notes", "cover"], "--head-notes: cover: give HEAD=VALUE"),
    (["--name", "x", "--cell", "cover=4"], "HEAD=VALUE is for --heads"),
    (["--name", "x", "--head-description", "cover=Roofs"], "it is for --heads"),
    (["--head-of", "{one}", "--head", "land", "--version", "2"], "is a model of one graph: make one with heads"),
    (["--head-of", "{one}", "--head", "land"], "--head-of: give --head NAME"),
    (["--head-of", "{none}", "--head", "land", "--version", "2"], "no such model"),
    (["--head-of", "{both}", "--head", "roads", "--version", "2"], "no head 'roads' in the run made"),
    (["--head-of", "{both}", "--head", "Up", "--version", "2"], "'Up' is no name of a head"),
    (["--head-of", "{both}", "--head", "coarse", "--version", "a b"], "--version: 'a b' is no version"),
    (["--head-of", "{both}", "--head", "encoder", "--version", "2"], "encoder is the encoder's own"),
    (["--head-of", "{both}", "--head", "x", "--version", "2", "--precision", "fp16"], "it is the model's own"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), BAD_EXPORTS, ids=[" ".join(words) for words, _ in BAD_EXPORTS])
def test_bad_input_is_one_line(
    place: Path, models: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"one": models / "cover", "none": tmp_path / "none", "both": models / "both"}
    command = ["export", "--run", str(place / "run"), "--out", str(tmp_path / "out")]
    assert main([*command, *(word.format(**names) for word in words)]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_heads_of_a_run_of_one_head_are_refused(place: Path) -> None:
    with pytest.raises(SettingsRefused, match="has one head: leave --heads out"):
        heads_of_run(place / "second" / "run")
    assert heads_of_run(place / "run") == ("cover", "coarse")
    assert heads_of_run(place / "run", ["coarse"]) == ("coarse",)


BAD_JOINS: list[tuple[list[str], str]] = [
    (["--head", "cover"], "give NAME=FOLDER"),
    (["--head", "a={cover}", "--head", "a={coarse}"], "a is given twice"),
    (["--head", "a={none}"], "no such model"),
    (["--head", "a={empty}"], "the folder has no manifest.json"),
    (["--head", "a={both}"], "has heads already"),
    (["--head", "A={cover}"], "'A' is no name of a head"),
    (["--head", "a={cover}", "--version", "a b"], "--version: 'a b' is no version"),
    (["--head", "a={cover}", "--head", "b={coarse}-fp16"], "has another precision than the model's encoder"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), BAD_JOINS, ids=[" ".join(words) for words, _ in BAD_JOINS])
def test_folders_that_cannot_be_joined_are_one_line(
    models: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    names = {name: models / name for name in ("cover", "coarse", "both")}
    names |= {"none": tmp_path / "none", "empty": tmp_path / "empty"}
    command = ["join", str(tmp_path / "out"), "--name", "x", *(word.format(**names) for word in words)]
    assert main(command) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_too_many_heads_are_one_line(model: Path, place: Path) -> None:
    heads = {f"h{number}": model.parent / "x" for number in range(17)}
    package(request_for(place / "run", model.parent, name="x"))
    with pytest.raises(ExportRefused, match="at most 16"):
        join_heads(heads, model.parent / "joined", name="joined", version="1")
    assert not (model.parent / "joined").exists()


VIT = StudentSettings(
    width=16, depth=2, heads=2, stem_widths=(8, 8, 8), window=2, global_blocks=(2,), out_blocks=(1, 2), positions=8
)


def test_half_precision_has_one_choice_of_widths_for_the_encoder_of_all_heads(tmp_path: Path) -> None:
    segmenter = Segmenter(
        SegmenterSettings(student=VIT, decoder=DecoderSettings(width=8, detail_widths=(8, 8)), classes=3)
    )
    trial = Trial(a_tile()[None])

    def encoder(ranges: Ranges) -> onnx.ModelProto:
        exported = onnx_from_segmenter(
            segmenter, tmp_path / "model.onnx", trial=trial, precision="fp16", ranges=ranges
        )  # fmt: skip
        return split(onnx.load(exported.path), ["classes", "confidence"]).encoder

    low, high = Ranges(1.0, 1.0, 1.0), Ranges(LARGEST, 1000.0, 1.0)
    narrow, wide = encoder(low), encoder(high)
    assert not same_network(narrow, wide)
    joined = Ranges.joined([low, high])
    assert (joined.wide_norms, joined.wide_attention) == (True, True)
    assert (low.under(wide).wide_norms, low.under(wide).wide_attention) == (True, True)
    assert (high.under(narrow).wide_norms, high.under(narrow).wide_attention) == (False, False)
    assert same_network(encoder(low.under(wide)), wide)
    assert same_network(encoder(high.under(narrow)), narrow)


def test_heads_whose_tiles_want_other_widths_share_the_encoder_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = {"width": 8, "detail_widths": [8, 8]}
    shape = {"classes": 3, "student": VIT.model_dump(), "decoder": decoder}
    several = shape | {"heads": {"coarse": {"classes": 2, "decoder": decoder}}}
    finetune(many_sets_settings(tmp_path, max_steps=1, model=several), tmp_path / "run")
    second = of_one_set(
        tmp_path / "second", max_steps=1, model=shape | {"classes": 2}, encoder=str(tmp_path / "run")
    )  # fmt: skip
    finetune(second, tmp_path / "second" / "run")
    wanted = iter([Ranges(1.0, 1.0, 1.0), Ranges(LARGEST, 1000.0, 1.0), Ranges(1.0, 1.0, 1.0)])
    monkeypatch.setattr("trainer.export.package.measured_ranges", lambda *_: next(wanted))
    request = request_for(tmp_path / "run", tmp_path / "out", precisions=("fp16",))
    (manifest,) = package_heads(request, options_of())
    assert "LayerNorm in FP32" in manifest.architecture
    request = request_for(tmp_path / "second" / "run", tmp_path / "out", version="2")
    assert package_head(request, tmp_path / "out" / "both-fp16", "land").head_names == ("cover", "coarse", "land")


def test_familiarity_of_a_model_with_heads_is_its_encoder_s(tmp_path: Path) -> None:
    decoder = {"kind": "fpn", "widths": [8, 8, 8, 8]}
    model = {"classes": 3, "student": {"kind": "lite", "stem": "lite0"}, "decoder": decoder,
             "heads": {"coarse": {"classes": 2, "decoder": decoder | {"stride": 8}}}}  # fmt: skip
    settings = many_sets_settings(tmp_path, max_steps=1, model=model)
    finetune(settings, tmp_path / "run")
    imagery = write_set(tmp_path, "imagery", 256, 4)
    images = FamiliarityImages((Images.parsed(f"{imagery}:*"),), in_turn=True)
    request = request_for(tmp_path / "run", tmp_path / "out", familiarity=images, precisions=("fp32", "fp16"))
    whole, half = package_heads(request, options_of())
    assert whole.familiarity is not None
    assert whole.familiarity == half.familiarity
    for name in ("both", "both-fp16"):
        for heads in (("cover",), ("coarse",), ("coarse", "cover")):
            with open_engine(tmp_path / "out" / name, heads=heads, backend="onnxruntime") as engine:
                told = engine.infer(golden_tiles(engine, 1)).familiarity
            assert told is not None
            assert told[0] == pytest.approx(whole.familiarity.golden, rel=0.1)
    card = (tmp_path / "out" / "both" / CARD).read_text()
    assert "## When it does not know" in card
    # A model of one graph, made of one head of the same run (as INT8 is), takes the encoder's over.
    package(request_for(tmp_path / "run", tmp_path / "out", name="coarse", head="coarse"))
    assert main(["familiarity", str(tmp_path / "out" / "coarse"), "--like", str(tmp_path / "out" / "both")]) == 0
    taken = Manifest.load(tmp_path / "out" / "coarse").familiarity
    assert taken is not None
    assert taken.golden == pytest.approx(whole.familiarity.golden)
    # Of a head with other classes it does not.
    mine = Manifest.load(tmp_path / "out" / "coarse")
    mine.model_copy(update={"classes": mine.classes[:1]}).save(tmp_path / "out" / "coarse")
    assert main(["familiarity", str(tmp_path / "out" / "coarse"), "--like", str(tmp_path / "out" / "both")]) == 1


def test_the_golden_tile_of_a_model_is_that_of_its_new_head(place: Path, model: Path) -> None:
    package_head(request_for(place / "second" / "run", model.parent, version="1.1.0", golden_tile=None), model, "land")
    with open_engine(model, heads=("land",), backend="onnxruntime") as engine:
        assert np.array_equal(golden_tiles(engine, 1)[0], a_tile())


def of_usual_size(run: Path, out: Path, **changes: Any) -> PackageRequest:
    tile = np.random.default_rng(1).integers(0, 256, (3, 64, 64), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    return request_for(run, out, golden_tile=tile, tile_size=1024, halo=64, **changes)


PLAIN_CELLS = {head: {"deploy": DeploySettings(cell=cell, prior=0)} for head, cell in CELLS.items()}


@pytest.fixture(scope="module")
def of_sides(place: Path) -> Path:
    """A model with heads that takes tiles of several sides."""
    package_heads(of_usual_size(place / "run", place / "sides"), options_of(**PLAIN_CELLS))
    return place / "sides" / "both"


def test_a_model_with_heads_takes_tiles_of_several_sides(of_sides: Path) -> None:
    manifest = Manifest.load(of_sides)
    assert manifest.input.tile_sides == TILE_SIDES == (512, 576, 640, 704, 768, 832, 896, 960, 1024)
    assert "1024 x 1024 pixels (or sides from 512 on in steps of 64); 0..255" in (of_sides / CARD).read_text()
    assert manifest.cost is not None
    tile = np.random.default_rng(2).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8).repeat(16, 2).repeat(16, 3)
    with OnnxRuntimeEngine(manifest.with_heads(tuple(CELLS)), of_sides) as engine:
        whole = engine.infer(tile)
        part = engine.infer(np.ascontiguousarray(tile[:, :, :576, :960]))
    for large, small in zip(whole.heads, part.heads, strict=True):
        assert small.classes.shape == (1, 576, 960)
        assert (small.classes[:, :256, :512] == large.classes[:, :256, :512]).mean() > 0.999


@pytest.mark.parametrize(("prior", "sides"), [(0.0, TILE_SIDES), (4.0, None)])
def test_a_model_has_the_sides_that_all_its_heads_take(
    place: Path, of_sides: Path, tmp_path: Path, prior: float, sides: tuple[int, ...] | None
) -> None:
    shutil.copytree(of_sides, tmp_path / "both")
    request = of_usual_size(place / "second" / "run", tmp_path, version="1.1.0", deploy=DeploySettings(prior=prior))
    after = package_head(request, tmp_path / "both", "land")
    assert after.input.tile_sides == sides
    assert (tmp_path / "both" / "encoder.onnx").read_bytes() == (of_sides / "encoder.onnx").read_bytes()


def test_a_head_for_a_model_of_one_size_is_exported_for_that_size(place: Path, tmp_path: Path) -> None:
    options = options_of(**PLAIN_CELLS)
    package_heads(of_usual_size(place / "run", tmp_path, smaller_tiles=False), options)
    assert Manifest.load(tmp_path / "both").input.tile_sides is None
    request = of_usual_size(place / "second" / "run", tmp_path, version="1.1.0", deploy=DeploySettings(prior=0))
    after = package_head(request, tmp_path / "both", "land")
    assert after.input.tile_sides is None
    sizes = onnx.load(tmp_path / "both" / "land.onnx").graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in sizes[1:]] == [1024, 1024]


def test_a_head_that_takes_squares_alone_says_what_the_model_loses(
    place: Path, of_sides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scenes below a tile cost more by it, and no candidate of before is shadowed on them."""
    command = ["export", "--run", str(place / "second" / "run"), "--head-of", str(of_sides), "--head", "land"]
    command += ["--out", str(tmp_path)]
    assert main([*command, "--version", "2.0.0", "--cell", "4", "--prior", "0"]) == 0
    assert "takes no tiles of" not in capsys.readouterr().out
    assert main([*command, "--version", "2.0.1", "--cell", "4", "--prior", "4"]) == 0
    said = capsys.readouterr().out
    assert "both takes no tiles of 512, 576, 640, 704, 768, 832, 896, 960 pixels, as not each of its heads does" in said
    assert Manifest.load(tmp_path / "both").input.sides == (1024,)


def test_joined_models_say_which_sides_of_tiles_are_lost(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for head, prior in (("cover", 0.0), ("coarse", 4.0)):
        package(of_usual_size(place / "run", tmp_path, name=head, head=head, deploy=DeploySettings(prior=prior)))
    heads = [f"--head={head}={tmp_path / head}" for head in ("cover", "coarse")]
    assert main(["join", str(tmp_path / "joined"), "--name", "joined", *heads]) == 0
    assert "joined takes no tiles of 512, 576, " in capsys.readouterr().out
    assert main(["join", str(tmp_path / "alone"), "--name", "alone", heads[0]]) == 0
    assert "takes no tiles of" not in capsys.readouterr().out
