from __future__ import annotations

from pathlib import Path
from typing import Any

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
    (tmp_path / "memory").write_text("torn")
    assert attempt()


def test_no_command_and_one_that_is_not_there_do_nothing(tmp_path: Path) -> None:
    assert not Recovery(None, 1.0, tmp_path / "memory").attempt()
    assert not Recovery("/no/such/program", 1.0, tmp_path / "memory").attempt()
    assert not Recovery("'unclosed", 0.0, tmp_path / "memory").attempt()
