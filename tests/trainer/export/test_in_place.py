"""Finished folders take their places together, and what stood there is not lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.export.in_place import new_folder
from trainer.export.package import made_in, move_to


def model(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_text(content)
    return folder


def contents(out: Path) -> dict[str, str]:
    return {path.name: (path / "model.onnx").read_text() for path in sorted(out.iterdir())}


def test_folders_replace_those_of_their_names_and_leave_nothing_beside_them(tmp_path: Path) -> None:
    model(tmp_path / "one", "old")
    with made_in(tmp_path) as made:
        move_to(tmp_path, [model(made / "one", "new"), model(made / "two", "new")])
    assert contents(tmp_path) == {"one": "new", "two": "new"}


def test_a_folder_that_cannot_be_moved_brings_all_old_ones_back(tmp_path: Path) -> None:
    for name in ("one", "three"):
        model(tmp_path / name, "old")
    with pytest.raises(FileNotFoundError), made_in(tmp_path) as made:
        new = [model(made / "one", "new"), model(made / "two", "new"), made / "three"]  # the last was never made
        move_to(tmp_path, new)
    assert contents(tmp_path) == {"one": "old", "three": "old"}


def test_a_joined_model_that_cannot_be_moved_brings_the_old_one_back(tmp_path: Path) -> None:
    model(tmp_path / "heads", "old")
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "heads") as made:
        made.rmdir()
    assert contents(tmp_path) == {"heads": "old"}


def test_a_link_to_a_model_is_replaced_and_not_what_it_leads_to(tmp_path: Path) -> None:
    kept = model(tmp_path / "kept", "old")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one").symlink_to(kept)
    with made_in(tmp_path / "models") as made:
        move_to(tmp_path / "models", [model(made / "one", "new")])
    assert contents(tmp_path / "models") == {"one": "new"}
    assert (kept / "model.onnx").read_text() == "old"
