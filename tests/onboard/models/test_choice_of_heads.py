"""Which heads the worker opens: those of the scene whose turn it is; a head that a new model lacks is left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.engine import Engine
from onboard.jobs.disk_space import demand_of, missing_bytes
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.reconcile import reconcile
from onboard.jobs.scene_store import SceneRow
from onboard.models.reconcile import reconcile_models
from onboard.models.under_way import model_under_way
from onboard.processes.engine_opening import shipped_engine
from onboard.processes.model_choice import ModelChoice
from onboard.settings import Settings, read_settings
from tests.tiny_heads import HEADS, write_heads_model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    model = write_heads_model(tmp_path / "model")
    return read_settings(data_dir=tmp_path / "data", model=str(model), backend="onnxruntime", threads=1)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings.ledger_path) as ledger:
        reconcile_models(settings, ledger)
        yield ledger


class Opener:
    """Opens as the worker does; ``heads`` says which."""

    def __init__(self) -> None:
        self.heads: list[tuple[str, ...]] = []

    def __call__(self, settings: Settings) -> Engine:
        engine = shipped_engine(settings)
        self.heads.append(tuple(head.name for head in engine.manifest.opened_heads))
        return engine


def scene(ledger: Ledger, settings: Settings, name: str, heads: tuple[str, ...] = ()) -> SceneRow:
    config = MappingConfig.of(settings).asking(heads)
    row = SceneRow(name, ledger.next_sequence(), name * 8, 10, name, "routine", None, config.model, config.options, {})
    return ledger.scenes.add(row)


def now(ledger: Ledger, row: SceneRow) -> SceneRow:
    found = ledger.scenes.get(row.id)
    assert found is not None
    return found


def test_the_engine_is_opened_for_the_heads_of_each_scene(settings: Settings, ledger: Ledger) -> None:
    usual, both = scene(ledger, settings, "usual"), scene(ledger, settings, "both", ("bands", "light"))
    same = scene(ledger, settings, "same", ("bands",))
    opener = Opener()
    choice = ModelChoice(settings, ledger, opener)
    choice.open()
    assert choice.fits(usual)
    assert choice.fits(same)  # named, and open all the same
    assert choice.is_current()
    assert not choice.fits(both)
    assert not choice.is_current()
    choice.open()
    assert choice.is_current()
    assert choice.fits(both)
    assert not choice.fits(usual)
    choice.open()
    assert opener.heads == [("bands",), ("bands", "light"), ("bands",)]


def test_a_scene_of_other_heads_that_is_begun_is_under_way(settings: Settings, ledger: Ledger) -> None:
    both = scene(ledger, settings, "both", ("bands", "light"))
    canvas = settings.canvases_dir / "both" / "canvas"
    canvas.mkdir(parents=True)
    (canvas / "journal").touch()
    assert model_under_way(settings, ledger, both) is not None


def test_a_head_that_the_model_of_now_lacks_is_left_out(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    both, light = (scene(ledger, settings, name, heads) for name, heads in
                   (("both", ("bands", "light")), ("light", ("light",))))  # fmt: skip
    lacking = write_heads_model(tmp_path / "lacking", {"bands": HEADS["bands"]}, changes={"version": "2.0"})
    settings = settings.model_copy(update={"model": str(lacking)})
    opener = Opener()
    choice = ModelChoice(settings, ledger, opener)
    choice.open()
    for row in (both, light):
        assert not choice.fits(row)
        again = now(ledger, row)
        assert again.heads == row.heads  # a later model that has it gives it
        assert choice.fits(again)
        assert choice.is_current()
    assert opener.heads == [("bands",)]


def test_waiting_scenes_keep_their_heads_over_a_restart(settings: Settings, ledger: Ledger) -> None:
    both = scene(ledger, settings, "both", ("bands", "light"))
    (settings.scenes_dir / "both").mkdir(parents=True)
    (settings.scenes_dir / "both" / "scene.tif").touch()
    reconcile(settings, ledger, MappingConfig.of(settings))
    again = now(ledger, both)
    assert (again.state, again.model, again.options) == ("queued", both.model, both.options)


def test_each_head_needs_its_room(settings: Settings, ledger: Ledger) -> None:
    manifest = MappingConfig.of(settings).manifest
    one, two = (demand_of(1 << 20, settings, manifest.with_heads(heads)) for heads in ((), ("bands", "light")))
    assert two.canvas == 2 * one.canvas
    assert two.product - one.product > (1 << 20) // 2
    row = scene(ledger, settings, "both", ("bands", "light"))
    usual = scene(ledger, settings, "usual")
    for each in (row, usual):
        ledger.scenes.set_pixels(each.id, 1 << 20)
    assert missing_bytes(settings, manifest, now(ledger, row)) == two.bytes
    assert missing_bytes(settings, manifest, now(ledger, usual)) == one.bytes
    opened = manifest.with_heads(("bands", "light"))
    assert missing_bytes(settings, opened, now(ledger, row)) == two.bytes
