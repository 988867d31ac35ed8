from __future__ import annotations

import csv
import json
import os
import signal
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.full_disk import files_of_at_most
from trainer.config import MachineSettings, RunSettings, Stage
from trainer.errors import CheckpointNotWritten, CheckpointRefused, RunInterrupted, SettingsRefused
from trainer.training.checkpoint import read_average, read_facts
from trainer.training.curves import curves_picture
from trainer.training.loop import Run, Steps
from trainer.training.record import Record, read_record
from trainer.training.task import Batch, Slice

# Its DataLoader's workers are forks: after OpenVINO 2026.4 had run in the process, their end was one by SIGSEGV.
pytestmark = pytest.mark.own_process

CPU = MachineSettings(accelerator="cpu", precision="32-true")
SETTINGS = RunSettings(
    name="tiny", stages=(Stage(until=1.0, crop=4, batch=4),), max_steps=6, learning_rate=1e-2, machine=CPU
)


class LineTask:
    """Learn y = 2x with a network that draws by chance while it learns, and a memory of its losses."""

    saves_frozen = True

    def __init__(self, width: int = 8, samples: int | None = None) -> None:
        torch.manual_seed(0)
        self.network: nn.Module = nn.Sequential(nn.Linear(1, width), nn.Dropout(0.5), nn.Linear(width, 1))
        self.samples = samples
        self.total = 0.0

    def draw(self, part: Slice) -> Batch:
        rows = [np.random.default_rng([part.step, number]).random(1, dtype=np.float32) for number in part.numbers]
        return (torch.from_numpy(np.stack(rows)),)

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"total": (network(batch[0]) - 2 * batch[0]).square().mean()}

    def after_step(self, losses: dict[str, float]) -> dict[str, float | str]:
        self.total += losses["total"]
        return {"sum": self.total}

    def state(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state(self, state: dict[str, Any]) -> None:
        self.total = state["total"]

    def show(self, folder: Path, step: int) -> None:
        (folder / f"shown-{step}").touch()


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 3)])
def test_each_part_of_a_batch_is_spread_over_all_of_it(world: int, accumulate: int) -> None:
    """Sets lie one after the other in a batch: a process that drew a stretch of it would see some of them alone."""

    class Drawn(LineTask):
        def draw(self, part: Slice) -> Batch:
            return (torch.tensor([part.step, *part.numbers]),)

    stage = Stage(until=1.0, crop=4, batch=24)
    numbers: list[int] = []
    for rank in range(world):
        steps = Steps(Drawn(), stage, rank=rank, world=world, accumulate=accumulate)
        for micro in range(accumulate):
            step, *own = steps[5 * accumulate + micro][0].tolist()
            assert (step, len(own)) == (5, 24 // (world * accumulate))
            assert np.ptp(own) >= 24 - 24 // len(own)
            numbers += own
    assert sorted(numbers) == list(range(24))


class Cut(Exception):
    pass


def cut_after(last: int) -> Any:
    def report(step: int, _: dict[str, float]) -> None:
        if step == last:
            raise Cut

    return report


def weights(folder: Path) -> dict[str, Tensor]:
    return read_average(folder)


def without_times(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in {"seconds", "images_per_s"}} for row in rows]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_cut_off_and_resumed_ends_as_one_that_was_not(tmp_path: Path, workers: int) -> None:
    machine = CPU.model_copy(update={"workers": workers})
    settings = SETTINGS.model_copy(update={"checkpoint_steps": 2, "machine": machine})
    Run(settings, LineTask(), tmp_path / "whole").go()
    with pytest.raises(Cut):
        Run(settings, LineTask(), tmp_path / "cut").go(cut_after(5))
    again = Run(settings, LineTask(), tmp_path / "cut")
    assert again.step == 4
    again.go()
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
    rows = without_times(read_record(tmp_path / "whole"))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert without_times(read_record(tmp_path / "cut")) == rows
    assert read_facts(tmp_path / "cut")["task"] == read_facts(tmp_path / "whole")["task"]


def test_a_weight_that_no_loss_reaches_does_not_hinder_resuming(tmp_path: Path) -> None:
    class Spared(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(1, 8), nn.Linear(8, 1))
            self.spare = nn.Parameter(torch.ones(3))

    class WithSpare(LineTask):
        def __init__(self) -> None:
            super().__init__()
            self.network = Spared()

    settings = SETTINGS.model_copy(update={"checkpoint_steps": 2})
    Run(settings, WithSpare(), tmp_path / "whole").go()
    with pytest.raises(Cut):
        Run(settings, WithSpare(), tmp_path / "cut").go(cut_after(5))
    again = Run(settings, WithSpare(), tmp_path / "cut")
    again.go()
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert torch.equal(cut["spare"], torch.ones(3))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())


def test_accumulated_micro_batches_make_the_same_step(tmp_path: Path) -> None:
    class Sure(LineTask):
        def __init__(self) -> None:
            super().__init__()
            self.network[1].p = 0.0  # type: ignore[index]

    Run(SETTINGS, Sure(), tmp_path / "one").go()
    machine = CPU.model_copy(update={"accumulate": 2})
    two = Run(SETTINGS.model_copy(update={"machine": machine}), Sure(), tmp_path / "two")
    two.go()
    assert two.images == 24
    one = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "two").items():
        assert torch.allclose(value, one[name], atol=1e-6), name


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    machine = CPU.model_copy(update={"accumulate": 3})
    with pytest.raises(SettingsRefused, match=r"batches \[4\] do not divide by 3"):
        Run(SETTINGS.model_copy(update={"machine": machine}), LineTask(), tmp_path)


def test_epochs_end_a_run_of_a_set_with_an_end(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": None, "max_epochs": 3.0})
    run = Run(settings, LineTask(samples=5), tmp_path / "a")
    run.go()
    assert run.step == 4  # 15 images in fours
    with pytest.raises(SettingsRefused, match="max_epochs needs a set with an end"):
        Run(settings, LineTask(), tmp_path / "b")


def test_resuming_goes_on_where_the_time_was(tmp_path: Path) -> None:
    ticks = iter(range(0, 10_000, 20))
    settings = SETTINGS.model_copy(update={"max_steps": None, "max_minutes": 2.0, "checkpoint_minutes": 1e6})

    def clock() -> float:
        return float(next(ticks))

    run = Run(settings, LineTask(), tmp_path, clock=clock)
    run.go()
    steps = run.step
    assert 2 < steps <= 6
    run.step, run.seconds, run.folder = 0, 60.0, tmp_path / "half"
    run.save()
    again = Run(settings, LineTask(), tmp_path / "half", clock=clock)
    assert again.resumed
    assert again.share == 0.5
    again.go()
    assert again.step in {steps // 2, steps // 2 + 1}


def test_a_signal_saves_and_stops_between_two_steps(tmp_path: Path) -> None:
    def report(step: int, _: dict[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterrupted, match="the same command goes on"):
        Run(SETTINGS, LineTask(), tmp_path / "cut").go(report)
    again = Run(SETTINGS, LineTask(), tmp_path / "cut")
    assert again.step == 3
    again.go()
    Run(SETTINGS, LineTask(), tmp_path / "whole").go()
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(whole[name], value) for name, value in weights(tmp_path / "cut").items())


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = Run(SETTINGS, LineTask(width=500), tmp_path)
    run.save()
    run.step = 3
    with files_of_at_most(4096), pytest.raises(CheckpointNotWritten, match="make room"):
        run.save()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000000"]
    assert read_facts(tmp_path)["step"] == 0
    assert Run(SETTINGS, LineTask(width=500), tmp_path).resumed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread fails too
def test_a_disk_that_is_full_for_the_record_says_so_too(tmp_path: Path) -> None:
    before = threading.active_count()
    with files_of_at_most(700), pytest.raises(CheckpointNotWritten, match=r"cut.*not written \(File too large\)"):
        Run(SETTINGS.model_copy(update={"max_steps": 100}), LineTask(), tmp_path / "cut").go()
    assert threading.active_count() == before
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointNotWritten, match=r"file.*not written \(Not a directory\); make room"):
        Run(SETTINGS, LineTask(), tmp_path / "file" / "run").go()


def test_a_run_of_other_settings_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    """Else it would go on under settings it was not begun with, or, finished, be called a run of these."""
    Run(SETTINGS, LineTask(), tmp_path).go()
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    other = SETTINGS.model_copy(update={"learning_rate": 2e-2, "stages": (Stage(until=1.0, crop=8, batch=4),)})
    with pytest.raises(CheckpointRefused, match=r"stages was .* and is .* now, learning_rate was 0.01 and is 0.02 now"):
        Run(other, LineTask(), tmp_path)
    threads = CPU.model_copy(update={"threads": torch.get_num_threads()})
    Run(SETTINGS.model_copy(update={"machine": threads, "log_steps": 1}), LineTask(), tmp_path).go()
    assert {path: path.read_bytes() for path in before} == before
    longer = Run(SETTINGS.model_copy(update={"max_steps": 8}), LineTask(), tmp_path)
    longer.go()
    assert longer.step == 8


def test_a_step_that_is_there_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished command given again, and killed while it saves, must not cost the checkpoint."""
    Run(SETTINGS, LineTask(), tmp_path).go()
    monkeypatch.setattr("trainer.training.checkpoint.save_file", None)
    again = Run(SETTINGS, LineTask(), tmp_path)
    again.go()
    assert again.step == read_facts(tmp_path)["step"] == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_here_is_told_in_one_line(tmp_path: Path) -> None:
    machine = MachineSettings(accelerator="cuda")
    with pytest.raises(SettingsRefused, match=r"tiny: `machine` asks for what this one has not: .*CUDA.*; correct"):
        Run(SETTINGS.model_copy(update={"machine": machine}), LineTask(), tmp_path)


def test_a_checkpoint_s_names_are_durable_before_it_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    run = Run(SETTINGS, LineTask(), tmp_path / "run")
    monkeypatch.setattr(os, "fsync", fsync)
    run.save()
    assert {"run", tmp_path.name} <= set(synced)  # the entries of `checkpoints` and of the run itself
    assert synced[-3:] == ["state.json", "step-00000000.part", "checkpoints"]


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    Run(SETTINGS, LineTask(), tmp_path).save()
    (tmp_path / "checkpoints" / "step-00000004.part").mkdir()
    assert Run(SETTINGS, LineTask(), tmp_path).step == 0


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    Run(SETTINGS, LineTask(), tmp_path).save()
    with pytest.raises(CheckpointRefused, match=r"another network: 0\.bias is \(8,\), here it is \(4,\)"):
        Run(SETTINGS, LineTask(width=4), tmp_path)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    Run(SETTINGS, LineTask(), tmp_path).save()
    path = tmp_path / "checkpoints" / "step-00000000" / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointRefused, match=r"network\.safetensors: damaged"):
        Run(SETTINGS, LineTask(), tmp_path)


@pytest.mark.parametrize("name", ["images", "pixels", "seconds", "task"])
def test_a_run_does_not_go_on_from_facts_that_lack_something(tmp_path: Path, name: str) -> None:
    Run(SETTINGS, LineTask(), tmp_path).save()
    path = tmp_path / "checkpoints" / "step-00000000" / "state.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != name}))
    with pytest.raises(CheckpointRefused, match=rf"state\.json: damaged \(no '{name}' in it\)"):
        Run(SETTINGS, LineTask(), tmp_path)


def test_a_gradient_that_is_not_finite_teaches_nothing(tmp_path: Path) -> None:
    class Broken(LineTask):
        def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
            return {"total": super().losses(network, batch)["total"] * float("nan")}

    task = Broken()
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    Run(SETTINGS, task, tmp_path).go()
    assert all(torch.equal(value, before[name]) for name, value in task.network.state_dict().items())


def test_pictures_and_curves_are_drawn_at_intervals(tmp_path: Path) -> None:
    Run(SETTINGS.model_copy(update={"picture_steps": 3}), LineTask(), tmp_path).go()
    assert sorted(path.name for path in tmp_path.glob("shown-*")) == ["shown-3", "shown-6"]
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert list((tmp_path / "tensorboard").iterdir())
    with (tmp_path / "metrics.csv").open() as file:
        assert next(csv.reader(file))[:4] == ["step", "seconds", "total", "sum"]


def test_a_long_record_is_read_in_part_and_cut_row_by_row(tmp_path: Path) -> None:
    lines = ["step,seconds,total,images,images_per_s", *(f"{step},1,{step / 2},4," for step in range(1, 1001)), "1001"]
    (tmp_path / "metrics.csv").write_text("\r\n".join(lines))
    assert len(read_record(tmp_path)) == 1000  # the torn row is none
    part = read_record(tmp_path, most=100)
    assert 80 < len(part) <= 100
    assert {int(row["step"]) - int(before["step"]) for before, row in pairwise(part)} == {11}
    record = Record(tmp_path, 500)
    record.add(501, {"total": 1.0, "images": 4}, seconds=1.0)
    record.close()
    rows = read_record(tmp_path)
    assert [int(row["step"]) for row in rows[-2:]] == [500, 501]
    assert len(rows) == 501


def test_equal_curves_share_a_panel(tmp_path: Path) -> None:
    rows = [{"step": str(n), "teacher": str(n / 2), "r": str(n), "reconstruction_sam": str(n / 2)} for n in range(9)]
    curves_picture([{name: row[name] for name in ("step", "teacher", "r")} for row in rows], tmp_path / "two.png")
    curves_picture(rows, tmp_path / "three.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "three.png") as three:
        assert two.size == three.size
