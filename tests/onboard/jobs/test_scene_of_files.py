"""A scene of several files where its ledger's row and its folder meet."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from onboard.jobs.bundle import IncomingBundle, new_folder
from onboard.jobs.intake import INCOMING, Accepted, Delivery, accept
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.reconcile import open_ledger, reconcile
from onboard.jobs.scene_folder import FILES, scene_file
from onboard.jobs.scheduler import SceneScheduler
from onboard.scene.probe import Probes
from onboard.settings import Settings, read_settings
from tests.onboard.service import write_scene
from tests.tiny_model import write_model

SIDE = 40


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings(data_dir=tmp_path / "data", model=str(write_model(tmp_path / "model")), disk_reserve_bytes=0)


@pytest.fixture
def probes() -> Iterator[Probes]:
    with Probes() as probes:
        yield probes


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
        yield ledger


@pytest.fixture
def deliver(settings: Settings, ledger: Ledger, probes: Probes) -> Callable[[], Accepted]:
    """Delivers one scene with a file beside it, over and over."""
    kind = MappingConfig.of(settings)

    def delivered() -> Accepted:
        folder = new_folder(settings)
        write_scene(folder / "scene.tif", SIDE)
        (folder / "scene.tfw").write_text("2\n0\n0\n-2\n330001\n2789999\n")
        return accept(settings, ledger, kind, probes, IncomingBundle(folder), Delivery("a scene"))

    return delivered


def left_over(settings: Settings) -> list[Path]:
    return list((settings.scenes_dir / INCOMING).iterdir())


def test_a_new_delivery_takes_the_place_of_damaged_files_and_leaves_nothing(
    settings: Settings, ledger: Ledger, deliver: Callable[[], Accepted]
) -> None:
    row = deliver().row
    path = scene_file(settings.scenes_dir / row.id)
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"damaged")
    assert ledger.scenes.fail(row.id, "its file is damaged")
    again = deliver()
    assert (again.is_new, again.row.id, again.row.state) == (True, row.id, "queued")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == whole
    assert sorted(one.name for one in path.parent.iterdir()) == ["scene.tfw", "scene.tif"]
    assert left_over(settings) == []


def test_a_delivery_that_is_known_leaves_the_files_that_stand(
    settings: Settings, deliver: Callable[[], Accepted]
) -> None:
    row = deliver().row
    again = deliver()
    assert (again.is_new, again.row.id) == (False, row.id)
    assert (settings.scenes_dir / row.id / FILES / "scene.tfw").is_file()
    assert left_over(settings) == []


def test_its_size_is_measured_where_its_row_has_none(
    settings: Settings, ledger: Ledger, probes: Probes, deliver: Callable[[], Accepted]
) -> None:
    row = deliver().row
    assert row.pixels == SIDE * SIDE
    ledger.scenes.set_pixels(row.id, 0)
    assert SceneScheduler(settings, ledger, probes.judge).next(MappingConfig.of(settings).manifest) is not None
    measured = ledger.scenes.get(row.id)
    assert measured is not None
    assert measured.pixels == SIDE * SIDE


def test_a_new_attempt_known_to_the_mark_alone_is_queued_again(
    settings: Settings, ledger: Ledger, deliver: Callable[[], Accepted]
) -> None:
    row = deliver().row
    assert ledger.scenes.fail(row.id, "a reason")
    assert deliver().is_new
    with closing(sqlite3.connect(settings.ledger_path)) as base, base:  # as a ledger that fell back says
        base.execute("UPDATE scenes SET state = 'failed', changed = 0 WHERE id = ?", (row.id,))
    reconcile(settings, ledger)
    assert ledger.scenes.state_of(row.id) == "queued"
