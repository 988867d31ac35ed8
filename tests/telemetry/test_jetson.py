"""Every source on the made trees of JetPack 5 and 6, and what happens when files go and come."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry.discover import is_jetson, main_rail, measured_period_s, scope_of, sources
from telemetry.readings import Reading
from telemetry.sources.gpu import Gpu
from telemetry.sources.ina3221 import Ina3221
from telemetry.sources.nvpmodel import power_mode, power_modes
from telemetry.sources.processor import Processor
from telemetry.sources.sysfs import RETRY_S
from telemetry.sources.thermal import Thermal
from telemetry.sources.throttle import OverCurrent, Throttle
from tests.telemetry.trees import HWMON, OC, orin_nx, write


@pytest.fixture(params=[5, 6])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return orin_nx(tmp_path, request.param)


def values(readings: list[Reading]) -> dict[str, float | None]:
    return {f"{one.quantity}:{one.rail}": one.value for one in readings}


def test_power_of_three_rails_and_which_one_counts(board: Path) -> None:
    readings = Ina3221(board).read()
    assert values(readings) == {
        "power_w:VDD_IN": pytest.approx(19.0), "power_w:VDD_CPU_GPU_CV": pytest.approx(9.732096),
        "power_w:VDD_SOC": pytest.approx(3.8),
    }  # fmt: skip
    best = main_rail(readings)
    assert best is not None
    assert (best.rail, scope_of(best)) == ("VDD_IN", "module")
    assert scope_of(readings[1]) == "part"


def test_heat_without_zones_that_are_off(board: Path) -> None:
    source = Thermal(board)
    readings = {one.rail.lower().split("-")[0]: one for one in source.read()}
    assert readings["cpu"].value == pytest.approx(48.5)
    assert readings["cv0"].value is None
    assert "-256" in readings["cv0"].reason
    assert source.hottest().value == pytest.approx(48.5 if readings["tj"].value is None else 49.0)


def test_load_clock_counters_and_mode(board: Path) -> None:
    assert values(Gpu(board).read()) == {"clock_hz:gpu": 918e6, "load:gpu": pytest.approx(0.873)}
    assert values(OverCurrent(board).read()) == {f"over_current_events:oc{number}": 0.0 for number in (1, 2, 3)}
    assert values(Throttle(board).read()) == {
        f"throttle_state:{name}": 0.0 for name in ("gpu-throttle-alert", "cpu-throttle-alert", "hot-surface-alert")
    }
    assert values(Processor(board).read()) == {"clock_hz:cpu": 1.984e9, "memory_bytes:available": 11240000 * 1024}
    assert power_mode(board) == ("25W", "")
    assert power_modes(board) == {0: "MAXN", 1: "10W", 2: "15W", 3: "25W"}
    assert is_jetson(board)
    assert all(source.state().found for source in sources(board) if source.name != "rapl")


def test_a_mode_that_the_table_lacks_or_a_status_that_says_nothing_is_told(board: Path) -> None:
    write(board, {"var/lib/nvpmodel/status": "pmode:0009\n"})
    assert power_mode(board) == (None, "etc/nvpmodel.conf has no mode 9")
    write(board, {"var/lib/nvpmodel/status": "garbled\n"})
    assert power_mode(board)[0] is None
    (board / "var/lib/nvpmodel/status").unlink()
    assert power_mode(board) == (None, "var/lib/nvpmodel/status: no such file or directory")


def test_a_source_that_was_lost_is_found_again(tmp_path: Path) -> None:
    now = [0.0]
    source = Ina3221(tmp_path, clock=lambda: now[0])
    assert source.read() == []
    assert "no INA3221" in source.state().problem
    orin_nx(tmp_path, 6)
    assert source.read() == []  # nobody searches at ten hertz
    now[0] += RETRY_S
    assert len(source.read()) == 3
    (tmp_path / HWMON.format(4)).rename(tmp_path / HWMON.format(4).replace("hwmon4", "hwmon7"))
    now[0] += RETRY_S
    assert [one.value for one in source.read()] == [pytest.approx(19.0), pytest.approx(9.732096), pytest.approx(3.8)]


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, whom no mode keeps out.
    import os

    whole = os.open

    def forbidden(path: object, *rest: int) -> int:
        if str(path).endswith("curr1_input"):
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", forbidden)
    first, second, _ = Ina3221(orin_nx(tmp_path)).read()
    assert (first.value, first.reason) == (None, "curr1_input: permission denied")
    assert second.value is not None


def test_a_counter_that_is_garbled_is_no_event(tmp_path: Path) -> None:
    write(orin_nx(tmp_path), {OC + "oc1_event_cnt": "-1\n", OC + "oc2_event_cnt": "x\n"})
    assert [one.value for one in OverCurrent(tmp_path).read()] == [None, None, 0.0]


class _Steps:
    """A sensor that has a new value every tenth of a second."""

    name, period_s = "steps", 0.1

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> list[Reading]:
        return [Reading("power_w", float(int(self.now * 10 + 1e-9)), "steps", "x")]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_how_often_a_sensor_changes_is_measured() -> None:
    sensor = _Steps()
    found = measured_period_s(sensor, clock=lambda: sensor.now, sleep=sensor.sleep)  # type: ignore[arg-type]
    assert found == pytest.approx(0.1, abs=0.005)


def test_a_sensor_that_does_not_change_has_no_period(tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert measured_period_s(Ina3221(orin_nx(tmp_path)), clock=lambda: now[0], sleep=sleep) is None
