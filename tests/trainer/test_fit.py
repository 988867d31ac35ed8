from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from trainer.checkpoint import read_average
from trainer.config import FitSettings, PretrainSettings, Stage, read_settings
from trainer.data.labelled import LabelledScene
from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.fit import LandCoverTask
from trainer.loop import Run
from trainer.models.segmenter import SegmenterSettings
from trainer.models.student import StudentSettings
from trainer.models.upernet import DecoderSettings
from trainer.pretrain import ReconstructionTask
from trainer.schedule import elapsed_share, learning_rate, stage_at

STUDENT = StudentSettings(
    width=16, depth=2, heads=2, stem_widths=(8, 8, 8), window=2, global_blocks=(2,), out_blocks=(1, 2), positions=8
)
MODEL = SegmenterSettings(
    student=STUDENT, decoder=DecoderSettings(width=8, detail_widths=(8, 8), dropout=0.0), classes=2
)
SETTINGS = FitSettings(
    name="tiny", model=MODEL, max_steps=60, stages=(Stage(until=1.0, crop=64, batch=4),), learning_rate=5e-3,
    average=0.9, bfloat16=False,
)  # fmt: skip


@pytest.fixture
def scene() -> LabelledScene:
    """Bright squares are class 2; the rest is class 1, with a stripe unlabelled."""
    rng = np.random.default_rng(0)
    labels = (rng.random((12, 12)) < 0.4).astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1) + 1
    pixels = np.where(labels == 2, 190, 60) + rng.integers(-20, 20, (3, 192, 192))
    labels[:8] = 0
    return LabelledScene("made", pixels.astype(np.uint8), labels.astype(np.uint8))


def run_of(settings: FitSettings, folder: Path, scene: LabelledScene) -> Run:
    return Run(settings, LandCoverTask(settings, [scene]), folder)


def test_a_fit_learns_and_its_average_is_written(tmp_path: Path, scene: LabelledScene) -> None:
    losses: list[float] = []
    run_of(SETTINGS, tmp_path, scene).go(losses.append)
    assert len(losses) == 60
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    assert "student.positions" in read_average(tmp_path)


def test_a_fit_interrupted_and_resumed_ends_as_one_that_was_not(tmp_path: Path, scene: LabelledScene) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 6})
    whole = run_of(settings, tmp_path / "whole", scene)
    torch.manual_seed(1)  # positions are drawn while training
    whole.task.network.eval()
    for step in range(6):
        whole.learn(whole.task.draw(step, settings.stages[0]))

    first = run_of(settings, tmp_path / "cut", scene)
    first.task.network.eval()
    for step in range(3):
        first.learn(first.task.draw(step, settings.stages[0]))
    first.save()
    second = run_of(settings.model_copy(update={"seed": 0}), tmp_path / "cut", scene)
    assert second.resume()
    second.task.network.eval()
    for step in range(second.step, 6):
        second.learn(second.task.draw(step, settings.stages[0]))
    assert second.step == whole.step == 6
    assert second.crops == whole.crops == 24
    for name, value in whole.average.tensors.items():
        assert torch.allclose(second.average.tensors[name], value, atol=1e-6), name


def test_resuming_goes_on_where_the_time_was(tmp_path: Path, scene: LabelledScene) -> None:
    ticks = iter(range(0, 10_000, 20))
    settings = SETTINGS.model_copy(update={"max_steps": None, "max_minutes": 2.0, "checkpoint_minutes": 0.5})
    run = Run(settings, LandCoverTask(settings, [scene]), tmp_path, clock=lambda: float(next(ticks)))
    run.go(lambda _: None)
    assert run.step == 6  # 20 s a step, two minutes
    run.seconds = 60.0
    run.save()
    again = Run(settings, LandCoverTask(settings, [scene]), tmp_path, clock=lambda: float(next(ticks)))
    assert again.resume()
    assert again.share == 0.5
    again.go(lambda _: None)
    assert again.step == 6 + 3


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, scene: LabelledScene) -> None:
    run_of(SETTINGS, tmp_path, scene).save()
    wider = MODEL.model_copy(update={"decoder": DecoderSettings(width=12, detail_widths=(8, 8))})
    with pytest.raises(CheckpointRefused, match="another network"):
        run_of(SETTINGS.model_copy(update={"model": wider}), tmp_path, scene).resume()


def test_a_fit_starts_from_an_earlier_ones_average_or_a_pretrained_student(
    tmp_path: Path, scene: LabelledScene
) -> None:
    settings = PretrainSettings(
        name="tiny", model=MODEL, max_steps=25, stages=SETTINGS.stages, learning_rate=5e-3, average=0.5, bfloat16=False
    )
    losses: list[float] = []
    task = ReconstructionTask(settings, [scene.pixels])
    Run(settings, task, tmp_path / "masked").go(losses.append)
    assert np.mean(losses[-5:]) < np.mean(losses[:3])

    fitted = LandCoverTask(SETTINGS.model_copy(update={"pretrained": tmp_path / "masked"}), [scene])
    learnt = read_average(tmp_path / "masked")["student.stem.to2.conv.weight"]
    assert torch.equal(fitted.network.student.stem.to2.conv.weight, learnt)
    Run(SETTINGS, fitted, tmp_path / "fit").save()
    again = LandCoverTask(SETTINGS.model_copy(update={"start_from": tmp_path / "fit"}), [scene])
    assert torch.equal(again.network.decoder.classifier.weight, fitted.network.decoder.classifier.weight)


def test_the_rate_warms_up_peaks_and_comes_down_to_the_end() -> None:
    rates = [learning_rate(SETTINGS, share) for share in (0.0, 0.015, 0.03, 0.5, 1.0)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(5e-3)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(1e-6)


def test_time_or_steps_end_a_fit_whichever_is_further() -> None:
    settings = SETTINGS.model_copy(update={"max_minutes": 1.0, "max_steps": 10})
    assert elapsed_share(settings, step=5, seconds=6) == 0.5
    assert elapsed_share(settings, step=1, seconds=30) == 0.5
    assert elapsed_share(settings, step=99, seconds=0) == 1.0


def test_stages_follow_each_other() -> None:
    stages = (Stage(until=0.5, crop=32, batch=8), Stage(until=1.0, crop=64, batch=2))
    settings = SETTINGS.model_copy(update={"stages": stages})
    assert [stage_at(settings, share).crop for share in (0.0, 0.49, 0.5, 1.0)] == [32, 32, 64, 64]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"max_steps": None}, "a run must end"),
        ({"stages": [{"until": 0.5, "crop": 64, "batch": 1}]}, "the last at 1.0"),
        ({"stages": [{"until": 1.0, "crop": 40, "batch": 1}]}, "not multiples of 32"),
        ({"start_from": "a", "pretrained": "b"}, "not both"),
        ({"learning_speed": 1}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        FitSettings.model_validate(SETTINGS.model_dump(mode="json") | changes)


def test_a_bad_file_is_one_line_that_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nmax_steps: 1\nmodel: {student: {width: 10, heads: 3}}\n")
    with pytest.raises(SettingsRefused, match=r"bad\.yaml: model\.student: .*not a multiple of heads"):
        read_settings(path, FitSettings)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "trainer" / "configs").glob("*.yaml")))
def test_shipped_configurations_are_valid(path: Path) -> None:
    kind = PretrainSettings if path.stem.startswith("pretrain") else FitSettings
    assert read_settings(path, kind).name
