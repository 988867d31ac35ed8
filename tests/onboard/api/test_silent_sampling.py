from __future__ import annotations

from pathlib import Path

import pytest

from onboard.api import telemetry
from onboard.api.service import Service
from onboard.api.telemetry import snapshot
from onboard.jobs.mapping_config import MappingConfig
from onboard.power.receiver import TelemetryMessage
from onboard.settings import read_settings
from tests.tiny_model import write_model


def test_nothing_of_a_silent_sampling_process_is_shown_as_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    settings = read_settings(data_dir=tmp_path / "data", model=str(write_model(tmp_path / "model")))
    service = Service(settings, MappingConfig.of(settings))
    try:
        before = snapshot(service).power
        assert (before.throttling, before.mode, before.hottest_c, before.power_w) == (None, None, None, None)
        readings: list[list[str | float | None]] = [["power_w", "VDD_IN", "ina3221", 19.0, ""]]
        message = TelemetryMessage(
            readings=readings, main="power_w:VDD_IN", hottest_c=48.5, throttling=True, mode="MAXN", idle_w=5.0
        )
        service.telemetry.take(message.line())
        now = snapshot(service).power
        assert (now.throttling, now.mode, now.hottest_c, now.power_w) == (True, "MAXN", 48.5, 19.0)
        monkeypatch.setattr(telemetry, "STALE_S", -1.0)
        stale = snapshot(service).power
        assert (stale.throttling, stale.mode, stale.hottest_c, stale.power_w, stale.net_w) == (None,) * 5
        assert "silent" in stale.reason
        assert (stale.rail, stale.idle_w) == ("VDD_IN", 5.0)  # these do not change with time
    finally:
        service.close()
