from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from trainer.ablate import matrix
from trainer.ablate.matrix import read_rows, run_matrix
from trainer.ablate.rows import digest_of
from trainer.ablate.settings import AblateSettings
from trainer.ablate.table import write_table
from trainer.config import read_settings
from trainer.errors import SettingsRefused

ROOT = Path(__file__).parents[3]
CPU = {"accelerator": "cpu", "precision": "32-true"}
STUDENT = {
    "width": 16, "depth": 4, "heads": 2, "stem": "linear", "patch": 8, "window": None, "kv_pool": 1,
    "global_blocks": [], "out_blocks": [1, 2, 3, 4], "positions": 8,
}  # fmt: skip
SAM = {
    "kind": "sam", "levels": [1, 2, 3], "patch": 8,
    "shape": {"width": 24, "depth": 4, "heads": 2, "window": 3, "global_blocks": [2, 4], "image": 64, "patch": 8},
    "mmoa": {"fine": [1, 2], "coarse": [3]},
}  # fmt: skip


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A set of two images with their labels; gives its YAML."""
    rng = np.random.default_rng(1)
    for name in ("one", "two"):
        Image.fromarray(rng.integers(0, 256, (96, 80, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(rng.integers(1, 3, (96, 80), dtype=np.uint8)).save(tmp_path / f"{name}_labels.png")
    told = {
        "name": "made", "title": "Made", "source": "this test", "licence": "none", "folder": ".",
        "images": "{scene}.png", "labels": "{scene}_labels.png",
        "classes": [{"code": n, "name": f"c{n}", "title": f"C{n}", "colour": "#00000" + str(n), "codes": [n]}
                    for n in (1, 2)],
        "splits": {"train": {"names": ["one"]}, "test": {"names": ["two"]}},
    }  # fmt: skip
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    folder = tmp_path / "tiles"
    folder.mkdir()
    with tarfile.open(folder / "shard-000000.tar", "w") as shard:
        for number in range(6):
            data = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data, "JPEG")
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(data.getvalue())
            shard.addfile(member, io.BytesIO(data.getvalue()))
    return folder


@pytest.fixture
def told(labelled: Path, tiles: Path) -> dict[str, Any]:
    return {
        "name": "made", "seeds": [0], "against": "masked", "evaluate": {"two": ["two"]}, "tile": 64, "halo": 8,
        "distill": {
            "tiles": str(tiles), "stages": [{"until": 1.0, "crop": 64, "batch": 2}], "max_steps": 2, "student": STUDENT,
            "student_levels": [1, 2, 3], "head": {"depth": 1, "heads": 2}, "machine": CPU,
        },
        "finetune": {
            "stages": [{"until": 1.0, "crop": 64, "batch": 2}], "max_steps": 2, "machine": CPU,
            "model": {"classes": 2, "student": STUDENT, "decoder": {"width": 8, "detail_widths": None}},
            "data": {"set": str(labelled), "names": ["one"]},
        },
        "arms": {
            "random": {"title": "Random", "distill": None}, "masked": {"title": "Masked"},
            "again": {"title": "Masked, again"}, "kd": {"title": "Mask-CDKD", "distill": {"teachers": {"sam": SAM}}},
        },
    }  # fmt: skip


def begun(work: Path) -> set[str]:
    return {folder.name for folder in work.iterdir()}


def test_every_arm_is_run_once_and_taken_from_its_row_afterwards(
    tmp_path: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, work, results = AblateSettings.model_validate(told), tmp_path / "work", tmp_path / "results"
    rows = {row.arm: row for row in run_matrix(settings, work, results)}
    assert set(rows) == {"random", "masked", "again", "kd"}
    assert rows["random"].distill is None
    assert rows["kd"].distill is not None
    assert (rows["kd"].distill.steps, rows["kd"].distill.images) == (2, 4)
    assert "r" in rows["kd"].distill.facts
    assert rows["again"].scores == rows["masked"].scores
    assert len([name for name in begun(work) if name.startswith("distill-")]) == 2  # masked, which again shares, and kd
    monkeypatch.setattr(matrix, "run_to_end", None)
    assert run_matrix(settings, work, results) == [rows[arm] for arm in settings.arms]
    assert read_rows(settings, results) == [rows[arm] for arm in settings.arms]


def test_a_changed_setting_begins_a_new_run(tmp_path: Path, told: dict[str, Any]) -> None:
    told["arms"] = {"masked": told["arms"]["masked"]}
    work, results = tmp_path / "work", tmp_path / "results"
    (first,) = run_matrix(AblateSettings.model_validate(told), work, results)
    before = begun(work)
    told["distill"]["learning_rate"] = 0.01
    (second,) = run_matrix(AblateSettings.model_validate(told), work, results)
    assert first.settings != second.settings
    assert len(begun(work) - before) == 2


@pytest.mark.parametrize(
    "change", [{"evaluate": {"both": ["one", "two"]}}, {"evaluate": {"two": ["one"]}}, {"tile": 32}, {"halo": 4}]
)
def test_a_changed_evaluation_scores_the_runs_again_and_trains_none(
    tmp_path: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    told["arms"] = {"masked": told["arms"]["masked"]}
    settings, work, results = AblateSettings.model_validate(told), tmp_path / "work", tmp_path / "results"
    (before,) = run_matrix(settings, work, results)
    changed = AblateSettings.model_validate(told | change)
    assert read_rows(changed, results) == []
    monkeypatch.setattr(matrix, "run_to_end", None)
    (after,) = run_matrix(changed, work, results)
    assert read_rows(changed, results) == [after]
    assert after.settings == before.settings
    assert after.evaluation != before.evaluation
    assert set(after.scores) == set(changed.evaluate)
    assert "made" in write_table(changed, [after], results)


def test_a_changed_evaluation_makes_a_run_again_whose_folder_is_gone(tmp_path: Path, told: dict[str, Any]) -> None:
    told |= {"arms": {"random": told["arms"]["random"]}, "against": "random"}
    run_matrix(AblateSettings.model_validate(told), tmp_path / "work", tmp_path / "results")
    changed = AblateSettings.model_validate(told | {"evaluate": {"one": ["one"]}})
    (row,) = run_matrix(changed, tmp_path / "elsewhere", tmp_path / "results")
    assert set(row.scores) == {"one"}
    assert len(begun(tmp_path / "elsewhere")) == 1


def test_a_row_without_word_of_its_evaluation_stands_if_its_columns_are_the_matrixs(
    tmp_path: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told |= {"arms": {"random": told["arms"]["random"]}, "against": "random"}
    settings, results = AblateSettings.model_validate(told), tmp_path / "results"
    (row,) = run_matrix(settings, tmp_path / "work", results)
    path = results / "random-0.json"
    of_old = json.loads(path.read_text())
    del of_old["evaluation"]
    path.write_text(json.dumps(of_old))
    monkeypatch.setattr(matrix, "run_to_end", None)
    assert run_matrix(settings, tmp_path / "elsewhere", results) == [replace(row, evaluation=None)]
    assert read_rows(AblateSettings.model_validate(told | {"evaluate": {"one": ["one"]}}), results) == []


def test_the_studys_rows_stand() -> None:
    settings = read_settings(ROOT / "trainer/configs/study.yaml", AblateSettings)
    rows = read_rows(settings, ROOT / "docs/study/arms")
    assert {(row.arm, row.seed) for row in rows if row.arm == "random"} == {("random", seed) for seed in (0, 1, 2)}
    for row in rows:
        if row.arm == "random":  # no distillation, whose teacher's weights are not here
            assert digest_of(None, settings.finetune_of("random", seed=row.seed, encoder=None)) == row.settings


@pytest.mark.parametrize(("passes", "past", "run"), [(True, False, True), (False, False, False), (False, True, True),
                                                     (None, False, True)])  # fmt: skip
def test_the_gate_comes_first_and_lets_the_others_run_or_not(
    tmp_path: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, passes: bool | None, past: bool, run: bool
) -> None:
    order: list[tuple[str, int]] = []

    def noted(_settings: AblateSettings, arm: str, seed: int, *_: Path) -> str:
        order.append((arm, seed))
        return arm

    monkeypatch.setattr(matrix, "_row", noted)
    monkeypatch.setattr(matrix, "passed_gate", lambda _settings, rows: passes if len(rows) == 4 else "asked too early")
    told |= {"gate": "kd", "seeds": [0, 1]}
    run_matrix(AblateSettings.model_validate(told), tmp_path, tmp_path, past_gate=past)
    gate = [("masked", 0), ("kd", 0), ("masked", 1), ("kd", 1)]
    assert order == gate + [(arm, seed) for seed in (0, 1) for arm in ("random", "again")] * run


def test_arms_asked_for_are_run_alone_and_past_the_gate(
    tmp_path: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, int]] = []
    monkeypatch.setattr(matrix, "_row", lambda _settings, arm, seed, *_: order.append((arm, seed)))
    settings = AblateSettings.model_validate(told | {"gate": "kd", "seeds": [0, 1]})
    run_matrix(settings, tmp_path, tmp_path, only=["again", "random"])
    assert order == [("again", 0), ("random", 0), ("again", 1), ("random", 1)]
    with pytest.raises(SettingsRefused, match="no arm agian; there are random, masked, again, kd"):
        run_matrix(settings, tmp_path, tmp_path, only=["agian"])
