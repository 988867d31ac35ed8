"""Answers while a database aboard is damaged or busy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from onboard.api.app import app_of
from onboard.api.problems import kind_of
from onboard.api.service import Service
from onboard.errors import LedgerBusy, LedgerDamaged
from onboard.jobs.mapping_config import MappingConfig
from onboard.settings import read_settings
from telemetry.history import History
from tests.tiny_model import write_model


@pytest.fixture
def service(tmp_path: Path) -> Service:
    settings = read_settings(data_dir=tmp_path / "data", model=str(write_model(tmp_path / "model")))
    return Service(settings, MappingConfig.of(settings))


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_damaged_history_is_an_empty_page(
    service: Service, serve: Callable[[FastAPI], httpx.Client], form: str
) -> None:
    path = service.settings.telemetry_dir / "history.sqlite"
    history = History(path)
    for _ in range(100):
        history.add({"power_w:VDD_IN": 10.0})
    history.close()
    client = serve(app_of(service))
    asked = {"step": "0", "format": form}
    whole = client.get("/telemetry/history", params=asked)
    assert (whole.status_code, "Onboard-Problem" in whole.headers) == (200, False)
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 40_000)
    answer = client.get("/telemetry/history", params=asked)
    assert (answer.status_code, "Onboard-Problem" in answer.headers) == (200, True)
    assert len(answer.content) < len(whole.content)
    service.close()


def test_a_ledger_that_is_busy_or_damaged_is_worth_another_try() -> None:
    for error in (LedgerBusy(Path("x"), "locked"), LedgerDamaged(Path("x"), "malformed")):
        assert kind_of(error).status == 503


def test_a_request_that_finds_the_ledger_damaged_has_it_built_again(
    service: Service, serve: Callable[[FastAPI], httpx.Client]
) -> None:
    service.ledger.events.log("info", "told", "x")
    service.close()
    path = service.settings.ledger_path
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    answer = serve(app_of(service)).get("/events")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:onboard:problem:ledger-damaged")
    assert answer.headers["Retry-After"] == "5"
    assert "/" not in answer.json()["detail"]
    assert service.is_damaged
    assert service.wake.is_set()
    service.close()
