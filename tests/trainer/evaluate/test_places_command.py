"""`trainer places`: what is wrong with places, options or the target is told before any image is mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainer.tiny_sets import many_sets_settings
from trainer.cli import main
from trainer.finetune.task import finetune


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of two places of a head; whatever opens a run fails."""
    many_sets_settings(tmp_path)
    cover = str(tmp_path / "cover" / "set.yaml")
    monkeypatch.setattr("trainer.evaluate.mappers.segmenter_of", None)
    monkeypatch.setattr("trainer.evaluate.biases.segmenter_of", None)
    rows = [{"name": name, "set": cover, "split": "train", "head": "cover"} for name in ("Tokyo", "Fields, wet")]
    return {"places": rows, "heads": {"cover": cover}}


def run_with(tmp_path: Path, settings: dict[str, Any], *more: str, command: str = "places") -> int:
    (tmp_path / "places.yaml").write_text(yaml.safe_dump(settings))
    return main([command, str(tmp_path / "run"), "--config", str(tmp_path / "places.yaml"), *more])


@pytest.mark.parametrize("command", [["places"], ["biases", "--head", "cover"]], ids=["places", "biases"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"classes": ["rof", "roof"]},
            "Fields, wet: no class 'rof' in the head cover; there are roof, green, water",
        ),
        ({"head": "covr"}, "Fields, wet: no head 'covr' in `heads`; there are cover"),
    ],
)
def test_unknown_classes_and_heads_of_a_place_are_refused_by_name(
    tmp_path: Path, places: dict[str, Any], changes: dict[str, Any], said: str, command: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    places["places"][1] |= changes
    assert run_with(tmp_path, places, *command[1:], command=command[0]) == 2
    error = capsys.readouterr().err
    assert f"places.yaml: {said};" in error
    assert error.count("\n") == 1


def test_two_places_of_one_name_and_head_are_refused(
    tmp_path: Path, places: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    places["places"][1]["name"] = "Tokyo"
    assert run_with(tmp_path, places) == 2
    assert "Tokyo: two places of head cover have this name; give each its own" in capsys.readouterr().err


def test_a_word_that_is_in_no_place_s_name_is_refused(
    tmp_path: Path, places: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(tmp_path, places, "--only", "TOKYO", "nonesuch") == 2
    assert "--only: no place has 'nonesuch' in its name; there are Tokyo; Fields, wet;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "said"), [("none/x.json", "none: no such folder"), ("", "is a folder, and a file is to be written")]
)
def test_a_target_that_cannot_be_written_is_told_first(
    tmp_path: Path, places: dict[str, Any], out: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(tmp_path, places, "--out", str(tmp_path / out)) == 1
    assert said in capsys.readouterr().err


def test_places_of_other_heads_than_the_run_s_give_no_figure_and_no_nan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = many_sets_settings(tmp_path)
    finetune(settings, tmp_path / "run")
    cover = settings.heads["cover"].classes_of
    place = {"name": "here", "set": cover, "split": "train", "head": "cover"}
    other = {"places": [place | {"head": "roads"}], "heads": {"roads": cover}}
    assert run_with(tmp_path, other) == 2
    assert f"{tmp_path / 'run'} has the head of none of its places" in capsys.readouterr().err
    both = {"places": [place | {"classes": ["roof"]}, place | {"name": "there"}], "heads": {"cover": cover}}
    assert run_with(tmp_path, both, "--only", "HER", "--out", str(tmp_path / "x.json")) == 0
    assert '"place": "here"' in (tmp_path / "x.json").read_text()


def test_a_bias_is_for_a_run_and_names_its_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = many_sets_settings(tmp_path)
    finetune(settings, tmp_path / "run")
    cover = settings.heads["cover"].classes_of
    here = {"places": [{"name": "here", "set": cover, "split": "train", "head": "cover"}], "heads": {"cover": cover}}
    assert run_with(tmp_path, here, "--bias", "cover:green=1000", "--bias", "cover:roof=-1.5") == 0
    assert "roof was said to be green 100.0%" in capsys.readouterr().out
    for given, said in (
        ("green=1", "give HEAD:CLASS=LOGITS"), ("cover:green=nan", "is no bias"), ("sky:green=1", "no head 'sky'"),
    ):  # fmt: skip
        assert run_with(tmp_path, here, "--bias", given) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "run" / "manifest.json").write_text("{}")
    assert run_with(tmp_path, here, "--bias", "cover:green=1") == 2
    assert "is a model folder, which has its biases" in capsys.readouterr().err
