from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.engine import Engine, Prediction, Tiles
from engines.errors import (
    AcceptanceFailed,
    BackendUnavailable,
    BuildFailed,
    EngineDamaged,
    EngineElsewhere,
    EngineError,
    GoldenFailed,
    InferenceFailed,
    ManifestError,
)
from engines.fastest import open_fastest as open_fastest_measured
from engines.fastest import seconds_a_tile
from engines.manifest import Acceptance, Manifest
from engines.open import open_engine
from engines.selection import choice_of
from engines.testing import ConstantEngine
from tests.tiny_model import tiny_classes


class Slow(ConstantEngine):
    """Says what the tiny model says, and is said to take so long: no test depends on a measured speed."""

    def __init__(self, folder: Path, seconds: float, *, wrong: bool = False) -> None:
        super().__init__(tile_size=32)
        self.manifest, self.folder, self.wrong = Manifest.load(folder), folder, wrong
        self.seconds, self.backend = seconds, f"{seconds:g}"

    def _predicted(self, tiles: Tiles) -> Prediction:
        return Prediction(np.full_like(tiles[:, 0], 1) if self.wrong else tiny_classes(tiles))


def open_fastest(openers: Openers, key: str, choices: Path) -> Engine:
    def seconds(engine: Engine) -> float:
        assert isinstance(engine, Slow)
        return engine.seconds

    return open_fastest_measured(openers, key, choices, measure=seconds)


Openers = dict[str, Callable[[], Engine]]


@pytest.fixture
def openers(tiny_model: Path) -> Openers:
    return {"slow": lambda: Slow(tiny_model, 0.2), "fast": lambda: Slow(tiny_model, 0.0)}


def test_the_fastest_is_taken_and_kept(openers: Openers, tmp_path: Path) -> None:
    choices = tmp_path / "kept" / "backends.json"
    assert open_fastest(openers, "key", choices).backend == "0"
    assert json.loads(choices.read_text()) == {"key": "fast"}
    choices.write_text(json.dumps({"key": "slow", "other": "fast"}))
    assert open_fastest(openers, "key", choices).backend == "0.2"  # kept to, measured no more
    assert open_fastest(openers, "a newer runtime", choices).backend == "0"
    assert json.loads(choices.read_text()) == {"key": "slow", "other": "fast", "a newer runtime": "fast"}


def test_a_fast_one_that_computes_wrong_is_out(openers: Openers, tiny_model: Path, tmp_path: Path) -> None:
    openers["wrong"] = lambda: Slow(tiny_model, 0.0, wrong=True)
    choices = tmp_path / "backends.json"
    choices.write_text(json.dumps({"key": "wrong"}))
    assert open_fastest({name: openers[name] for name in ("slow", "wrong")}, "key", choices).backend == "0.2"
    assert json.loads(choices.read_text()) == {"key": "slow"}
    with pytest.raises(GoldenFailed):
        open_fastest({"wrong": openers["wrong"], "twin": openers["wrong"]}, "key", tmp_path / "none.json")


def test_one_that_is_not_here_is_passed_over(openers: Openers, tmp_path: Path) -> None:
    def missing() -> Engine:
        raise BackendUnavailable("x", "not here", "install it")

    assert open_fastest({"x": missing, **openers}, "key", tmp_path / "backends.json").backend == "0"
    with pytest.raises(BackendUnavailable, match="not here"):
        open_fastest({"x": missing, "y": missing}, "key", tmp_path / "others.json")


@pytest.mark.parametrize(
    "error",
    [
        EngineElsewhere(Path("x.engine"), ["its model is a, here it is b"], "engines build x"),
        EngineDamaged(Path("x.engine"), "its SHA-256 is a, b was built"),
        BuildFailed("x", "cannot parse it", Path("x.log")),
        ManifestError(Path("manifest.json"), "golden", "says nothing of bf16", "add it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_one_that_cannot_be_opened_takes_no_other_with_it(openers: Openers, tmp_path: Path, error: EngineError) -> None:
    def fails() -> Engine:
        raise error

    choices = tmp_path / "backends.json"
    assert open_fastest({"x": fails, **openers}, "key", choices).backend == "0"
    choices.write_text(json.dumps({"key": "x"}))
    assert open_fastest({"x": fails, **openers}, "key", choices).backend == "0"


def test_one_that_fails_for_now_is_not_given_up_for_a_slower_one(openers: Openers, tmp_path: Path) -> None:
    def fails() -> Engine:
        raise InferenceFailed("x", "the device fell off the bus", retryable=True)

    choices = tmp_path / "backends.json"
    choices.write_text(json.dumps({"key": "x"}))
    with pytest.raises(InferenceFailed):
        open_fastest({"x": fails, **openers}, "key", choices)
    assert json.loads(choices.read_text()) == {"key": "x"}


@pytest.mark.parametrize("content", ["", "[1]", '{"key": 3}', '{"key": "unknown"}'])
def test_a_choice_that_cannot_be_read_is_made_again(openers: Openers, tmp_path: Path, content: str) -> None:
    choices = tmp_path / "backends.json"
    choices.write_text(content)
    assert open_fastest(openers, "key", choices).backend == "0"
    assert json.loads(choices.read_text())["key"] == "fast"


def test_where_it_cannot_be_kept_it_is_measured_again(openers: Openers, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert open_fastest(openers, "key", tmp_path / "file" / "backends.json").backend == "0"


def test_its_choice_is_noted(openers: Openers, tmp_path: Path) -> None:
    def missing() -> Engine:
        raise BackendUnavailable("x", "not here", "install it")

    chosen = choice_of(open_fastest({"x": missing, **openers}, "key", tmp_path / "backends.json"))
    assert (chosen.how, list(chosen.passed_over)) == ("measured", ["x"])
    assert choice_of(open_fastest(openers, "key", tmp_path / "backends.json")).how == "measured"


def test_a_tile_is_timed_by_its_quickest_call(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 3.0, 10.0, 11.5, 20.0, 22.0])
    monkeypatch.setattr("engines.fastest.time.perf_counter", lambda: next(times))
    assert seconds_a_tile(Slow(tiny_model, 0)) == 1.5


def accepted(precision: str, miou: float, most_loss: float) -> dict[str, Any]:
    found = Acceptance(
        precision=precision, backend="x 1", data="two scenes", tiles=8, pixel_agreement=0.99, worst_tile=0.98,
        miou_reference=0.6, miou=miou, most_loss=most_loss,
    )  # fmt: skip
    return {"acceptance": (found,)}


def test_what_labels_have_refused_is_never_put_into_service(make_model: Callable[..., Path]) -> None:
    folder = make_model("lossy", manifest=accepted("fp32", 0.58, 0.005))
    with pytest.raises(AcceptanceFailed, match=r"loses 2\.00 points of mIoU on two scenes, 0\.50 allowed"):
        open_engine(folder, backend="onnxruntime")
    open_engine(folder, backend="onnxruntime", check_golden=False).close()


def test_another_precision_flies_only_where_labels_were_looked_at(make_model: Callable[..., Path]) -> None:
    plain = Manifest.load(make_model("plain"))
    assert plain.accepts("fp32")
    assert not plain.accepts("bf16")
    assert Manifest.load(make_model("looked-at", manifest=accepted("bf16", 0.5999, 0.001))).accepts("bf16")
    assert not Manifest.load(make_model("failed", manifest=accepted("bf16", 0.59, 0.001))).accepts("bf16")
