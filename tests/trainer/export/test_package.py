from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from engines.manifest import Evaluation, Manifest
from engines.metrics import Confusion
from engines.open import open_engine
from engines.verify import read_packed
from onboard.mapping.run import MapRequest, map_scene
from tests.trainer.tiny_sets import many_sets_settings
from trainer.cli import main
from trainer.config import DataSettings, FinetuneSettings, MachineSettings, Stage
from trainer.data.description import read_description
from trainer.data.labelled import LabelledScene
from trainer.data.sets import open_set
from trainer.errors import CheckpointRefused, ExportRefused, SettingsRefused
from trainer.evaluate.evaluation import evaluate, evaluation_row, with_evaluation
from trainer.export import onnx as export
from trainer.export.card import CARD, write_card
from trainer.export.onnx import segmenter_of
from trainer.export.package import MOST_TRIED, CalibrationRun, PackageRequest, calibration_tiles, centre_tiles, package
from trainer.export.provenance import described, training_of
from trainer.finetune.task import LandCoverTask
from trainer.models.deploy import DeploySettings
from trainer.models.plain import FpnSettings, LiteSettings, NeckSettings
from trainer.models.segmenter import PAPER_SEGMENTER, SegmenterSettings
from trainer.models.student import StudentSettings
from trainer.models.upernet import DecoderSettings
from trainer.training.history import history
from trainer.training.loop import Run

STUDENT = StudentSettings(
    width=16, depth=2, heads=2, stem_widths=(8, 8, 8), window=2, global_blocks=(2,), out_blocks=(1, 2), positions=8
)
MODEL = SegmenterSettings(student=STUDENT, decoder=DecoderSettings(width=8, detail_widths=(8, 8)), classes=5)


def write(path: Path, bands: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    with (
        pytest.warns(NotGeoreferencedWarning),
        rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=count, dtype="uint8") as target,
    ):
        target.write(bands)


def first_band(path: Path) -> NDArray[np.uint8]:
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(path) as source:
        band: NDArray[np.uint8] = source.read(1)
    return band


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run folder of two steps on a made scene that lies in a made data root."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 150, 140), dtype=np.uint8)
    labels = rng.integers(0, 6, (150, 140), dtype=np.uint8)
    write(tmp_path / "data" / "dubai" / "scenes" / "scene_3.tif", pixels)
    write(tmp_path / "data" / "dubai" / "labels" / "scene_3.tif", labels[None])
    settings = FinetuneSettings(
        name="tiny", model=MODEL, max_steps=2, stages=(Stage(until=1, crop=64, batch=2),), frozen_encoder=False,
        machine=MachineSettings(precision="32-true", accelerator="cpu"),
        data=DataSettings(names=("scene_3",), root=tmp_path / "data"),
    )  # fmt: skip
    run = Run(settings, LandCoverTask(settings, [LabelledScene("dubai/3", pixels, labels)]), tmp_path / "run")
    run.go()
    return tmp_path / "run"


def request_for(run: Path, out: Path, **changes: Any) -> PackageRequest:
    tile = np.random.default_rng(1).integers(0, 256, (3, 128, 128), dtype=np.uint8)
    return PackageRequest(
        run=run, out=out, name="tiny", version="0.1.0", description="A test.", notes="## Limits\n\nKnows nothing.",
        golden_tile=tile, tile_size=128, halo=16, **changes,
    )  # fmt: skip


def add_scene(run: Path, number: int) -> None:
    """Another labelled scene beside the one that the run was fitted on, its labels not quite drawn at random."""
    root = run.parent / "data" / "dubai"
    pixels = np.random.default_rng(number).integers(0, 256, (3, 150, 140), dtype=np.uint8)
    _, segmenter = segmenter_of(run)
    with torch.inference_mode():
        said = segmenter(torch.from_numpy(pixels[None, :, :128, :128]).float()).argmax(dim=1)[0].numpy()
    labels = np.random.default_rng(number).integers(0, 6, (150, 140), dtype=np.uint8)
    right = np.kron(said, np.ones((4, 4), np.int64)) + 1
    labels[:128, :128] = np.where(np.random.default_rng(9).random((128, 128)) < 0.3, right, labels[:128, :128])
    write(root / "scenes" / f"scene_{number}.tif", pixels)
    write(root / "labels" / f"scene_{number}.tif", labels[None])


def test_a_packaged_run_is_a_folder_that_the_engines_read(tmp_path: Path, finished: Path) -> None:
    made = package(request_for(finished, tmp_path / "models"))[0]
    folder = tmp_path / "models" / "tiny"
    manifest = Manifest.load(folder)
    assert manifest == made
    manifest.model.read_verified(folder)
    assert manifest.golden is not None
    manifest.golden.read_verified(folder)
    packed = read_packed(manifest, folder)
    assert packed is not None
    assert packed.shape == (1, 3, 128, 128)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["tiny"]
    assert manifest.class_titles[5] == "Bare land"
    assert manifest.training is not None
    assert manifest.training.hyperparameters["steps"] == 2
    assert manifest.training.epochs == pytest.approx(2 * 2 * 64 * 64 / (150 * 140 * 5 / 6), abs=0.02)
    assert str(tmp_path) not in (folder / "manifest.json").read_text()  # no path of the machine that trained
    card = (folder / CARD).read_text()
    assert "Not measured yet" in card
    assert "Knows nothing" in card


def test_each_precision_is_a_model_folder_that_the_engines_open(tmp_path: Path, finished: Path) -> None:
    whole, half = package(request_for(finished, tmp_path / "models", precisions=("fp32", "fp16"), twin=True))
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["tiny", "tiny-fp16"]
    tile = np.random.default_rng(4).integers(0, 256, (1, 3, 128, 128), dtype=np.uint8)
    said = []
    for manifest in (whole, half):
        folder = tmp_path / "models" / manifest.name
        assert Manifest.load(folder) == manifest
        with open_engine(folder, threads=1) as engine:  # holds it to the golden tile
            assert engine.precision == manifest.precision
            said.append(engine.infer(tile))
    assert [whole.precision, half.precision] == ["fp32", "fp16"]
    assert (said[0].classes == said[1].classes).mean() > 0.99
    assert said[1].confidence is not None
    assert whole.golden == half.golden
    assert half.model.bytes < whole.model.bytes
    assert "FP16 ends at" in half.architecture
    assert half.agreement is not None
    assert half.agreement.miou is not None
    card = (tmp_path / "models" / "tiny-fp16" / CARD).read_text()
    assert "| model.onnx | FP16 | 1 |" in card
    assert "| probabilities.onnx | FP16 | 1 |" in card


def test_the_twin_lies_beside_the_model_and_is_not_needed_to_fly(tmp_path: Path, finished: Path) -> None:
    (manifest,) = package(request_for(finished, tmp_path, twin=True))
    twin = manifest.probabilities
    assert twin is not None
    assert twin.read_verified(tmp_path / "tiny")
    (tmp_path / "tiny" / twin.file).unlink()
    with open_engine(tmp_path / "tiny", threads=1):
        pass


def test_without_confidence_the_engine_gives_none(tmp_path: Path, finished: Path) -> None:
    (manifest,) = package(request_for(finished, tmp_path, deploy=DeploySettings(confidence=False)))
    assert manifest.output.confidence is None
    with open_engine(tmp_path / "tiny", threads=1) as engine:
        assert engine.infer(np.zeros((1, 3, 128, 128), np.uint8)).confidence is None
    assert "class codes (uint8) |" in (tmp_path / "tiny" / CARD).read_text()


def test_the_confidence_is_tempered_and_the_card_says_by_what(tmp_path: Path, finished: Path) -> None:
    for number in (4, 5):
        add_scene(finished, number)
    sources = (CalibrationRun(finished, ("scene_4", "scene_5")),)
    (plain,) = package(request_for(finished, tmp_path / "plain"))
    (manifest,) = package(request_for(finished, tmp_path / "tempered", calibration=sources))
    found = manifest.calibration
    assert plain.calibration is None
    assert found is not None
    assert found.held_out
    assert "dubai: scene_4, scene_5" in found.data
    assert found.temperature != 1
    assert found.nll_after < found.nll_before
    said = []
    tile = np.random.default_rng(4).integers(0, 256, (1, 3, 128, 128), dtype=np.uint8)
    for folder in ("plain", "tempered"):
        with open_engine(tmp_path / folder / "tiny", threads=1) as engine:
            said.append(engine.infer(tile))
    assert (said[0].classes == said[1].classes).all()
    assert said[0].confidence is not None
    assert (said[0].confidence != said[1].confidence).any()
    card = (tmp_path / "tempered" / "tiny" / CARD).read_text()
    assert f"softmax(logits / {found.temperature:.4f})" in card
    assert card.count("| 0.933 to 1.000 |") == 1


def test_calibration_on_scenes_that_were_fitted_on_says_so(tmp_path: Path, finished: Path) -> None:
    add_scene(finished, 4)
    (manifest,) = package(request_for(finished, tmp_path, calibration=(CalibrationRun(finished, ("scene_[34]",)),)))
    assert manifest.calibration is not None
    assert not manifest.calibration.held_out
    assert "FITTED on scene_3:" in manifest.calibration.data


def test_calibration_finds_the_run_s_images_where_the_run_says_that_they_lie(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_DATA", str(tmp_path / "nowhere"))
    add_scene(finished, 4)
    (manifest,) = package(request_for(finished, tmp_path, calibration=(CalibrationRun(finished, ("scene_4",)),)))
    assert manifest.calibration is not None
    assert "dubai: scene_4, up to" in manifest.calibration.data


def test_an_image_of_another_set_was_not_fitted_on_because_it_has_the_same_name(tmp_path: Path, finished: Path) -> None:
    add_scene(finished, 4)
    other = read_description("dubai").model_dump(mode="json") | {"name": "other", "folder": "other"}
    (tmp_path / "data" / "other.yaml").write_text(yaml.safe_dump(other))
    for number in (3, 4):
        for kind in ("scenes", "labels"):
            # scene_3 of the other set is not that of the run.
            (tmp_path / "data" / "other" / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(
                tmp_path / "data" / "dubai" / kind / "scene_4.tif",
                tmp_path / "data" / "other" / kind / f"scene_{number}.tif",
            )
    source = CalibrationRun(finished, ("scene_3",), str(tmp_path / "data" / "other.yaml"))
    (manifest,) = package(request_for(finished, tmp_path, calibration=(source,)))
    assert manifest.calibration is not None
    assert manifest.calibration.held_out
    assert "FITTED" not in manifest.calibration.data


def test_calibration_on_what_is_not_for_it_is_refused(tmp_path: Path, finished: Path) -> None:
    add_scene(finished, 1)
    with pytest.raises(SettingsRefused, match="scene_1 of dubai: for reporting only"):
        package(request_for(finished, tmp_path, calibration=(CalibrationRun(finished, ("scene_1",)),)))
    with pytest.raises(SettingsRefused, match="nothing to calibrate"):
        package(
            request_for(
                finished, tmp_path, calibration=(CalibrationRun(finished, ("scene_3",)),),
                deploy=DeploySettings(confidence=False),
            )
        )  # fmt: skip


def test_one_precision_refused_leaves_no_folder_and_the_old_one_alone(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,) = package(request_for(finished, tmp_path / "models"))
    monkeypatch.setitem(export.LEAST_SAME, "fp16", 1.1)
    with pytest.raises(ExportRefused, match="FP16"):
        package(request_for(finished, tmp_path / "models", precisions=("fp32", "fp16")))
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
    assert Manifest.load(tmp_path / "models" / "tiny") == old


def test_a_model_packaged_again_replaces_the_old_folder_whole(tmp_path: Path, finished: Path) -> None:
    out = tmp_path / "models"
    package(request_for(finished, out))
    (out / "tiny" / "of-the-old.txt").touch()
    package(request_for(finished, out))
    assert [path.name for path in out.iterdir()] == ["tiny"]
    assert not (out / "tiny" / "of-the-old.txt").exists()
    manifest = Manifest.load(out / "tiny")
    manifest.model.read_verified(out / "tiny")


def test_figures_go_into_manifest_and_card_once(tmp_path: Path, finished: Path) -> None:
    manifest = package(request_for(finished, tmp_path / "models"))[0]
    confusion = Confusion(5)
    confusion.add(np.array([1, 1, 2, 3], np.uint8), np.array([1, 2, 2, 3], np.uint8))
    for _ in range(2):
        row = evaluation_row(confusion.scores(), read_description("dubai"), split="scene 1", notes="Whole.")
        manifest = with_evaluation(manifest, row)
    assert len(manifest.evaluation) == 1
    assert manifest.evaluation[0].per_class_iou == {
        "building": 0.5, "road": 0.5, "vegetation": 1.0, "water": None, "bare_land": None,
    }  # fmt: skip
    folder = tmp_path / "models" / "tiny"
    write_card(manifest, folder)
    card = (folder / CARD).read_text()
    assert "| scene 1 | 0.500 | 0.500 | 1.000 | none | none | **0.667** |" in card
    assert "Knows nothing" in card  # the notes survive


def test_other_splits_are_kept(tmp_path: Path, finished: Path) -> None:
    manifest = package(request_for(finished, tmp_path))[0]
    old = Evaluation(data_set="x", split="a", per_class_iou={}, miou=0.1, oa=0.1, mf1=0.1)
    manifest = with_evaluation(with_evaluation(manifest, old), old.model_copy(update={"split": "b"}))
    assert [row.split for row in manifest.evaluation] == ["a", "b"]


def test_scenes_smaller_than_a_tile_are_reflected_and_of_many_a_few_are_tried() -> None:
    def scene(number: int, height: int, width: int) -> LabelledScene:
        pixels = np.random.default_rng(number).integers(0, 256, (3, height, width), dtype=np.uint8)
        return LabelledScene(str(number), pixels, np.full((height, width), 1 + number % 5, np.uint8))

    small = scene(0, 100, 140)
    trial = centre_tiles([small], 128)
    assert trial.labels is not None
    assert np.array_equal(trial.tiles[0, :, :100], small.pixels[:, :, 6:134])
    assert np.array_equal(trial.tiles[0, :, 100], small.pixels[:, 98, 6:134])
    assert (trial.labels[0, :100] == 1).all()
    assert (trial.labels[0, 100:] == 0).all()
    assert {tile.shape for tile in calibration_tiles([small], 128)} == {(1, 3, 128, 128)}
    many = [scene(number, 32, 32) for number in range(40)]
    tried = centre_tiles(many, 32)
    assert tried.tiles.shape == (MOST_TRIED, 3, 32, 32)
    assert np.array_equal(tried.tiles[-1], many[39].pixels)
    assert len(calibration_tiles(many, 32)) == 2 * MOST_TRIED


def test_provenance_says_what_the_student_was_made_of_and_on(tmp_path: Path, finished: Path) -> None:
    encoder = tmp_path / "encoder" / "checkpoints" / "step-00000001"
    encoder.mkdir(parents=True)
    told = {"teachers": {"sam": {"weights": "/somewhere/sam_vit_l.pth"}, "own": {"weights": None}}}
    (encoder / "state.json").write_text(json.dumps({"step": 1, "settings": told, "images": 12000}))
    facts = history(finished)[-1]
    scenes = [LabelledScene("x", np.zeros((3, 9, 9), np.uint8), np.ones((9, 9), np.uint8))]
    assert training_of([facts], scenes).notes.startswith("Supervised, from random weights; 0 minutes on 1 x ")
    facts["settings"] |= {"encoder": str(tmp_path / "encoder"), "betas": [0.9, 0.999]}
    training = training_of([facts | {"device": "4 x H100"}], scenes)
    assert "distilled by Mask-CDKD from sam (sam_vit_l.pth), own (random weights), 12,000 unlabelled" in training.notes
    assert "0 minutes on 4 x H100, in stretches of 0 minutes" in training.notes
    assert training.hyperparameters["optimiser"] == "AdamW, betas 0.9 and 0.999"
    told["teachers"] = {}
    (encoder / "state.json").write_text(json.dumps({"step": 1, "settings": told, "images": 12000}))
    assert "pre-trained by masked reconstruction" in training_of([facts], scenes).notes


def test_published_weights_are_told_by_the_network_that_they_are_of(finished: Path) -> None:
    facts = history(finished)[-1]
    scenes = [LabelledScene("x", np.zeros((3, 9, 9), np.uint8), np.ones((9, 9), np.uint8))]
    facts["settings"]["stem_weights"] = "runs/dinov2-small"
    facts["settings"]["model"]["student"] |= {"stem": "linear", "window": None, "kv_pool": 1}
    facts["settings"]["model"]["decoder"]["detail_widths"] = None
    training = training_of([facts], scenes)
    assert "from DINOv2's published weights as the encoder and random weights behind it" in training.notes
    assert training.license == "Apache-2.0"
    assert [item.use for item in training.data_sets if "DINOv2" in item.name and "dinov2-small" in item.name] == [
        "start of the encoder"
    ]
    facts["settings"]["stem_weights"] = "imagenet"
    facts["settings"]["model"]["student"]["stem"] = "lite2"
    training = training_of([facts], scenes)
    assert "from EfficientNet-Lite2's published weights as the stem" in training.notes
    assert any(item.name.startswith("ImageNet-1k, through EfficientNet-Lite2") for item in training.data_sets)


def test_the_architecture_is_told_as_it_is() -> None:
    paper = described(PAPER_SEGMENTER, DeploySettings())
    assert "linear embedding of patches of 16 pixels, 12 blocks of width 384" in paper
    assert "attention over all tokens; UPerNet of width 256 at stride 16." in paper
    probe = MODEL.model_copy(update={"decoder": DecoderSettings(kind="linear")})
    assert "; one linear layer at stride 16. Classes" in described(probe, DeploySettings())
    assert "conv stem (8, 8, 8)" in described(MODEL, DeploySettings())
    assert described(MODEL, DeploySettings(prior=0)).endswith("Classes are chosen for cells of 2 pixels.")
    assert "windows of 2 tokens, blocks 2 global with keys and values averaged over 2x2" in described(
        MODEL, DeploySettings()
    )


@pytest.mark.parametrize(
    ("neck", "said"),
    [
        (None, "EfficientNet-Lite0 as the encoder; feature pyramid of widths (8, 8, 6, 4) from stride 32 to 4."),
        (
            NeckSettings(widths=(8, 8), blocks=(1, 2)),
            "EfficientNet-Lite0 with a neck of widths (8, 8) and residual blocks (1, 2) at strides 32 and 16 as the "
            "encoder; feature pyramid of widths (8, 6, 4) from stride 16 to 4.",
        ),
    ],
)
def test_an_encoder_is_told_with_its_neck(neck: NeckSettings | None, said: str) -> None:
    model = SegmenterSettings(
        student=LiteSettings(kind="lite", neck=neck), decoder=FpnSettings(kind="fpn", widths=(8, 8, 6, 4))
    )
    assert described(model, DeploySettings()).startswith(said)


def test_a_decoder_is_told_with_its_blocks_and_no_further_than_it_goes() -> None:
    decoder = FpnSettings(kind="fpn", widths=(8, 8, 6, 4), stride=8, blocks=(1, 0, 2, 0))
    told = described(SegmenterSettings(student=LiteSettings(kind="lite"), decoder=decoder), DeploySettings())
    assert "; feature pyramid of widths (8, 8, 6) from stride 32 to 8, residual blocks (1, 0, 2)." in told


def test_a_head_that_began_anew_counts_from_there(tmp_path: Path, finished: Path) -> None:
    facts = history(finished)[-1]
    settings = [
        many_sets_settings(tmp_path / "a"),
        many_sets_settings(tmp_path / "b", start_from="a", fresh_heads=["coarse"]),
    ]
    first, last = (facts | {"settings": item.model_dump(mode="json")} for item in settings)
    stretches = [first | {"step": 5, "images": 20}, last | {"step": 3, "images": 12}]
    whole, cover, coarse = (training_of(stretches, [], head=head) for head in (None, "cover", "coarse"))
    steps = [training.hyperparameters["steps"] for training in (whole, cover, coarse)]
    assert steps == [8, 8, 3]
    assert "under a decoder that started at random" in coarse.notes
    assert "started at random" not in whole.notes


def test_a_run_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = tmp_path / "distilled" / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    settings = {"name": "mask-cdkd", "max_steps": 3, "schedule": {"window": 5}}
    (checkpoint / "state.json").write_text(json.dumps({"step": 1, "settings": settings}))
    with pytest.raises(CheckpointRefused, match=r"distilled: not a run of `trainer finetune` \(schedule: .*give the"):
        segmenter_of(tmp_path / "distilled")


def test_history_follows_the_runs_it_started_from(tmp_path: Path) -> None:
    for name, earlier in (("first", None), ("second", tmp_path / "first")):
        checkpoint = tmp_path / name / "checkpoints" / "step-00000001"
        checkpoint.mkdir(parents=True)
        settings = {"start_from": None if earlier is None else str(earlier)}
        (checkpoint / "state.json").write_text(json.dumps({"step": len(name), "settings": settings}))
    assert [facts["step"] for facts in history(tmp_path / "second")] == [5, 6]
    with pytest.raises(CheckpointRefused, match="no checkpoint"):
        history(tmp_path / "third")


def test_the_card_names_the_data_of_every_run_the_weights_went_through(finished: Path) -> None:
    """Also what only the first run had: its sets, and a teacher's soft labels; terms leave no licence of our own."""
    last = history(finished)[-1]
    first = json.loads(json.dumps(last))
    sets = [{"set": "tokyo", "soft": "out/soft"}, {"set": "dubai", "names": ["scene_7"]}]
    first["settings"]["data"] |= {"sets": sets, "gsd_m": 0.7, "names": []}
    first["settings"] |= {"heads": {"landcover": {"classes_of": "dubai"}}, "model": MODEL.model_dump(mode="json")}
    first["seconds"], last["seconds"] = 600.0, 300.0
    scenes = [LabelledScene("dubai/3", np.zeros((3, 8, 8), np.uint8), np.ones((8, 8), np.uint8))]
    training = training_of([first, last], scenes, terms="research only")
    assert [(item.name.split(" (")[0], item.use) for item in training.data_sets] == [
        ("OpenEarthMap, Tokyo", "supervised fit on split train and a teacher's soft labels"),
        ("Dubai scenes", "supervised fit on scene_3, scene_7"),
    ]
    assert "soft labels (5 minutes of it by labels alone)" in training.notes
    assert training.license == "none of our own: see the model's terms"


def test_a_folder_that_holds_a_run_which_started_from_it_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    settings = {"start_from": str(tmp_path / "run")}
    (checkpoint / "state.json").write_text(json.dumps({"step": 1, "settings": settings}))
    with pytest.raises(CheckpointRefused, match="a later run started from this folder, and stands in it now; restore"):
        history(tmp_path / "run")
    (checkpoint / "state.json").write_text(json.dumps({"step": 2, "settings": settings, "earlier": [{"step": 1}]}))
    assert [facts["step"] for facts in history(tmp_path / "run")] == [1, 2]


def test_a_run_keeps_what_it_started_from_when_that_folder_goes(finished: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(finished, first)
    settings = FinetuneSettings.model_validate(history(first)[-1]["settings"])
    settings = settings.model_copy(update={"start_from": first, "max_steps": 1})
    blank = np.zeros((3, 150, 140), np.uint8)
    Run(settings, LandCoverTask(settings, [LabelledScene("dubai/3", blank, blank[0] + 1)]), tmp_path / "second").go()
    shutil.rmtree(first)
    assert [facts["step"] for facts in history(tmp_path / "second")] == [history(finished)[-1]["step"], 1]


def test_a_packaged_model_is_scored_on_whole_scenes_by_the_flying_pipeline(tmp_path: Path, finished: Path) -> None:
    package(request_for(finished, tmp_path))
    folder, root = tmp_path / "tiny", tmp_path / "data"
    evaluated = evaluate([(folder, ["scene_3"])], open_set("dubai", root), threads=1)
    labels = first_band(root / "dubai" / "labels" / "scene_3.tif")
    assert evaluated.pooled.pixels == (labels > 0).sum()
    with open_engine(folder, threads=1) as engine:
        summary = map_scene(MapRequest(scene=root / "dubai" / "scenes" / "scene_3.tif", out=tmp_path / "maps"), engine)
    expected = (first_band(summary.map_path) == labels)[labels > 0].mean()
    assert evaluated.pooled.overall_accuracy == pytest.approx(expected)


def test_a_model_of_other_classes_is_not_scored(tmp_path: Path, finished: Path) -> None:
    manifest = package(request_for(finished, tmp_path))[0]
    manifest.model_copy(update={"classes": manifest.classes[:4]}).save(tmp_path / "tiny")
    with pytest.raises(SettingsRefused, match="bare_land"):
        evaluate([(tmp_path / "tiny", ["scene_3"])], open_set("dubai", tmp_path / "data"))


def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fit.yaml").write_text("name: x\nmax_step: 3\n")
    assert main(["finetune", "--config", str(tmp_path / "fit.yaml"), "--run", str(tmp_path)]) == 2
    assert main(["export", "--run", str(tmp_path / "none"), "--name", "x"]) == 2
    assert main(["export", "--run", str(tmp_path / "none"), "--name", "x", "--calibrate", "folder"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "FOLDER=NAME,NAME" in lines[2]
    assert "max_step" in lines[0]
    assert "no checkpoint" in lines[1]


def test_a_name_that_is_none_of_a_model_is_refused_before_the_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--run", str(tmp_path / "none"), "--name"]
    assert main([*command, "Dubai Lite"]) == 2
    assert main([*command, "x", "--notes", str(tmp_path / "nope")]) == 1
    (tmp_path / "picture").write_bytes(b"\x89PNG")
    assert main([*command, "x", "--notes", str(tmp_path / "picture")]) == 2
    assert main([*command, "x", "--prior", "-1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[3] == "trainer: --prior: -1 is no number of logits; give 0 or more; correct the configuration"
    assert lines[2] == f"trainer: {tmp_path}/picture: it is no text in UTF-8; give markdown"
    assert "--name: 'Dubai Lite' is no name of a model" in lines[0]
    assert lines[1] == f"trainer: {tmp_path}/nope: no such file or directory"
    with pytest.raises(SystemExit):
        main([*command, "x", "--threads", "-1"])
    assert "--threads: -1 is less than 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "a b/../c"}, "--version: 'a b/../c' is no version: give lower-case letters"),
        ({"name": "x" * 60, "precisions": ("fp32", "fp16")}, "-fp16' is no name of a model"),
        ({"gsd_range_m": (1.3, 0.45)}, "--gsd-range: 1.3 0.45 is no range; give the smaller one first"),
        ({"gsd_range_m": (0.0, 1.0)}, "--gsd-range: 0 1 is no range"),
        ({"gsd_range_m": (0.5, math.nan)}, "--gsd-range: 0.5 nan is no range"),
        ({"gsd_range_m": (0.8, 1.2)}, "--gsd-range: 0.8 to 1.2 m does not hold the 0.7 m that the run was trained at"),
        ({"gsd_range_m": (0.4, 0.6)}, "does not hold the 0.7 m"),
        ({"gsd_range_m": (0.6, 1.2), "gsd_m": 1.3}, "--gsd-range: 0.6 to 1.2 m does not hold the 1.3 m of --gsd"),
    ],
)
def test_what_a_manifest_would_refuse_is_refused_before_any_work(
    tmp_path: Path, finished: Path, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state,) = finished.glob("checkpoints/*/state.json")
    facts = json.loads(state.read_text())
    facts["settings"]["data"]["gsd_m"] = 0.7
    state.write_text(json.dumps(facts))
    monkeypatch.setattr("trainer.export.package.segmenter_of", None)  # the first work
    with pytest.raises(SettingsRefused, match=re.escape(said)):
        package(replace(request_for(finished, tmp_path / "models"), **changes))
    assert not (tmp_path / "models").exists()


def test_a_range_of_a_run_without_a_ground_resolution_only_has_to_rise(tmp_path: Path, finished: Path) -> None:
    (made,) = package(request_for(finished, tmp_path / "models", gsd_range_m=(0.4, 0.6)))
    assert (made.gsd_m, made.gsd_range_m) == (None, (0.4, 0.6))
    (told,) = package(request_for(finished, tmp_path / "told", gsd_range_m=(0.4, 0.6), gsd_m=0.5))
    assert told.gsd_m == 0.5


def test_without_out_no_model_that_is_there_is_replaced(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default folder holds the shipped models."""
    monkeypatch.chdir(tmp_path)
    for name in ("landcover", "mine-fp16"):
        (tmp_path / "engines" / "shipped" / name).mkdir(parents=True)
    made: list[Path] = []

    def packaged(request: PackageRequest) -> list[Manifest]:
        made.append(request.out / request.name)
        return []

    monkeypatch.setattr("trainer.export.package.package", packaged)
    command = ["export", "--run", str(finished), "--name"]
    assert main([*command, "landcover"]) == 2
    assert main([*command, "mine", "--precision", "fp32", "fp16"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "--name: engines/shipped/landcover is there already; give another one, or --out FOLDER" in lines[0]
    assert "--name: engines/shipped/mine-fp16 is there already" in lines[1]
    assert made == []
    assert main([*command, "mine"]) == 0
    assert main([*command, "landcover", "--out", "engines/shipped"]) == 0
    assert made == [Path("engines/shipped/mine"), Path("engines/shipped/landcover")]
