from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainer.config import Stage
from trainer.data.order import epoch_order
from trainer.distill.network import MaskCDKD
from trainer.distill.settings import DistillSettings
from trainer.distill.task import DistillTask
from trainer.errors import SettingsRefused
from trainer.training.checkpoint import read_average
from trainer.training.loop import Run
from trainer.training.record import read_record
from trainer.training.task import Slice

Made = Callable[..., DistillSettings]
Tiles = list[NDArray[np.uint8]]
TIMES = {"seconds", "images_per_s"}


class Cut(Exception):
    pass


def cut_after(last: int) -> Callable[[int, dict[str, float]], None]:
    def report(step: int, _: dict[str, float]) -> None:
        if step == last:
            raise Cut

    return report


def record_of(folder: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read_record(folder)]


def test_a_distillation_learns_on_both_sides_and_records_it(tmp_path: Path, settings_with: Made, tiles: Tiles) -> None:
    settings = settings_with(
        max_steps=60, picture_steps=30, stages=[{"until": 1.0, "crop": 64, "batch": 4}], learning_rate=5e-3,
        augment={"turns": False, "colour": None, "scale": [1.0, 1.0]},
    )  # fmt: skip
    task = DistillTask(settings, tiles[:3])
    frozen = {name: value.clone() for name, value in task.network.state_dict().items() if ".backbone." in name}
    Run(settings, task, tmp_path).go()
    rows = read_record(tmp_path)
    for name in ("student", "teacher", "alignment"):
        values = [float(row[name]) for row in rows]
        assert np.mean(values[-10:]) < 0.9 * np.mean(values[:3]), name
    assert next(row["stage"] for row in rows) == "early"
    assert float(rows[0]["r"]) == pytest.approx(float(rows[0]["teacher"]) / float(rows[0]["student"]))
    assert {"r2_sam", "alignment_sam", "reconstruction_sam", "images_per_s", "gpu_memory_mib"} <= set(rows[0])
    assert len(list(tmp_path.glob("reconstructions-*.png"))) == 2
    after = task.network.state_dict()
    assert len(frozen) > 40
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    average = read_average(tmp_path)
    assert any(name.startswith("teachers.sam.mmoa.") for name in average)
    assert not any(".backbone." in name and name.endswith("weight") for name in average)


def test_a_distillation_cut_off_and_resumed_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, settings_with: Made, tiles: Tiles
) -> None:
    settings = settings_with(checkpoint_steps=2, schedule={"window": 2, "middle_below": 9.0})
    Run(settings, DistillTask(settings, tiles), tmp_path / "whole").go()
    with pytest.raises(Cut):
        Run(settings, DistillTask(settings, tiles), tmp_path / "cut").go(cut_after(3))
    run = Run(settings, DistillTask(settings, tiles), tmp_path / "cut")
    assert run.step == 2
    run.go()
    whole = read_average(tmp_path / "whole")
    assert all(torch.equal(whole[name], value) for name, value in read_average(tmp_path / "cut").items())
    rows = record_of(tmp_path / "whole")
    assert record_of(tmp_path / "cut") == rows
    assert {row["stage"] for row in rows} > {"early", "middle"}  # the schedule was moving while it was cut


def test_without_teachers_it_is_masked_reconstruction_alone(tmp_path: Path, settings_with: Made, tiles: Tiles) -> None:
    settings = settings_with(teachers={})
    Run(settings, DistillTask(settings, tiles), tmp_path).go()
    assert all(float(row["total"]) == float(row["student"]) for row in read_record(tmp_path))
    assert {name.split(".")[0] for name in read_average(tmp_path)} == {"student", "student_head"}


def test_the_student_starts_alike_whoever_teaches_it(settings_with: Made, tiles: Tiles) -> None:
    taught, alone = (DistillTask(settings, tiles).network for settings in (settings_with(), settings_with(teachers={})))
    assert isinstance(taught, MaskCDKD)
    assert isinstance(alone, MaskCDKD)
    other = dict(alone.student.named_parameters())
    assert all(torch.equal(value, other[name]) for name, value in taught.student.named_parameters())


def test_the_weights_of_the_losses_are_those_of_the_stage(settings_with: Made, tiles: Tiles, tiny: Any) -> None:
    sam = tiny["teachers"]["sam"]
    settings = settings_with(teachers={"one": sam | {"weight": 2.0}, "two": sam | {"weight": 0.5}})
    task = DistillTask(settings, tiles)
    batch = task.draw(Slice(0, settings.stages[0], range(2)))
    for stage, (alignment, teacher, student) in {
        "early": (0.20, 0.40, 0.40), "middle": (0.60, 0.20, 0.20), "late": (0.70, 0.15, 0.15),
    }.items():  # fmt: skip
        task.schedule.load_state({"stage": stage, "losses": []})
        told = {name: float(value.detach()) for name, value in task.losses(task.network, batch).items()}
        expected = alignment * (2.0 * told["alignment_one"] + 0.5 * told["alignment_two"])
        expected += teacher * (2.0 * told["reconstruction_one"] + 0.5 * told["reconstruction_two"])
        assert told["total"] == pytest.approx(expected + student * told["student"], rel=1e-5)


def test_an_epoch_shows_every_tile_once_however_it_is_sliced(settings_with: Made, tiles: Tiles) -> None:
    settings = settings_with()
    task = DistillTask(settings, tiles)
    stage = Stage(until=1.0, crop=64, batch=4)
    whole = task.draw(Slice(3, stage, range(4)))
    parts = [task.draw(Slice(3, stage, range(first, first + 2))) for first in (0, 2)]
    for number in range(2):
        assert torch.equal(whole[number], torch.cat([part[number] for part in parts]))
    assert sorted(epoch_order(10, 0, 1).tolist()) == list(range(10))
    assert epoch_order(10, 0, 0).tolist() != epoch_order(10, 0, 1).tolist()


def test_tiles_smaller_than_the_crop_are_refused(settings_with: Made) -> None:
    with pytest.raises(SettingsRefused, match="crops of 64 pixels from tiles of 60 x 60"):
        DistillTask(settings_with(), [np.zeros((3, 60, 60), np.uint8)])
