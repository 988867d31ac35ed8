"""Labels of a set as class rasters: in its own codes, all of them or none, and read by `engines verify` as they are."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.tiny_sets import write_coarse, write_set
from trainer import cli
from trainer.data.label_rasters import write_label_rasters
from trainer.data.sets import open_set
from trainer.errors import DataMissing, DataRefused, SettingsRefused


def test_a_raster_holds_the_codes_of_the_class_table_and_0_where_nothing_is_labelled(tmp_path: Path) -> None:
    classes = [
        {"code": 1, "name": "water", "title": "Water", "colour": "#0000FF", "codes": [3]},
        {"code": 2, "name": "roof", "title": "Roof", "colour": "#FF0000", "codes": [1]},
    ]
    labelled = open_set(write_set(tmp_path, "cover", 30, 2, classes=classes, ignore={"codes": [2]}))
    first, second = write_label_rasters(labelled, ["1", "0"], tmp_path / "out")
    assert (first, second) == (tmp_path / "out" / "cover" / "1.png", tmp_path / "out" / "cover" / "0.png")
    codes = np.asarray(Image.open(first))
    assert codes.dtype == np.uint8
    assert [codes[0, column] for column in (0, 15, 29)] == [2, 0, 1]
    assert sorted(path.name for path in first.parent.iterdir()) == ["0.png", "1.png"]


def test_nothing_is_written_where_one_label_does_not_fit(tmp_path: Path) -> None:
    labelled = open_set(write_set(tmp_path, "cover", 30, 2))
    Image.new("L", (8, 8), 1).save(tmp_path / "cover" / "labels" / "1.png")
    with pytest.raises(DataRefused, match="8x8 pixels"):
        write_label_rasters(labelled, ["0", "1"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_give_one_file_are_refused(tmp_path: Path) -> None:
    labelled = open_set(write_set(tmp_path, "cover", 30, 1))
    with pytest.raises(DataRefused, match="two images"):
        write_label_rasters(labelled, ["0", "0"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_prints_options_for_engines_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = write_set(tmp_path, "cover", 30, 3)
    assert cli.main(["labels", given, "[02]", "--out", str(tmp_path / "out put")]) == 0
    folder = tmp_path / "cover" / "images"
    assert shlex.split(capsys.readouterr().out) == [
        "--scenes", str(folder / "0.png"), str(folder / "2.png"),
        "--labels", *(str(tmp_path / "out put" / "cover" / f"{name}.png") for name in "02"),
    ]  # fmt: skip


def test_an_image_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = write_set(tmp_path, "cover", 30, 1)
    assert cli.main(["labels", given, "9", "--out", str(tmp_path / "out")]) == DataMissing.exit_code
    assert "no image '9' of cover" in capsys.readouterr().err


def test_codes_are_of_the_table_that_is_asked_for(tmp_path: Path) -> None:
    cover = write_set(tmp_path, "cover", 30, 1)
    coarse = open_set(write_coarse(tmp_path))
    (path,) = write_label_rasters(coarse, ["0"], tmp_path / "out", cover)
    # Land may be roof or green there, and is neither; sea is water.
    codes = np.asarray(Image.open(path))
    assert [codes[0, column] for column in (0, 15, 31)] == [0, 0, 3]
    with pytest.raises(SettingsRefused, match=r"its classes roof, green, water are not in head"):
        write_label_rasters(open_set(cover), ["0"], tmp_path / "out", str(tmp_path / "coarse" / "set.yaml"))
