"""A new decoder on the encoder of an earlier run: not a bit of the encoder changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.lite_weights import published
from tests.trainer.tiny_sets import many_sets_settings, write_set
from trainer.cli import main
from trainer.config import DataSettings, FinetuneSettings, checked_settings
from trainer.data.scene_cache import scenes_of
from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.export.provenance import training_of
from trainer.finetune.encoder import take_published
from trainer.finetune.task import LandCoverTask, finetune
from trainer.models.lite_stem import _Trunk
from trainer.training.checkpoint import read_average
from trainer.training.history import history

LITE = {"kind": "lite", "stem": "lite0"}
PLAIN = {"kind": "plain", "widths": [8, 8, 8, 8, 8], "blocks": [0, 0, 1, 0]}


def encoder_in(run: Path) -> dict[str, Tensor]:
    """Averaged weights and buffers of a run's encoder."""
    return {name: value for name, value in read_average(run).items() if name.startswith("student.")}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.numpy().tobytes() == second[name].numpy().tobytes() for name, value in first.items()
    )


def of_one_set(folder: Path, student: dict[str, Any], **more: Any) -> FinetuneSettings:
    """A run on two classes, of a set of its own."""
    labels = write_set(folder, "land", 96, 2, classes=[
        {"code": 1, "name": "land", "title": "Land", "colour": "#00FF00", "codes": [1, 2]},
        {"code": 2, "name": "sea", "title": "Sea", "colour": "#0000FF", "codes": [3]},
    ])  # fmt: skip
    told: dict[str, Any] = {
        "name": "second", "data": {"set": labels},
        "model": {"classes": 2, "student": student, "decoder": {"kind": "fpn", "widths": [8, 8, 8, 8]}},
        "stages": [{"until": 1.0, "crop": 64, "batch": 4}], "max_steps": 4, "learning_rate": 1e-2, "average": 0.5,
        "machine": {"precision": "32-true", "threads": 1}, **more,
    }  # fmt: skip
    return checked_settings(told, FinetuneSettings, "made")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A run of two heads whose encoder learnt."""
    finetune(many_sets_settings(tmp_path, max_steps=3, learning_rate=1e-2, average=0.5), tmp_path / "first")
    return tmp_path / "first"


def test_a_decoder_of_one_set_leaves_the_encoder_as_it_is(tmp_path: Path, first: Path) -> None:
    finetune(of_one_set(tmp_path, PLAIN, encoder=str(first)), tmp_path / "second")
    assert any(".running_mean" in name for name in encoder_in(first))
    assert same_bits(encoder_in(tmp_path / "second"), encoder_in(first))
    before, after = read_average(first), read_average(tmp_path / "second")
    assert before["decoder.classifier.weight"].shape != after["decoder.classifier.weight"].shape


def test_an_encoder_of_kind_lite_stays_too(tmp_path: Path) -> None:
    finetune(of_one_set(tmp_path / "a", LITE, max_steps=1, frozen_encoder=False), tmp_path / "first")
    finetune(of_one_set(tmp_path / "b", LITE, encoder=str(tmp_path / "first"), max_steps=2), tmp_path / "second")
    assert same_bits(encoder_in(tmp_path / "second"), encoder_in(tmp_path / "first"))


@pytest.mark.parametrize("student", [LITE, LITE | {"fused": True}])
def test_published_weights_go_into_an_encoder_of_kind_lite_and_learn_at_their_own_rate(
    tmp_path: Path, student: dict[str, Any]
) -> None:
    given = published("lite0")
    torch.save(given, tmp_path / "lite0.pth")
    settings = of_one_set(
        tmp_path, student, stem_weights=str(tmp_path / "lite0.pth"), stem_learning_rate=0.25, frozen_encoder=False
    )
    task = LandCoverTask(settings, scenes_of(settings.data, classes=2))
    (trunk,) = [module for module in task.network.modules() if isinstance(module, _Trunk)]
    assert trunk.learning_rate_share == 0.25
    assert torch.equal(trunk.state_dict()["first.0.weight"], given["_conv_stem.weight"])


def test_published_weights_that_the_encoder_has_no_place_for_are_refused(tmp_path: Path) -> None:
    settings = of_one_set(tmp_path, LITE, stem_weights="imagenet")
    with pytest.raises(SettingsRefused, match="stem_weights: this encoder has no EfficientNet-Lite stem"):
        take_published(torch.nn.Identity(), settings)


def test_decoders_of_several_sets_leave_the_encoder_as_it_is(tmp_path: Path, first: Path) -> None:
    settings = many_sets_settings(
        tmp_path / "again", max_steps=4, learning_rate=1e-2, average=0.5, encoder=str(first), frozen_encoder=True
    )
    finetune(settings, tmp_path / "second")
    assert same_bits(encoder_in(tmp_path / "second"), encoder_in(first))
    changed = {name for name, value in read_average(tmp_path / "second").items()
               if not torch.equal(value, read_average(first)[name])}  # fmt: skip
    assert {name.split(".")[0] for name in changed} == {"decoder", "heads"}


def test_a_run_cut_off_and_continued_leaves_the_encoder_as_it_is(tmp_path: Path, first: Path) -> None:
    settings = of_one_set(tmp_path, PLAIN, encoder=str(first), max_steps=2)
    finetune(settings, tmp_path / "second")
    finetune(settings.model_copy(update={"max_steps": 4}), tmp_path / "second")
    assert history(tmp_path / "second")[-1]["step"] == 4
    assert same_bits(encoder_in(tmp_path / "second"), encoder_in(first))


def test_an_unfrozen_encoder_learns_on(tmp_path: Path, first: Path) -> None:
    finetune(of_one_set(tmp_path, PLAIN, encoder=str(first), frozen_encoder=False), tmp_path / "second")
    assert not same_bits(encoder_in(tmp_path / "second"), encoder_in(first))


def test_a_head_of_weight_0_stays_as_it_was_loaded(tmp_path: Path, first: Path) -> None:
    settings = many_sets_settings(tmp_path / "again", max_steps=3, learning_rate=1e-2, start_from=str(first))
    heads = settings.heads | {"coarse": settings.heads["coarse"].model_copy(update={"weight": 0.0})}
    finetune(settings.model_copy(update={"heads": heads}), tmp_path / "second")
    before, after = read_average(first), read_average(tmp_path / "second")
    of_head = [name for name in before if name.startswith("heads.coarse.")]
    assert any("running_mean" in name for name in of_head)
    assert all(torch.equal(before[name], after[name]) for name in of_head)
    assert not torch.equal(before["decoder.classifier.weight"], after["decoder.classifier.weight"])


@pytest.mark.parametrize("several", [False, True], ids=["one set", "several sets"])
def test_an_encoder_of_another_shape_is_refused_before_any_data_is_read(
    tmp_path: Path, first: Path, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = PLAIN | {"widths": [8, 8, 8, 8, 16]}
    settings = of_one_set(tmp_path, wider, encoder=str(first))
    if several:
        model = {"classes": 3, "student": wider, "decoder": {"kind": "fpn", "widths": [8, 8, 8, 8]}, "heads": {
            "coarse": {"classes": 2, "decoder": {"kind": "fpn", "widths": [8, 8, 8, 8]}}}}  # fmt: skip
        settings = many_sets_settings(tmp_path / "again", encoder=str(first), frozen_encoder=True, model=model)
    monkeypatch.setattr("trainer.finetune.task.scenes_of", pytest.fail)
    monkeypatch.setattr("trainer.finetune.task.mixture_of", pytest.fail)
    with pytest.raises(CheckpointRefused, match=r"first: weights of another network: stages\.3.* is \(8, 8, 3, 3\)"):
        finetune(settings, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_frozen_encoder_of_other_settings_is_refused_though_its_weights_would_fit(tmp_path: Path) -> None:
    vit: dict[str, Any] = {
        "width": 16, "depth": 2, "heads": 2, "stem_widths": [8, 8, 8], "window": 2, "global_blocks": [2],
        "out_blocks": [1, 2], "positions": 8,
    }  # fmt: skip
    shape = {"classes": 2, "student": vit, "decoder": {"width": 8, "detail_widths": [8, 8]}}
    finetune(of_one_set(tmp_path / "a", vit, model=shape, max_steps=1, frozen_encoder=False), tmp_path / "first")
    other = shape | {"student": vit | {"heads": 4}}
    settings = of_one_set(tmp_path / "b", vit, model=other, encoder=str(tmp_path / "first"))
    with pytest.raises(CheckpointRefused, match="its encoder has heads 2, here it is 4; give the folder"):
        finetune(settings, tmp_path / "second")


def test_several_sets_do_not_learn_on_an_encoder_that_stays_random(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="would stay random: give `encoder`"):
        finetune(many_sets_settings(tmp_path, frozen_encoder=True), tmp_path / "run")


def test_a_run_without_a_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fit.yaml").write_text("name: x\nmax_steps: 1\n")
    command = ["finetune", "--config", str(tmp_path / "fit.yaml"), "--run", str(tmp_path / "run")]
    assert main([*command, "--encoder", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == (
        f"trainer: {tmp_path}/none: no checkpoint in it; give the folder of a run that has one\n"
    )


def test_provenance_names_the_data_of_the_encoder_and_counts_the_new_decoder(tmp_path: Path, first: Path) -> None:
    settings = of_one_set(tmp_path, PLAIN, encoder=str(first))
    finetune(settings, tmp_path / "second")
    stretches = history(tmp_path / "second")
    assert [facts["step"] for facts in stretches] == [3, 4]
    scenes = DataSettings(set=settings.data.set)
    training = training_of(stretches, scenes_of(scenes, classes=2))
    assert [item.name for item in training.data_sets] == ["cover", "coarse", "land"]
    assert training.hyperparameters["steps"] == 4
    assert training.epochs == pytest.approx(4 * 4 * 64 * 64 / (2 * 96 * 96), abs=0.01)
    assert "from random weights" in training.notes
    assert training.notes.endswith(
        "The encoder is that of the first stretch, frozen since, under a decoder that started at random."
    )
