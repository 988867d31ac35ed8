"""What a bench draws on a machine that has nothing but counters of energy (a made file tree)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engines.profiling.power import joules_between, power_meter
from telemetry.energy import Energy
from tests.telemetry.trees import write

ZONE = "sys/class/powercap/intel-rapl:0/"


def test_a_counter_of_energy_is_enough(tmp_path: Path) -> None:
    write(tmp_path, {ZONE + "name": "package-0\n", ZONE + "energy_uj": "5000000\n"})
    with power_meter(tmp_path) as meter:
        assert meter is not None
        (tmp_path / ZONE / "energy_uj").write_text("9000000\n")
        deadline = time.monotonic() + 60
        while not meter.energy().joules and time.monotonic() < deadline:
            time.sleep(0.05)
        assert meter.energy().joules > 0


def test_a_machine_without_sensors_has_no_meter(tmp_path: Path) -> None:
    with power_meter(tmp_path) as meter:
        assert meter is None


def test_what_was_hardly_measured_is_no_figure() -> None:
    """A sensor that vanishes, or a bench shorter than a sample: what was counted is not what was drawn."""
    before = Energy(100.0, 5.0, 0.0, 20.0)
    assert joules_between(before, Energy(300.0, 15.0, 0.0, 20.0), 10.0) == pytest.approx(200.0)
    assert joules_between(before, Energy(260.0, 13.0, 2.0, 20.0), 10.0) == pytest.approx(200.0)
    assert joules_between(before, Energy(140.0, 7.0, 8.0, 20.0), 10.0) is None
    assert joules_between(before, before, 0.05) is None
