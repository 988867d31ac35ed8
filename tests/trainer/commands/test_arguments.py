"""Arguments that are refused by the parser: one line, and nothing has been read or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.cli import main

TRAIN = ["--config", "none.yaml", "--run"]


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "1e400", "much"])
@pytest.mark.parametrize(
    "command",
    [
        ["places", "run", "--gsd"],
        ["soften", "--config", "c", "--teacher", "t", "--gsd", "0.7"],
        ["export", "--run", "r", "--name", "x", "--gsd-range", "0.5"],
    ],
    ids=["places", "soften", "export"],
)
def test_a_ground_resolution_is_a_finite_number_over_0(
    command: list[str], given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f": {given} is no finite number over 0" in refused([*command, given], capsys)


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--run", "r", "--name", "x", "--calibration-tiles"],
        ["finetune", *TRAIN, "r", "--devices"],
        ["distill", *TRAIN, "r", "--devices"],
        ["places", "run", "--threads"],
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
@pytest.mark.parametrize("given", ["0", "-1"])
def test_counts_begin_at_1(command: list[str], given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{command[-1]}: {given} is less than 1" in refused([*command, given], capsys)


@pytest.mark.parametrize("below", ["", "run"])
@pytest.mark.parametrize("command", ["finetune", "distill"])
def test_a_run_in_the_place_of_a_file_is_refused_at_once(
    command: str, below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It used to be found after the data were read, and was called a full disk."""
    (tmp_path / "file").write_text("kept")
    error = refused([command, *TRAIN, str(tmp_path / "file" / below)], capsys)
    assert f"{tmp_path / 'file'} is a file, and a run needs a folder" in error
    assert (tmp_path / "file").read_text() == "kept"
