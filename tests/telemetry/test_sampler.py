from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from telemetry.readings import Reading, SourceState
from telemetry.sampler import Sample, Sampler
from telemetry.sources.ina3221 import Ina3221
from telemetry.sources.sysfs import RETRY_S
from telemetry.sources.thermal import Thermal
from tests.telemetry.trees import orin_nx


class _Made:
    """A source that says what the test wants."""

    def __init__(self, name: str, period_s: float) -> None:
        self.name, self.period_s = name, period_s
        self.asked = 0
        self.value: float | None = 10.0
        self.rails: tuple[str, ...] = (name,)

    def read(self) -> list[Reading]:
        self.asked += 1
        reason = "" if self.value is not None else "gone"
        return [Reading("power_w", self.value, self.name, rail, reason=reason) for rail in self.rails]

    def state(self) -> SourceState:
        return SourceState(self.name, (self.name,))

    def close(self) -> None: ...


def test_each_source_is_asked_at_its_own_pace() -> None:
    now = [0.0]
    fast, slow = _Made("fast", 0.1), _Made("slow", 1.0)
    sampler = Sampler([fast, slow], 0.1, clock=lambda: now[0])
    for _ in range(100):
        sampler.turn()
        now[0] += 0.1
    assert fast.asked == 100
    assert slow.asked == 10


def test_of_two_sources_of_one_field_the_first_counts_while_it_measures() -> None:
    """On a Jetson whose power modes may be set, jtop reads the chip that the INA3221 source reads too."""
    now = [0.0]
    chip, service = _Made("chip", 0.1), _Made("service", 1.0)
    chip.rails = service.rails = ("VDD_IN",)
    service.value = 12.0
    sampler = Sampler([chip, service], 0.1, clock=lambda: now[0])

    def turns(count: int) -> set[tuple[str, float | None]]:
        seen = set()
        for _ in range(count):
            sampler.turn()
            now[0] += 0.1
            seen.add((sampler.latest["power_w:VDD_IN"].source, sampler.latest["power_w:VDD_IN"].value))
        return seen

    assert turns(50) == {("chip", 10.0)}
    assert sampler.measuring == {"chip": True, "service": True}
    assert sampler.energy["power_w:VDD_IN"].joules == pytest.approx(10.0 * 4.9)
    chip.value = None  # its driver was taken away
    turns(15)
    before = sampler.energy["power_w:VDD_IN"]
    assert turns(50) == {("service", 12.0)}
    assert sampler.measuring == {"chip": False, "service": True}
    since = sampler.energy["power_w:VDD_IN"].since(before)
    assert since.joules == pytest.approx(12.0 * since.covered_s)
    assert since.covered_s == pytest.approx(5.0, abs=1.1)
    chip.value = 10.0
    turns(1)
    assert turns(50) == {("chip", 10.0)}
    service.value = None
    assert turns(50) == {("chip", 10.0)}


def test_a_late_sample_says_how_late_and_its_time_is_no_energy() -> None:
    now = [0.0]
    sampler = Sampler([_Made("a", 0.1)], 0.1, clock=lambda: now[0])
    samples = []
    for step in (0.1, 0.1, 2.0, 0.1):
        samples.append(sampler.turn())
        now[0] += step
    samples.append(sampler.turn())
    assert [round(one.gap_s, 3) for one in samples] == [0, 0, 0, 2.0, 0]
    energy = sampler.energy["power_w:a"]
    assert energy.joules == pytest.approx(10.0 * 0.3)
    assert energy.gap_s == pytest.approx(2.0)


def test_what_is_missing_is_no_value_and_comes_back() -> None:
    now = [0.0]
    source = _Made("a", 0.1)
    sampler = Sampler([source], 0.1, clock=lambda: now[0])
    sampler.turn()
    source.value = None
    now[0] += 0.1
    assert sampler.turn().values() == {}
    assert sampler.latest["power_w:a"].reason == "gone"
    source.value = 5.0
    now[0] += 0.1
    assert sampler.turn().values() == {"power_w:a": 5.0}


def test_what_a_source_is_silent_about_is_no_value_any_more() -> None:
    now = [0.0]
    source = _Made("a", 0.1)
    source.rails = ("left", "right")
    sampler = Sampler([source], 0.1, clock=lambda: now[0])
    for rails in (("left", "right"), ("left", "right"), ("left",), ("left", "right"), (), ("left", "right")):
        source.rails = rails
        sample = sampler.turn()
        assert {rail: sampler.latest[f"power_w:{rail}"].value is not None for rail in ("left", "right")} == {
            rail: rail in rails for rail in ("left", "right")
        }
        assert set(sample.values()) == {f"power_w:{rail}" for rail in rails}
        now[0] += 0.1
    right = sampler.latest["power_w:right"]
    assert (right.value, right.reason) == (10.0, "")
    # A silence is a gap however short: nothing is drawn across it. What was measured is from 0.0 to 0.1 s.
    assert sampler.energy["power_w:right"].gap_s == pytest.approx(0.4)
    assert sampler.energy["power_w:right"].joules == pytest.approx(10.0 * 0.1)


def test_silence_has_a_reason() -> None:
    source = _Made("a", 0.0)
    sampler = Sampler([source], 0.1, clock=iter(range(9)).__next__)
    sampler.turn()
    source.rails = ()
    (told,) = sampler.turn().readings
    assert (told.value, told.source, told.rail) == (None, "a", "a")
    assert told.reason == "a no longer reports it"


def test_a_source_whose_turn_it_is_not_is_not_silent() -> None:
    now = [0.0]
    fast, slow = _Made("fast", 0.1), _Made("slow", 1.0)
    sampler = Sampler([fast, slow], 0.1, clock=lambda: now[0])
    while now[0] < 0.8:
        sampler.turn()
        assert sampler.latest["power_w:slow"].value == 10.0
        now[0] += 0.1
    slow.rails = ()
    now[0] = 1.0
    sampler.turn()
    assert sampler.latest["power_w:slow"].value is None
    assert sampler.latest["power_w:fast"].value == 10.0


def test_a_rail_that_another_source_goes_on_measuring_is_not_lost() -> None:
    now = [0.0]
    first, second = _Made("first", 0.1), _Made("second", 0.1)
    first.rails = second.rails = ("VDD_IN",)
    sampler = Sampler([first, second], 0.1, clock=lambda: now[0])
    sampler.turn()
    second.rails = ()
    for _ in range(3):
        now[0] += 0.1
        sampler.turn()
    assert (sampler.latest["power_w:VDD_IN"].value, sampler.latest["power_w:VDD_IN"].source) == (10.0, "first")


def test_a_zone_that_is_gone_when_files_are_looked_for_again_measures_nothing(tmp_path: Path) -> None:
    orin_nx(tmp_path)
    now = [0.0]
    sampler = Sampler([Thermal(tmp_path, lambda: now[0])], 1.0, clock=lambda: now[0])
    sampler.turn()
    assert sampler.latest["temperature_c:cpu-thermal"].value == 48.5
    shutil.rmtree(tmp_path / "sys/class/thermal/thermal_zone0")
    now[0] = RETRY_S
    sampler.turn()
    assert sampler.latest["temperature_c:cpu-thermal"].value is None
    assert sampler.latest["temperature_c:gpu-thermal"].value == 46.25


def test_it_runs_in_a_thread_and_tells_its_listeners(tmp_path: Path) -> None:
    orin_nx(tmp_path)
    enough = threading.Event()
    samples: list[Sample] = []

    def listen(sample: Sample) -> None:
        samples.append(sample)
        if len(samples) == 20:
            enough.set()

    sampler = Sampler([Ina3221(tmp_path), Thermal(tmp_path)], 0.01, [listen])
    thread = sampler.start()
    assert enough.wait(30)
    sampler.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert samples[0].values()["power_w:VDD_IN"] == pytest.approx(19.0)
    energy = sampler.energy["power_w:VDD_IN"]
    assert energy.joules == pytest.approx(19.0 * energy.covered_s)
