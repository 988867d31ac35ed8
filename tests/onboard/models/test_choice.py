"""Which model the worker opens: the active one, and for a scene that is begun the one that began it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.engine import Engine
from engines.errors import AnswerChanged, EngineNotWritten, GoldenFailed, InferenceFailed
from engines.testing import IdentityEngine
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.scene_store import SceneRow
from onboard.models.active import ActiveModel, active_model
from onboard.models.reconcile import reconcile_models
from onboard.processes.model_choice import ModelChoice
from onboard.settings import Settings, read_settings
from tests.onboard.models.test_shadow import candidate
from tests.tiny_model import write_model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings(data_dir=tmp_path / "data", model=str(write_model(tmp_path / "model")), disk_reserve_bytes=0)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings.ledger_path) as ledger:
        reconcile_models(settings, ledger)
        yield ledger


class Opened:
    """What was opened, by the model's folder."""

    def __init__(self) -> None:
        self.models: list[str | None] = []

    def __call__(self, settings: Settings) -> Engine:
        self.models.append(settings.model)
        return IdentityEngine(tile_size=32)


def scene(ledger: Ledger, settings: Settings, name: str, model: ActiveModel, *, begun: bool = False) -> SceneRow:
    """A queued scene of this model; begun ones have a canvas."""
    config = MappingConfig.of(settings, model.folder)
    row = SceneRow(name, ledger.next_sequence(), name * 8, 10, name, "routine", None, config.model, config.options, {})
    added = ledger.scenes.add(row)
    if begun:
        canvas = settings.canvases_dir / name / "canvas"
        canvas.mkdir(parents=True)
        (canvas / "journal").touch()
    return added


def now(ledger: Ledger, row: SceneRow) -> SceneRow:
    found = ledger.scenes.get(row.id)
    assert found is not None
    return found


def test_a_scene_that_is_begun_ends_with_its_model_and_others_go_to_the_new_one(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    shipped, second = active_model(settings, ledger), candidate(settings, ledger, tmp_path, scale=2.0)
    begun = scene(ledger, settings, "begun", shipped, begun=True)
    waits = scene(ledger, settings, "waits", shipped)
    opened = Opened()
    choice = ModelChoice(settings, ledger, opened)
    choice.open()
    assert choice.fits(begun)
    ledger.models.activate(second, "by a test")
    assert not choice.is_current()
    choice.open()
    assert choice.is_current()
    unit = str(settings.models_dir / "units" / second)
    assert opened.models == [settings.model, unit]
    # The scene that waits becomes one of the new model; the one that is begun asks for its own.
    assert not choice.fits(waits)
    assert choice.fits(now(ledger, waits))
    assert not choice.fits(begun)
    assert not choice.is_current()
    choice.open()
    assert opened.models[-1] == settings.model
    assert choice.fits(now(ledger, begun))
    # The next scene of the active model brings that back.
    assert not choice.fits(now(ledger, waits))
    choice.open()
    assert opened.models[-1] == unit
    assert choice.fits(now(ledger, waits))


def test_a_scene_begun_by_a_model_that_failed_goes_to_the_active_one(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    second = candidate(settings, ledger, tmp_path, scale=2.0)
    ledger.models.activate(second, "by a test")
    begun = scene(ledger, settings, "begun", active_model(settings, ledger), begun=True)
    assert ledger.models.fail(second, "it computes wrong", 1) is not None
    choice = ModelChoice(settings, ledger, Opened())
    choice.open()
    assert not choice.fits(begun)
    assert choice.is_current()
    assert choice.fits(now(ledger, begun))


def test_a_model_that_cannot_be_opened_for_a_scene_under_way_is_not_asked_again(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    shipped, second = active_model(settings, ledger), candidate(settings, ledger, tmp_path, scale=2.0)
    begun = scene(ledger, settings, "begun", shipped, begun=True)
    ledger.models.activate(second, "by a test")
    choice = ModelChoice(settings, ledger, Opened())
    choice.open()
    assert not choice.fits(begun)
    choice.open()
    assert choice.failed(GoldenFailed("onnxruntime", "fp32", agreement=0.5, required=0.9))
    choice.open()
    assert choice.opened.id == second
    assert not choice.fits(begun)
    assert choice.is_current()
    assert choice.fits(now(ledger, begun))
    assert ledger.models.active_id() == second  # nothing counts against it


def test_only_failures_of_the_model_count_against_it(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"max_model_failures": 1})
    second = candidate(settings, ledger, tmp_path, scale=2.0)
    ledger.models.activate(second, "by a test")
    choice = ModelChoice(settings, ledger, Opened())
    choice.open()
    assert not choice.failed(AnswerChanged("onnxruntime", "fp32", differing=3))  # a flipped bit
    assert not choice.failed(EngineNotWritten(tmp_path, "No space left on device"))
    ledger.models.prove(second)
    assert not choice.failed(InferenceFailed("tensorrt", "the device fell off the bus", retryable=True))
    assert ledger.models.active_id() == second
    assert choice.failed(InferenceFailed("tensorrt", "the graph fails", retryable=False))
    assert ledger.models.active_id() != second


def test_a_new_model_that_gives_one_class_only_is_left(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"max_model_failures": 2})
    second = candidate(settings, ledger, tmp_path, scale=2.0)
    ledger.models.activate(second, "by a test")
    choice = ModelChoice(settings, ledger, Opened())
    choice.open()
    choice.mapped({"": {"water": 1.0, "road": 0.0}}, "s1")
    choice.mapped({"": {"water": 0.7, "road": 0.3}}, "s2")  # proved: the count begins anew
    for _ in range(3):
        choice.mapped({"": {"water": 1.0, "road": 0.0}}, "s3")  # the sea
    assert ledger.models.active_id() == second


def test_a_new_model_that_never_gives_a_second_class_goes(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"max_model_failures": 2})
    second = candidate(settings, ledger, tmp_path, scale=2.0)
    ledger.models.activate(second, "by a test")
    choice = ModelChoice(settings, ledger, Opened())
    choice.open()
    choice.mapped({"": {"water": 0.0, "road": 0.0}}, "s0")  # no data at all: it says nothing
    choice.mapped({"": {"water": 0.4, "road": 0.0}}, "s1")
    assert choice.is_current()
    choice.mapped({"": {"water": 0.4, "road": 0.0}}, "s2")
    assert not choice.is_current()
    assert ledger.models.active_id() != second


def test_a_head_beside_the_first_that_gives_one_class_only_counts_too(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    choice = ModelChoice(settings, ledger, Opened())
    new = candidate(settings, ledger, tmp_path, scale=2.0)
    ledger.models.activate(new, "by a test")
    choice.open()
    good, sea = {"water": 0.7, "road": 0.3}, {"forest": 0.0, "water": 1.0}
    for number in range(settings.max_model_failures):
        assert ledger.models.active_id() == new
        choice.mapped({"landcover": good, "deepglobe": sea}, f"s{number}")
    assert ledger.models.active_id() != new
    texts = [event.text for event in ledger.events.page() if event.kind == "model-rolled-back"]
    assert len(texts) == 1
    assert "as one class by its head deepglobe" in texts[0]
