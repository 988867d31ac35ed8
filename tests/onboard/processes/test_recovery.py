from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from onboard.processes.recovery import Recovery
from tests.onboard.service import until


def test_a_command_is_run_no_more_often_than_set_over_restarts_and_reboots(tmp_path: Path) -> None:
    now: dict[str, Any] = {"boot_id": "one", "uptime_s": 10.0}

    def attempt() -> bool:
        # A new one each time, as after a restart of the worker.
        return Recovery(f"touch {tmp_path}/run", 1.0, tmp_path / "memory", lambda: now).attempt()

    assert attempt()
    until((tmp_path / "run").exists, "it did not run")
    now["uptime_s"] = 69.0
    assert not attempt()
    now["uptime_s"] = 70.0
    assert attempt()
    now.update(boot_id="two", uptime_s=59.0)
    assert not attempt()
    now["uptime_s"] = 60.0
    assert attempt()
    assert not attempt()
    for damaged in ("torn", "[]", "{}", '{"boot_id": "two"}', '{"boot_id": "two", "uptime_s": null}'):
        (tmp_path / "memory").write_text(damaged)
        assert attempt(), damaged


def test_the_run_is_noted_durably_before_the_command_may_reset_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable: set[int] = set()
    sync, spawn = os.fsync, os.posix_spawnp

    def synced(descriptor: int) -> None:
        sync(descriptor)
        durable.add(os.fstat(descriptor).st_ino)

    def spawned(*words: Any, **more: Any) -> int:
        # What a hard reset would keep at this moment: the file's bytes, and its name in the folder.
        kept = {path.stat().st_ino for path in (tmp_path / "memory", tmp_path)}
        assert kept <= durable
        assert json.loads((tmp_path / "memory").read_text())["uptime_s"] == 10.0
        return spawn(*words, **more)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "posix_spawnp", spawned)
    now = {"boot_id": "one", "uptime_s": 10.0}
    assert Recovery("true", 1.0, tmp_path / "memory", lambda: now).attempt()


def test_a_run_that_cannot_be_noted_is_not_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not Recovery(f"touch {tmp_path}/run", 1.0, tmp_path / "folder" / "memory").attempt()
    assert "its time cannot be noted" in caplog.text
    assert not (tmp_path / "run").exists()


def test_no_command_and_one_that_is_not_there_do_nothing(tmp_path: Path) -> None:
    assert not Recovery(None, 1.0, tmp_path / "memory").attempt()
    assert not Recovery("/no/such/program", 1.0, tmp_path / "memory").attempt()
    assert not Recovery("'unclosed", 0.0, tmp_path / "memory").attempt()
