from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError

from trainer.ablate.settings import AblateSettings
from trainer.cli import main
from trainer.config import DataSettings, FinetuneSettings, MachineSettings, Stage, read_settings
from trainer.data.labelled import LabelledScene
from trainer.distill.settings import DistillSettings
from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.evaluate.places import PlacesSettings
from trainer.finetune.source_teacher import SourceSettings
from trainer.finetune.task import LandCoverTask
from trainer.models.segmenter import Segmenter, SegmenterSettings
from trainer.models.student import PAPER_STUDENT, StudentSettings
from trainer.models.upernet import PAPER_DECODER, DecoderSettings
from trainer.training.checkpoint import read_average
from trainer.training.loop import Run
from trainer.training.schedule import elapsed_share, learning_rate, stage_at

CONFIGS = Path(__file__).parents[3] / "trainer" / "configs"
STUDENT = StudentSettings(
    width=16, depth=2, heads=2, stem_widths=(8, 8, 8), window=2, global_blocks=(2,), out_blocks=(1, 2), positions=8
)
MODEL = SegmenterSettings(
    student=STUDENT, decoder=DecoderSettings(width=8, detail_widths=(8, 8), dropout=0.0), classes=2
)
SETTINGS = FinetuneSettings(
    name="tiny", model=MODEL, max_steps=60, stages=(Stage(until=1.0, crop=64, batch=4),), learning_rate=5e-3,
    average=0.9, frozen_encoder=False, machine=MachineSettings(precision="32-true", accelerator="cpu"),
)  # fmt: skip


@pytest.fixture
def scene() -> LabelledScene:
    """Bright squares are class 2; the rest is class 1, with a stripe unlabelled."""
    rng = np.random.default_rng(0)
    labels = (rng.random((12, 12)) < 0.4).astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1) + 1
    pixels = np.where(labels == 2, 190, 60) + rng.integers(-20, 20, (3, 192, 192))
    labels[:8] = 0
    return LabelledScene("made", pixels.astype(np.uint8), labels.astype(np.uint8))


def run_of(settings: FinetuneSettings, folder: Path, scene: LabelledScene) -> Run:
    return Run(settings, LandCoverTask(settings, [scene]), folder)


def test_a_fit_of_everything_learns_and_its_average_is_written(tmp_path: Path, scene: LabelledScene) -> None:
    losses: list[float] = []
    run_of(SETTINGS, tmp_path, scene).go(lambda _, values: losses.append(values["total"]))
    assert len(losses) == 60
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    assert "student.positions" in read_average(tmp_path)


def test_a_frozen_encoder_stays_as_it_is_and_infers_while_the_decoder_learns(
    tmp_path: Path, scene: LabelledScene
) -> None:
    settings = SETTINGS.model_copy(update={"frozen_encoder": True})
    task = LandCoverTask(settings, [scene])
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    run = Run(settings, task, tmp_path)
    losses: list[float] = []
    run.go(lambda _, values: losses.append(values["total"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:3])
    assert isinstance(task.network, Segmenter)
    assert task.network.training
    assert not task.network.student.training
    learnt = {name for name, value in read_average(tmp_path).items() if not torch.equal(value, before[name])}
    assert learnt
    assert all(name.startswith("decoder.") for name in learnt)


def test_a_fit_starts_from_an_earlier_ones_average_or_an_encoder_alone(tmp_path: Path, scene: LabelledScene) -> None:
    run = run_of(SETTINGS.model_copy(update={"max_steps": 3, "seed": 5}), tmp_path / "first", scene)
    run.go()
    average = read_average(tmp_path / "first")
    again = LandCoverTask(SETTINGS.model_copy(update={"start_from": tmp_path / "first"}), [scene]).network
    assert all(torch.equal(value, average[name]) for name, value in again.state_dict().items())
    encoder = LandCoverTask(SETTINGS.model_copy(update={"encoder": tmp_path / "first"}), [scene]).network
    same = {name: torch.equal(value, average[name]) for name, value in encoder.state_dict().items()}
    assert all(equal for name, equal in same.items() if name.startswith("student."))
    assert not same["decoder.classifier.weight"]


def test_an_encoder_of_another_shape_is_refused(tmp_path: Path, scene: LabelledScene) -> None:
    run_of(SETTINGS, tmp_path, scene).save()
    model = MODEL.model_copy(update={"student": STUDENT.model_copy(update={"width": 32})})
    with pytest.raises(CheckpointRefused, match=r"another network: blocks\.0\.attention\.kv\.bias is \(32,\), here"):
        LandCoverTask(SETTINGS.model_copy(update={"model": model, "encoder": tmp_path}), [scene])


def test_made_landscapes_are_mixed_into_a_set_of_their_own_classes_alone(scene: LabelledScene) -> None:
    five = MODEL.model_copy(update={"classes": 5})
    data = DataSettings(landscape_share=0.5, landscape_seeds=(1001,))
    LandCoverTask(SETTINGS.model_copy(update={"model": five, "data": data}), [scene])
    seven = MODEL.model_copy(update={"classes": 7})
    data = data.model_copy(update={"set": "loveda"})
    with pytest.raises(SettingsRefused, match=r"of building, road, .* the set loveda of background, building"):
        LandCoverTask(SETTINGS.model_copy(update={"model": seven, "data": data}), [scene])


def test_the_rate_warms_up_peaks_and_comes_down_to_the_end() -> None:
    rates = [learning_rate(SETTINGS, share) for share in (0.0, 0.015, 0.03, 0.5, 1.0)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(5e-3)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(1e-6)


def test_time_or_steps_end_a_fit_whichever_is_further() -> None:
    settings = SETTINGS.model_copy(update={"max_minutes": 1.0, "max_steps": 10})
    assert elapsed_share(settings, max_steps=10, step=5, seconds=6) == 0.5
    assert elapsed_share(settings, max_steps=10, step=1, seconds=30) == 0.5
    assert elapsed_share(settings, max_steps=10, step=99, seconds=0) == 1.0
    assert elapsed_share(settings, max_steps=None, step=99, seconds=15) == 0.25


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
        ({"start_from": "a", "encoder": "b"}, "give one of"),
        ({"learning_speed": 1}, "Extra inputs"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"machine": {"threads": 0}}, "greater than or equal to 1"),
        ({"machine": {"devices": -1}}, "-1 is less than 1; give a number from 1 on, or auto"),
        ({"machine": {"devices": 0}}, "0 is less than 1"),
        ({"model": {"student": {"heads": 0}}}, "greater than or equal to 1"),
        ({"model": {"student": {"stem": "linear"}}}, "needs a convolutional stem"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        FinetuneSettings.model_validate(SETTINGS.model_dump(mode="json") | changes)


def test_the_command_line_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text("name: x\nmax_steps: 1\nseed: 3\ndata: {names: [a]}\nmachine: {threads: 2}\n")
    begun: list[tuple[FinetuneSettings, Path]] = []
    monkeypatch.setattr("trainer.finetune.task.finetune", lambda settings, folder: begun.append((settings, folder)))
    command = ["finetune", "--config", str(path), "--run", str(tmp_path / "run")]
    assert main(command) == 0
    assert main([*command, "--unfreeze", "--names", "b", "c*", "--max-steps", "9", "--seed", "0", "--devices", "4",
                 "--encoder", "e"]) == 0  # fmt: skip
    assert begun[0] == (read_settings(path, FinetuneSettings), tmp_path / "run")
    assert begun[0][0].frozen_encoder
    told = begun[1][0]
    assert (told.frozen_encoder, told.max_steps, told.seed, told.encoder) == (False, 9, 0, Path("e"))
    assert told.data.names == ("b", "c*")
    assert (told.machine.devices, told.machine.threads) == (4, 2)


def test_a_bad_file_is_one_line_that_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nmax_steps: 1\nmodel: {student: {width: 10, heads: 3}}\n")
    with pytest.raises(SettingsRefused, match=r"bad\.yaml: model\.student: width 10 is not a multiple of heads 3;"):
        read_settings(path, FinetuneSettings)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: x\nmax_minutes: .inf\n", "max_minutes: Input should be a finite number"),
        ("name: x\n  stages: [\n", "mapping values are not allowed here"),
        ("name: x\nmax_steps: 1\ndice: 0.1\ndice: 0.5\n", "line 4: 'dice' stands there once more"),
    ],
)
def test_a_configuration_that_says_nothing_clear_is_refused_in_one_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    # Not by the command: minutes without end would be trained, where they are not refused.
    with pytest.raises(SettingsRefused, match=problem) as refused:
        read_settings(path, FinetuneSettings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("command", [["distill", "--run", "r"], ["finetune", "--run", "r"], ["profile"]])
def test_a_configuration_that_is_no_text_is_one_line(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bin.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81abc")
    assert main([*command, "--config", str(path)]) == 2
    told = capsys.readouterr().err
    assert "bin.yaml: " in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    kinds: dict[str, type[BaseModel]] = {
        "ablation": AblateSettings, "study": AblateSettings, "study-rate": AblateSettings,
        "study-curve": AblateSettings, "study-stages": AblateSettings, "study-teacher": SourceSettings,
        "mask_cdkd": DistillSettings, "mask_cdkd-small": DistillSettings, "places": PlacesSettings,
        "places-report": PlacesSettings, "places-own-labels": PlacesSettings,
        "places-trained": PlacesSettings, "places-biases": PlacesSettings,
    }  # fmt: skip
    read_settings(path, kinds.get(path.stem, FinetuneSettings))


def test_the_papers_recipe_is_the_papers() -> None:
    distill = read_settings(CONFIGS / "mask_cdkd.yaml", DistillSettings)
    assert distill.student == PAPER_STUDENT
    assert (distill.learning_rate, distill.weight_decay, distill.max_epochs) == (1e-5, 0.01, 120)
    assert learning_rate(distill, 0.0) == learning_rate(distill, 0.7) == 1e-5
    assert (distill.crop, distill.stages[0].batch, distill.mask.ratio) == (1024, 4, 0.75)
    finetune = read_settings(CONFIGS / "deepglobe.yaml", FinetuneSettings)
    assert (finetune.model.student, finetune.model.decoder) == (PAPER_STUDENT, PAPER_DECODER)
    assert (finetune.learning_rate, finetune.max_epochs, finetune.frozen_encoder) == (1e-4, 30, True)
