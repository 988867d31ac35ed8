"""What a bench draws on a machine that has nothing but counters of energy (a made file tree)."""

from __future__ import annotations

import time
from pathlib import Path

from engines.profiling.power import power_meter
from tests.telemetry.trees import write

ZONE = "sys/class/powercap/intel-rapl:0/"


def test_a_counter_of_energy_is_enough(tmp_path: Path) -> None:
    write(tmp_path, {ZONE + "name": "package-0\n", ZONE + "energy_uj": "5000000\n"})
    with power_meter(tmp_path) as meter:
        assert meter is not None
        (tmp_path / ZONE / "energy_uj").write_text("9000000\n")
        deadline = time.monotonic() + 60
        while not meter.joules() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (meter.joules() or 0) > 0


def test_a_machine_without_sensors_has_no_meter(tmp_path: Path) -> None:
    with power_meter(tmp_path) as meter:
        assert meter is None
