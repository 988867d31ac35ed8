"""Biases of classes: that they are found, and that the command says what to export with."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.trainer.tiny_sets import many_sets_settings
from trainer.cli import main
from trainer.data.description import read_description
from trainer.data.sets import open_set
from trainer.data.targets import HeadCodes
from trainer.errors import SettingsRefused
from trainer.evaluate.biases import PlaceLogits, fit_biases, read_logits
from trainer.evaluate.mappers import mapper_of_run
from trainer.evaluate.places import PlaceCount, PlacesSettings, score_places
from trainer.finetune.task import finetune


def place(cover: str, logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] = ()) -> PlaceLogits:
    count = PlaceCount(open_set(cover), HeadCodes("cover", read_description(cover).classes), cover)
    return PlaceLogits("here", classes, logits.astype(np.float32), labels.astype(np.uint8), 1, count)


@pytest.fixture
def cover(tmp_path: Path) -> str:
    many_sets_settings(tmp_path)
    return str(tmp_path / "cover" / "set.yaml")


def drawn(shift: tuple[float, float, float], count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that know the label, with noise, all of one class too high or too low; equal shares."""
    rng = np.random.default_rng(3)
    labels = rng.integers(1, 4, size=count)
    return 3.0 * np.eye(3)[labels - 1] + rng.normal(size=(count, 3)) + np.array(shift), labels


@pytest.mark.parametrize("shift", [(0.0, 1.6, 0.0), (0.0, 0.0, -1.6), (-1.0, 0.0, 1.0), (0.8, 0.0, 0.0)])
def test_what_is_too_high_is_taken_away_again(cover: str, shift: tuple[float, float, float]) -> None:
    fitted = fit_biases([place(cover, *drawn(shift))])
    wanted = [shift[0] - value for value in shift]  # the first class stays
    assert list(fitted.biases) == ["roof", "green", "water"]
    assert np.allclose(list(fitted.biases.values()), wanted, atol=0.21)
    assert fitted.after[0].figure > fitted.before[0].figure
    assert fitted.after[0].figure == pytest.approx(
        fit_biases([place(cover, *drawn((0, 0, 0)))]).after[0].figure, abs=3e-3
    )


def test_nothing_is_added_where_nothing_helps(cover: str) -> None:
    labels = np.array([1, 2, 3] * 5)
    fitted = fit_biases([place(cover, 9.0 * np.eye(3)[labels - 1], labels)])
    assert set(fitted.biases.values()) == {0.0}
    assert fitted.options(of_heads=True) == ""


def test_places_count_alike_whatever_their_size(cover: str) -> None:
    # The small place has green too high, the large one too low; of equal weight they want opposite things of it.
    small, large = drawn((0.0, 1.2, 0.0), 2_000), drawn((0.0, -0.4, 0.0), 40_000)
    both = fit_biases([place(cover, *small), place(cover, *large)]).biases["green"]
    alone = fit_biases([place(cover, *large)]).biases["green"]
    assert both < alone - 0.3


def test_the_command_fits_a_head_of_a_run_and_says_what_to_export_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = many_sets_settings(tmp_path / "sets", max_steps=12, learning_rate=1e-2)
    finetune(settings, tmp_path / "run")
    coarse = settings.heads["coarse"].classes_of
    config = tmp_path / "places.yaml"
    places = {
        "places": [{"name": "all of it", "set": coarse, "split": "train", "head": "coarse"}],
        "heads": {"coarse": coarse, "cover": settings.heads["cover"].classes_of},
    }
    config.write_text(yaml.safe_dump(places))
    assert main(["biases", str(tmp_path / "run"), "--config", str(config), "--head", "coarse", "--every", "2"]) == 0
    said = capsys.readouterr().out
    assert "| all of it | 3 |" in said
    assert "no bias helps" in said or re.search(r"of this head alone: --bias sea=-?[\d.]+\n", said)
    read = read_logits(PlacesSettings.model_validate(places), tmp_path / "run", "coarse", every=2)[0]
    assert read.logits.shape == (3 * 4 * 4, 2)  # three images of 32 pixels, a head of stride 8
    assert read.labels.shape == (3 * 4 * 4,)
    for head, problem in (
        ("sky", "has no head sky; it has cover, coarse"),
        ("cover", "none of its places is of head cover"),
    ):
        with pytest.raises(SettingsRefused, match=problem):
            read_logits(PlacesSettings.model_validate(places), tmp_path / "run", head)


def test_a_place_without_any_figure_is_refused_and_not_fitted_on(tmp_path: Path) -> None:
    settings = many_sets_settings(tmp_path / "sets")
    finetune(settings, tmp_path / "run")
    coarse, cover = (settings.heads[head].classes_of for head in ("coarse", "cover"))
    # Land of the coarse set is roof or green, so that no pixel is roof alone.
    place = {"name": "all of it", "set": coarse, "split": "train", "head": "cover", "classes": ["roof"]}
    places = PlacesSettings.model_validate({"places": [place], "heads": {"cover": cover}})
    with pytest.raises(SettingsRefused, match=r"all of it: no labelled pixel .* is one class alone of roof"):
        read_logits(places, tmp_path / "run", "cover")
    with pytest.raises(SettingsRefused, match=r"all of it: no labelled pixel .* is one class alone of roof"):
        score_places(places, mapper_of_run(tmp_path / "run", places.heads))


def test_a_cell_of_logits_is_compared_with_the_label_in_its_middle(tmp_path: Path) -> None:
    settings = many_sets_settings(tmp_path / "sets")
    finetune(settings, tmp_path / "run")
    cover = settings.heads["cover"].classes_of
    place = {"name": "all of it", "set": cover, "split": "train", "head": "cover"}
    places = PlacesSettings.model_validate({"places": [place], "heads": {"cover": cover}})
    (read,) = read_logits(places, tmp_path / "run", "cover", every=2)
    labels = open_set(cover).read(open_set(cover).split("train")[0]).labels
    assert labels[0, 52] != labels[0, 54]  # a border between the corner of a cell of 4 and its middle
    assert np.array_equal(read.labels, labels[2::4, 2::4].ravel())
