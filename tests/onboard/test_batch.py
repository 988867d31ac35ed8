"""`onboard batch` on one machine; over a cluster: mapping/test_dask_executor.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onboard import cli
from onboard.batch_cli import scenes_of
from tests.onboard.service import write_scene
from tests.tiny_model import write_model


def batch(tmp_path: Path, *arguments: str | Path) -> int:
    model = tmp_path / "model"
    if not model.exists():
        write_model(model)
    told = ["--model", str(model), "--backend", "onnxruntime", "--out", str(tmp_path / "maps")]
    return cli.main(["batch", *map(str, arguments), *told])


def test_one_that_is_refused_keeps_nobody_waiting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = write_scene(tmp_path / "a.tif", 60), write_scene(tmp_path / "c.tif", 60, seed=2)
    (tmp_path / "b.tif").write_bytes(b"no TIFF at all")
    assert batch(tmp_path, first, tmp_path / "b.tif", last) == 2
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == ["a.tif", "c.tif"]
    assert [line.split()[0] for line in told.err.splitlines() if "  refused: " in line] == ["b.tif"]
    assert sorted(path.parent.name for path in (tmp_path / "maps").glob("*/map.tif")) == ["a", "c"]
    assert batch(tmp_path, first, last) == 0
    assert capsys.readouterr().out.count("already mapped") == 2


def test_a_folder_is_its_geotiffs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.tif", "a.TIFF"):
        write_scene(tmp_path / "scenes" / name, 40)
    (tmp_path / "scenes" / "notes.txt").write_text("no scene")
    (tmp_path / "scenes" / "._b.tif").write_bytes(b"attributes, as macOS writes them beside a file")
    assert batch(tmp_path, tmp_path / "scenes", "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(one["scene"]).name for one in told] == ["a.TIFF", "b.tif"]
    assert all(one["problem"] is None and Path(one["map_path"]).exists() for one in told)


def test_a_folder_below_a_hidden_one_and_a_hidden_file_by_its_name_are_taken(tmp_path: Path) -> None:
    inside = write_scene(tmp_path / ".cache" / "a.tif", 40)
    named = write_scene(tmp_path / ".b.tif", 40)
    assert scenes_of([inside.parent, named]) == [inside, named]


def test_what_cannot_be_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    one, two = write_scene(tmp_path / "x" / "same.tif", 40), write_scene(tmp_path / "y" / "same.tif", 40)
    for scenes, problem in (
        ([tmp_path / "empty"], "there is no GeoTIFF in"),
        ([one, two], "two scenes are named same"),
    ):
        assert batch(tmp_path, *scenes) == 2
        assert problem in capsys.readouterr().err
    assert batch(tmp_path, one, "--at-once", "0") == 2
    assert "--at-once is 0" in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()
