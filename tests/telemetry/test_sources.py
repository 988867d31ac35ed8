"""Sources on file trees made here after ../shared/design/hardware.md: no recording, so named made_*."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry.discover import sources
from telemetry.readings import Reading
from telemetry.sources.ina3221 import Ina3221
from telemetry.sources.rapl import Rapl, counter_step_j
from telemetry.sources.thermal import Thermal
from tests.telemetry.trees import write

HWMON = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/"


def made_orin_nx(root: Path, **changes: str) -> Path:
    files = {
        "in1_label": "VDD_IN\n", "in1_input": "19000\n", "curr1_input": "1000\n",
        "in2_label": "VDD_CPU_GPU_CV\n", "in2_input": "19008\n", "curr2_input": "512\n",
        "in3_label": "VDD_SOC\n", "in3_input": "19000\n", "curr3_input": "200\n",
        "in4_label": "Sum of shunt voltages\n", "in4_input": "9\n",
    }  # fmt: skip
    return write(root, {HWMON + name: text for name, text in (files | changes).items()})


def test_ina3221_gives_watts_of_each_rail_and_no_sum_channel(tmp_path: Path) -> None:
    source = Ina3221(made_orin_nx(tmp_path))
    power = {reading.rail: reading.value for reading in source.read()}
    assert power == {"VDD_IN": 19.0, "VDD_CPU_GPU_CV": pytest.approx(9.732096), "VDD_SOC": pytest.approx(3.8)}
    assert source.state().rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")


@pytest.mark.parametrize("garbled", ["", "abc\n"])
def test_a_garbled_channel_has_a_reason_and_not_zero(tmp_path: Path, garbled: str) -> None:
    readings = Ina3221(made_orin_nx(tmp_path, curr1_input=garbled)).read()
    first = next(reading for reading in readings if reading.rail == "VDD_IN")
    assert first.value is None
    assert "curr1_input" in first.reason
    assert all(reading.value for reading in readings if reading is not first)


@pytest.mark.parametrize("garbled", ["4294967295\n", "-32768\n"])
def test_a_current_that_no_board_draws_is_none(tmp_path: Path, garbled: str) -> None:
    """One sample of it would be a whole orbit's energy to the governor."""
    readings = {one.rail: one for one in Ina3221(made_orin_nx(tmp_path, curr1_input=garbled)).read()}
    assert readings["VDD_IN"].value is None
    assert readings["VDD_IN"].reason.startswith("in1_input x curr1_input: says ")
    assert readings["VDD_SOC"].value == pytest.approx(3.8)


def test_a_current_just_below_zero_is_noise(tmp_path: Path) -> None:
    readings = {one.rail: one for one in Ina3221(made_orin_nx(tmp_path, curr3_input="-8\n")).read()}
    assert readings["VDD_SOC"].value == pytest.approx(-0.152)


def test_a_vanished_file_has_a_reason(tmp_path: Path) -> None:
    made_orin_nx(tmp_path)
    (tmp_path / HWMON / "in2_input").unlink()
    reading = next(reading for reading in Ina3221(tmp_path).read() if reading.rail == "VDD_CPU_GPU_CV")
    assert (reading.value, reading.reason) == (None, "in2_input: no such file or directory")


def made_rapl(root: Path, energy: str) -> Path:
    folder = "sys/class/powercap/intel-rapl:0/"
    files = {"name": "package-0\n", "energy_uj": energy, "max_energy_range_uj": "262143328850\n"}
    return write(root, {folder + name: text for name, text in files.items()})


def test_rapl_gives_joules_and_its_range(tmp_path: Path) -> None:
    source = Rapl(made_rapl(tmp_path, "5000000\n"))
    (counter, power) = source.read()
    assert (counter.quantity, counter.rail, counter.value) == ("energy_j", "package-0", 5.0)
    assert (power.quantity, power.value, power.reason) == ("power_w", None, "a counter's first reading")
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("9000000\n")
    again, power = source.read()
    between = again.at.monotonic_s - counter.at.monotonic_s
    assert power.value == pytest.approx(4.0 / between)
    assert source.range_j() == {"package-0": pytest.approx(262143.32885)}


def test_a_counter_that_wrapped_counts_on() -> None:
    assert counter_step_j(10.0, 12.5, 100.0) == 2.5
    assert counter_step_j(99.0, 1.0, 100.0) == 2.0


def test_a_counter_that_was_set_back_is_no_wrap(tmp_path: Path) -> None:
    """After sleep a package's counter begins at 0: a wrap would be 262 kJ in a moment, and an orbit's energy gone."""
    source = Rapl(made_rapl(tmp_path, "9000000\n"))
    energy = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    source.read()
    energy.write_text("1000000\n")
    power = source.read()[1]
    assert (power.value, power.reason) == (None, "the counter was set back")
    energy.write_text("1000100\n")
    assert (source.read()[1].value or 0) > 0
    source.close()
    # A real wrap: near the range before, near 0 after it.
    source = Rapl(made_rapl(tmp_path, "262143328800\n"))
    source.read()
    energy.write_text("50\n")
    power = source.read()[1]
    assert power.value is not None
    assert 0 < power.value < 10_000


def test_no_power_is_told_across_a_silence(tmp_path: Path) -> None:
    """A process that was stopped for an hour cannot know how often the counter wrapped."""
    source = Rapl(made_rapl(tmp_path, "5000000\n"))
    source.read()
    ((rail, (at_s, joules)),) = source._before.items()
    source._before[rail] = (at_s - 3600, joules)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("9000000\n")
    power = source.read()[1]
    assert power.value is None
    assert "after a silence" in power.reason
    assert source.read()[1].value == 0


def test_zones_of_one_name_on_two_sockets_are_two_rails(tmp_path: Path) -> None:
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:1": "package-1",
        "intel-rapl:0:0": "dram",
        "intel-rapl:1:0": "dram",
    }
    energies = {"intel-rapl:0": 1, "intel-rapl:1": 2, "intel-rapl:0:0": 5, "intel-rapl:1:0": 90}
    for folder, name in zones.items():
        zone = f"sys/class/powercap/{folder}/"
        write(tmp_path, {zone + "name": name, zone + "energy_uj": f"{energies[folder]}000000\n"})
    source = Rapl(tmp_path)
    counters = {reading.rail: reading.value for reading in source.read() if reading.quantity == "energy_j"}
    assert counters == {"package-0": 1.0, "package-1": 2.0, "dram": 5.0, "dram-2": 90.0}
    powers = {reading.rail: reading.value for reading in source.read() if reading.quantity == "power_w"}
    assert powers == dict.fromkeys(counters, 0.0)


def test_a_counter_that_fell_without_a_known_range_gives_no_power(tmp_path: Path) -> None:
    made_rapl(tmp_path, "9000000\n")
    folder = tmp_path / "sys/class/powercap/intel-rapl:0"
    (folder / "max_energy_range_uj").unlink()
    source = Rapl(tmp_path)
    source.read()
    (folder / "energy_uj").write_text("1000000\n")
    power = source.read()[1]
    assert power.value is None
    assert "range is not known" in power.reason
    (folder / "energy_uj").write_text("2000000\n")
    assert (source.read()[1].value or 0) > 0


def test_forbidden_rapl_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, whom no mode keeps out.
    monkeypatch.setattr("telemetry.sources.rapl.readable", lambda _path: False)
    state = Rapl(made_rapl(tmp_path, "1\n")).state()
    assert not state.found
    assert "root only" in state.problem


def made_zones(root: Path) -> Path:
    zones = {0: ("cpu-thermal", "47250"), 1: ("tj-thermal", ""), 2: ("gpu-thermal", "51000"), 3: ("off", "-256000")}
    return write(
        root,
        {
            f"sys/class/thermal/thermal_zone{number}/{name}": text
            for number, zone in zones.items()
            for name, text in zip(("type", "temp"), zone, strict=True)
        },
    )


def test_the_hottest_valid_zone_counts(tmp_path: Path) -> None:
    source = Thermal(made_zones(tmp_path))
    hottest = source.hottest()
    assert (hottest.rail, hottest.value) == ("gpu-thermal", 51.0)
    assert source.state().rails == ("cpu-thermal", "gpu-thermal")


def test_an_empty_machine_has_no_source_and_every_one_says_why(tmp_path: Path) -> None:
    for source in sources(tmp_path):
        state = source.state()
        assert not state.found
        assert state.problem
        assert state.remedy
        assert all(reading.value is None and reading.reason for reading in source.read())
    assert Thermal(tmp_path).hottest().value is None


@pytest.mark.parametrize(("value", "reason"), [(None, ""), (1.0, "broken")])
def test_a_reading_has_a_value_or_a_reason(value: float | None, reason: str) -> None:
    with pytest.raises(ValueError, match="not both and not neither"):
        Reading("power_w", value, "ina3221", "VDD_IN", reason=reason)
