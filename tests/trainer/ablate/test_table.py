from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.ablate.rows import Row, Score, Stretch, digest_of
from trainer.ablate.settings import AblateSettings
from trainer.ablate.table import Spread, passed_gate, table, write_table
from trainer.errors import SettingsRefused
from trainer.models.teachers.settings import TeacherSettings

MATRIX: dict[str, Any] = {
    "name": "made", "about": "A test.", "seeds": [0, 1, 2], "against": "base", "gate": "teacher", "least_images": 100,
    "finetune": {"max_steps": 1},
    "distill": {"max_steps": 1, "stages": [{"until": 1.0, "crop": 64, "batch": 2}]},
    "arms": {"base": {"title": "Base", "x": 10}, "teacher": {"title": "Teacher", "distill": None},
             "better": {"title": "Better", "x": 100}, "later": {"title": "Later"}},
    "evaluate": {"held out": ["scene_3"]}, "x_label": "tiles",
}  # fmt: skip


def rows_of(arm: str, values: list[float], *, images: int = 100) -> list[Row]:
    stretch = Stretch(50, images, 120.0, {"r": 0.9, "stage_steps": {"early": 30, "middle": 20}})
    decoder = Stretch(10, 80, 60.0, {})
    return [
        Row(arm, seed, "c", "d", None if arm == "teacher" else stretch, decoder,
            {"held out": Score(value, (value, None), 0.5, 0.5)})
        for seed, value in enumerate(values)
    ]  # fmt: skip


def settings_with(**changes: Any) -> AblateSettings:
    return AblateSettings.model_validate(MATRIX | changes)


def test_spread_is_that_of_seeds_in_points() -> None:
    spread = Spread.of([0.50, 0.52, 0.54])
    assert spread.mean == pytest.approx(52.0)
    assert spread.deviation == pytest.approx(2.0)
    assert str(spread) == "52.00 ± 2.00"
    assert str(Spread.of([0.5])) == "50.00 (one seed)"


def test_a_difference_under_two_deviations_is_none() -> None:
    base = Spread(50.0, 1.0, 3)
    assert Spread(52.1, 1.0, 3).against(base) == "+2.10, 2.1 sd"
    assert Spread(51.9, 1.0, 3).against(base) == "none (+1.90, 1.9 sd)"
    assert Spread(47.0, 1.0, 3).against(base) == "-3.00, 3.0 sd"
    assert Spread(55.0, 3.0, 3).against(base) == "+5.00, 2.2 sd"  # pooled deviation is sqrt(5)
    assert Spread(99.0, None, 1).against(base) == "one seed"


def test_the_table_says_what_was_not_run_and_what_is_smoke() -> None:
    rows = rows_of("base", [0.50, 0.51, 0.52]) + rows_of("better", [0.60, 0.61, 0.62], images=99)
    text = table(settings_with(), rows)
    first = text.split("Gate")[0]
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in first.splitlines()}
    assert "51.00 ± 1.00" in lines["Base"]
    assert "+10.00, 10.0 sd" in text
    assert "smoke: under 100 images" in text
    assert "not run" in lines["Later"]
    assert "Gate: not run yet." in text
    assert "early 30, middle 20" in text


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0.55, 0.56, 0.57], "Gate passed"), ([0.51, 0.52, 0.53], "Finding: nothing to distil"), ([0.9], "one seed")],
)
def test_the_gate_is_two_deviations(values: list[float], verdict: str) -> None:
    rows = rows_of("base", [0.50, 0.51, 0.52]) + rows_of("teacher", values)
    assert verdict in table(settings_with(), rows)
    assert passed_gate(settings_with(), rows) == {"Gate passed": True, "one seed": None}.get(verdict, False)
    assert passed_gate(settings_with(gate=None), rows) is None
    assert passed_gate(settings_with(), rows_of("base", [0.5, 0.6])) is None


def test_a_matrix_with_places_gets_a_picture(tmp_path: Path) -> None:
    rows = rows_of("base", [0.50, 0.51]) + rows_of("better", [0.60, 0.61])
    assert write_table(settings_with(), rows, tmp_path) == (tmp_path / "table.md").read_text()
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_rows_go_to_json_and_back(tmp_path: Path) -> None:
    for row in rows_of("base", [0.5]) + rows_of("teacher", [0.6]):
        row.write(tmp_path / "row.json")
        assert Row.read(tmp_path / "row.json") == row


def test_an_unknown_arm_to_compare_with_is_refused() -> None:
    with pytest.raises(ValueError, match="no arm is called 'nothing'; there are base, teacher"):
        settings_with(against="nothing")


def test_an_arm_whose_settings_do_not_hold_is_named() -> None:
    arms = MATRIX["arms"] | {"odd": {"title": "Odd", "distill": {"mask": {"ratio": 0.71}}}}
    with pytest.raises((SettingsRefused, ValueError), match=r"made: arms\.odd\.distill: .*0\.71 cannot be met"):
        settings_with(arms=arms)


def test_a_teacher_with_other_weights_makes_another_run(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "same", "other")]
    for folder, content in zip(folders, (b"1", b"1", b"2"), strict=True):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
    one, same, other = (digest_of(TeacherSettings(weights=folder)) for folder in folders)
    assert one == same != other
