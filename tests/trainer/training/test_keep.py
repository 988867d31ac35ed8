"""A run's weights alone: what other commands read of them, and what they say of where they came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainer.tiny_sets import many_sets_settings
from trainer import cli
from trainer.errors import CheckpointRefused
from trainer.finetune.task import finetune
from trainer.training.checkpoint import AVERAGE, CHECKPOINTS, read_average, read_facts
from trainer.training.history import history
from trainer.training.keep import keep


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that started from another."""
    finetune(many_sets_settings(tmp_path / "sets"), tmp_path / "first")
    finetune(many_sets_settings(tmp_path / "more", start_from=str(tmp_path / "first")), tmp_path / "second")
    return tmp_path / "second"


def test_the_averaged_weights_are_kept_to_eleven_bits_and_nothing_else(tmp_path: Path, run: Path) -> None:
    path = keep(run, tmp_path / "kept")
    assert [file.name for file in sorted((tmp_path / "kept").rglob("*")) if file.is_file()] == [AVERAGE, "state.json"]
    whole, kept = read_average(run), read_average(tmp_path / "kept")
    assert whole.keys() == kept.keys()
    for name, value in whole.items():
        assert torch.allclose(value.float(), kept[name].float(), rtol=2**-11, atol=2**-24), name
    assert {value.dtype for value in kept.values()} == {torch.float16, torch.int64}
    assert load_file(path).keys() == kept.keys()


def test_it_starts_another_run_and_tells_of_all_before(tmp_path: Path, run: Path) -> None:
    keep(run, tmp_path / "kept")
    before = history(run)
    # The runs' own folders are not asked: where these weights go, they are not.
    run.rename(tmp_path / "gone")
    (tmp_path / "first").rename(tmp_path / "gone too")
    assert history(tmp_path / "kept") == before
    assert len(before) == 2
    finetune(many_sets_settings(tmp_path / "again", start_from=str(tmp_path / "kept")), tmp_path / "third")
    assert [facts["step"] for facts in history(tmp_path / "third")] == [2, 2, 2]


def test_a_weight_that_half_precision_cannot_hold_is_refused_by_name(tmp_path: Path, run: Path) -> None:
    path = run / CHECKPOINTS / f"step-{read_facts(run)['step']:08d}" / AVERAGE
    save_file({**load_file(path), "decoder.classifier.bias": torch.tensor([0.0, 1e6, 0.0])}, path)
    with pytest.raises(CheckpointRefused, match=r"decoder\.classifier\.bias has values that float16 cannot hold"):
        keep(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("a")
    assert cli.main(["keep", str(run), "--out", str(tmp_path / "kept")]) == CheckpointRefused.exit_code
    assert "give a new folder" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["mine"]


def test_the_command_names_the_file_and_its_size(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keep", str(run), "--out", str(tmp_path / "kept")]) == 0
    file = tmp_path / "kept" / CHECKPOINTS / "step-00000002" / AVERAGE
    assert capsys.readouterr().out == f"{file}: 0.0 MB\n"
