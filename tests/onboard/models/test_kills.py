"""SIGKILL at every step of a model's way: one whole model is always active, and the next push goes on."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ground.model.sign import LIST_FILE
from ground.model.unit import Unit, unit_of
from onboard.jobs.database import Database
from onboard.jobs.ledger import Ledger
from onboard.models.active import active_model
from onboard.models.checks import check_files
from onboard.models.failures import count_failure
from onboard.models.model_files import ModelFiles
from onboard.models.reconcile import reconcile_models
from onboard.models.verification import Verification
from onboard.settings import Settings, read_settings
from tests.onboard.models.satellite import Station
from tests.onboard.models.test_delivery import KINDS, delivery_of
from tests.tiny_model import write_model

FIGURES = {
    "backend": "b", "precision": "fp32", "golden_agreement": 1.0, "tile_s": 0.1, "memory_bytes": 1, "unknown_codes": {},
}  # fmt: skip


class Passed(Verification):
    """The probe's own test is another: here it would take the time of a process for every kill."""

    def _probe(self, folder: Path) -> dict[str, Any]:
        return {**FIGURES, "folder": folder.name}


def fly(settings: Settings, raw: bytes, unit: Unit) -> None:
    """The whole way, from wherever it was left."""
    with Ledger(settings.ledger_path) as ledger:
        reconcile_models(settings, ledger)
        delivery = delivery_of(settings, ledger)
        delivery.take_list(raw)
        for file in unit.files.values():
            content = file.path.read_bytes()
            while (
                not delivery.files.holds(file.sha256) and (held := delivery.files.held_bytes(file.sha256)) < file.bytes
            ):
                delivery.wanted_size(file.sha256)
                with delivery.upload(file.sha256, held) as append:
                    append(content[held : held + file.bytes // 2 + 1])
            if not delivery.files.holds(file.sha256):
                delivery.finish(file.sha256)
        delivery.complete_all()
        for row in ledger.models.in_state("received"):
            Passed(settings, lambda: ledger, delivery.files, delivery.erase).verify(row)
        if ledger.models.active_id() != unit.digest:
            assert ledger.models.activate(unit.digest, "by a test")


LIMIT = 3


def fall_back(settings: Settings, unit: Unit) -> None:
    """Failures of the model until it is left, from wherever they were left."""
    with Ledger(settings.ledger_path) as ledger:
        while (row := ledger.models.get(unit.digest)) is not None and row.state == "active":
            count_failure(ledger, row, "by a test", LIMIT)


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Does the work in a fork that kills itself at its n-th durable step, before it or after it; False if it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks: no thread runs here
        child = os.fork()
    if child == 0:
        try:
            _count(step)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def _count(step: int) -> None:
    left = step

    def counted(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            for after in (False, True):
                result = whole(*arguments, **options) if after else None
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("fsync", "rename", "link", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    Database.change = counted(Database.change)  # type: ignore[method-assign]


@pytest.fixture
def station(tmp_path: Path) -> Station:
    station = Station(tmp_path / "ground")
    station.make_keys()
    return station


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_kill_at_any_step_leaves_one_whole_model_active_and_the_push_goes_on(
    station: Station, tmp_path: Path, kind: str
) -> None:
    unit = unit_of(KINDS[kind].changed(station, "2.0"))
    raw = (station.keys / LIST_FILE).read_bytes()
    model, root = KINDS[kind].write(tmp_path / "model"), station.keys / "1.root.json"
    step, was_killed, seen = 0, True, set()
    while was_killed:
        step += 1
        data = tmp_path / "data"
        settings = read_settings(data_dir=data, model=str(model), disk_reserve_bytes=0, trust_root=root)
        data.mkdir()

        def work(settings: Settings = settings) -> None:
            fly(settings, raw, unit)

        was_killed = killed_at(step, work)
        seen.add(_check(settings))
        fly(settings, raw, unit)
        assert _check(settings) == "2.0"
        shutil.rmtree(data)
    assert step > 40
    assert seen == {"1.0", "2.0"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_kill_at_any_step_of_the_way_back_leaves_one_whole_model_active(
    station: Station, tmp_path: Path, kind: str
) -> None:
    unit = unit_of(KINDS[kind].changed(station, "2.0"))
    raw = (station.keys / LIST_FILE).read_bytes()
    model, root = KINDS[kind].write(tmp_path / "model"), station.keys / "1.root.json"
    up = read_settings(data_dir=tmp_path / "up", model=str(model), disk_reserve_bytes=0, trust_root=root)
    fly(up, raw, unit)
    step, was_killed, seen = 0, True, []
    while was_killed:
        step += 1
        settings = up.model_copy(update={"data_dir": tmp_path / f"step-{step}"})
        shutil.copytree(up.data_dir, settings.data_dir)

        def work(settings: Settings = settings) -> None:
            fall_back(settings, unit)

        was_killed = killed_at(step, work)
        seen.append(_check(settings))
        fall_back(settings, unit)
        assert _check(settings) == "1.0"
        with Ledger(settings.ledger_path) as ledger:
            states = {row.version: row.state for row in ledger.models.all()}
            told = [event.kind for event in ledger.events.page()].count("model-rolled-back")
            assert states == {"1.0": "active", "2.0": "retired"}
            assert told <= 1
        # The model that was left flies again where the operator says so: its files are whole.
        fly(settings, raw, unit)
        assert _check(settings) == "2.0"
        shutil.rmtree(settings.data_dir)
    assert seen == sorted(seen, reverse=True)  # once left, it is never active again by itself
    assert {"1.0", "2.0"} == set(seen)
    assert step > 4 * LIMIT


def _check(settings: Settings) -> str:
    """One model is active after the next start, and all of its bytes are right; gives its version."""
    with Ledger(settings.ledger_path) as ledger:
        reconcile_models(settings, ledger)
        (row,) = ledger.models.in_state("active")
        folder = active_model(settings, ledger).folder
        if folder is not None:
            check_files(folder, row.files)
        for folder in ModelFiles(settings.models_dir, 0).folders() if settings.models_dir.is_dir() else ():
            other = ledger.models.get(folder.name)
            assert other is not None
            check_files(folder, other.files)  # half a model never stands
    with sqlite3.connect(settings.ledger_path) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    base.close()
    return row.version


def test_a_ledger_that_was_lost_finds_its_models_again(station: Station, tmp_path: Path) -> None:
    unit = unit_of(station.model("2.0", scale=2.0))
    raw = (station.keys / LIST_FILE).read_bytes()
    model, root = write_model(tmp_path / "model"), station.keys / "1.root.json"
    settings = read_settings(data_dir=tmp_path / "data", model=str(model), disk_reserve_bytes=0, trust_root=root)
    fly(settings, raw, unit)
    settings.ledger_path.unlink()
    for beside in settings.data_dir.glob("ledger.sqlite-*"):
        beside.unlink()
    with Ledger(settings.ledger_path) as ledger:
        reconcile_models(settings, ledger)
        states = {row.version: row.state for row in ledger.models.all()}
        assert states == {"1.0": "active", "2.0": "received"}  # it is verified again before it may fly
        assert "model-adopted" in [event.kind for event in ledger.events.page()]


def test_an_activation_that_the_ledger_lost_is_known_to_the_high_water_mark(station: Station, tmp_path: Path) -> None:
    unit = unit_of(station.model("2.0", scale=2.0))
    raw = (station.keys / LIST_FILE).read_bytes()
    model, root = write_model(tmp_path / "model"), station.keys / "1.root.json"
    settings = read_settings(data_dir=tmp_path / "data", model=str(model), disk_reserve_bytes=0, trust_root=root)
    fly(settings, raw, unit)
    with Ledger(settings.ledger_path) as ledger:
        shipped = next(row.id for row in ledger.models.all() if row.origin == "shipped")
        ledger.models.activate(shipped, "by a test")
        ledger.checkpoint(wait_s=5)
        before = settings.ledger_path.read_bytes()
        ledger.models.activate(unit.digest, "by a test")
    settings.ledger_path.write_bytes(before)  # as where its log was lost
    with Ledger(settings.ledger_path) as ledger:
        assert ledger.models.active_id() == shipped
        reconcile_models(settings, ledger)
        assert ledger.models.active_id() == unit.digest
        assert "ledger-restored" in [event.kind for event in ledger.events.page()]


def test_a_folder_that_is_gone_is_no_model(station: Station, tmp_path: Path) -> None:
    unit = unit_of(station.model("2.0", scale=2.0))
    raw = (station.keys / LIST_FILE).read_bytes()
    model, root = write_model(tmp_path / "model"), station.keys / "1.root.json"
    settings = read_settings(data_dir=tmp_path / "data", model=str(model), disk_reserve_bytes=0, trust_root=root)
    fly(settings, raw, unit)
    shutil.rmtree(settings.models_dir / "units" / unit.digest)
    with Ledger(settings.ledger_path) as ledger:
        reconcile_models(settings, ledger)
        assert {row.version: row.state for row in ledger.models.all()} == {"1.0": "active", "2.0": "retired"}
        assert "model-missing" in [event.kind for event in ledger.events.page()]
