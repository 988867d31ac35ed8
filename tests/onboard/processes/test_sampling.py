"""The sampling process's work, a turn at a time, without the process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from onboard.jobs.ledger import Ledger
from onboard.power.governor import Governor, Limits, Measurement, makes_wait
from onboard.power.receiver import TelemetryMessage, telemetry_message_of
from onboard.processes.heartbeat import Heartbeat
from onboard.processes.sampling import Sampling, _is_working
from onboard.settings import Settings
from telemetry.history import History
from telemetry.readings import Reading, SourceState
from telemetry.sampler import Sampler
from telemetry.sources.ina3221 import Ina3221
from telemetry.sources.jtop import Jtop
from tests.telemetry.trees import orin_nx


class Hanging:
    """Power and heat of a module by a process that may hang: then there is nothing to read, as with jtop."""

    name, period_s = "jtop", 1.0

    def __init__(self) -> None:
        self.hangs = False
        self.throttled: dict[str, float] = {}

    def read(self) -> list[Reading]:
        told = [("power_w", 31.0, "VDD_IN"), ("temperature_c", 55.0, "tj")]
        told += [("throttle_state", value, rail) for rail, value in self.throttled.items()]
        return [] if self.hangs else [Reading(quantity, value, self.name, rail) for quantity, value, rail in told]

    def state(self) -> SourceState:
        if self.hangs:
            return SourceState(self.name, problem="jtop has been silent for 5 s")
        return SourceState(self.name, ("VDD_IN", "tj"))

    def close(self) -> None: ...


@dataclass
class Bench:
    """Sampling by a clock that tests push on."""

    source: Hanging
    sampler: Sampler
    ledger: Ledger
    governor: Governor
    pipe: int
    sampling: Sampling = field(init=False)
    now_s: float = 0.0

    def run_for(self, seconds: int) -> TelemetryMessage:
        """Turns, one a second, of which the governor hears as the worker lets it; gives the last line."""
        told = None
        for _ in range(seconds):
            self.now_s += 1.0
            self.sampler.turn()
            told = telemetry_message_of(os.read(self.pipe, 1 << 16))
            assert told is not None
            self.governor.add_measurement(Measurement(told.monotonic_s, told.main_power_w(), told.hottest_c))
        assert told is not None
        return told

    def events(self) -> list[tuple[str, str]]:
        return [(event.kind, event.text) for event in self.ledger.events.page()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    reading, writing = os.pipe()
    settings = Settings(data_dir=tmp_path, telemetry_root=tmp_path)
    with Ledger(settings.ledger_path) as ledger:
        source = Hanging()
        history = History(Path(":memory:"))
        made = Bench(source, Sampler([source], 1.0), ledger, Governor(Limits(hot_c=80.0, mean_w=40.0)), reading)
        made.sampler.clock = lambda: made.now_s
        made.sampling = Sampling(settings, made.sampler, history, ledger, writing)
        yield made
        history.close()
    os.close(reading)
    os.close(writing)


def test_the_governor_is_blind_once_its_source_is_silent_and_sees_again_when_it_speaks(bench: Bench) -> None:
    told = bench.run_for(10)
    assert (told.main_power_w(), told.hottest_c) == (31.0, 55.0)
    assert bench.governor.decide(bench.now_s).state == "working"
    bench.source.hangs = True
    told = bench.run_for(20)
    assert (told.main_power_w(), told.hottest_c) == (None, None)
    decision = bench.governor.decide(bench.now_s)
    assert (decision.state, decision.why[:20]) == ("blind", "power cannot be read")
    bench.source.hangs = False
    told = bench.run_for(2)
    assert (told.main_power_w(), told.hottest_c) == (31.0, 55.0)
    assert "blind" not in bench.governor.decide(bench.now_s + 1).state


def test_a_source_that_falls_silent_is_lost_and_says_why(bench: Bench) -> None:
    bench.run_for(3)
    assert bench.events() == []
    bench.source.hangs = True
    told = bench.run_for(20)
    lost = ("source-lost", "jtop measures nothing any more: jtop has been silent for 5 s")
    assert bench.events() == [lost]
    assert told.sources == {"jtop": "jtop has been silent for 5 s"}
    assert {row[3] for row in told.readings} == {None}
    assert all(row[4] for row in told.readings)
    bench.source.hangs = False
    bench.run_for(2)
    assert bench.events() == [lost, ("source-found", "jtop measures again")]


def test_jtop_beside_the_chip_that_it_reads_loses_no_source(bench: Bench, tmp_path: Path) -> None:
    """Both report VDD_IN; jtop is started beside the chip where power modes may be set."""
    bench.sampler.sources = [Ina3221(orin_nx(tmp_path / "board")), bench.source]
    bench.sampler.__post_init__()
    told = bench.run_for(10)
    assert told.main_power_w() == 19.0
    assert told.sources == {"ina3221": "", "jtop": ""}
    assert bench.events() == []
    bench.source.hangs = True
    bench.run_for(10)
    assert [kind for kind, _ in bench.events()] == ["source-lost"]


def test_a_narrower_rail_takes_no_wider_ones_place(bench: Bench) -> None:
    """A limit for the machine is not kept by what its GPU draws: the governor is blind instead."""

    class Rail(Hanging):
        def __init__(self, name: str, rail: str, watts: float) -> None:
            super().__init__()
            self.name, self.rail, self.watts = name, rail, watts

        def read(self) -> list[Reading]:
            return [] if self.hangs else [Reading("power_w", self.watts, self.name, self.rail)]

    package, gpu = Rail("rapl", "package-0", 60.0), Rail("nvml", "gpu-0", 20.0)
    bench.sampler.sources = [package, gpu]
    bench.sampler.__post_init__()
    assert bench.run_for(20).main_power_w() == 60.0
    package.hangs = True
    told = bench.run_for(30)
    assert (told.main, told.main_power_w()) == ("power_w:package-0", None)
    package.hangs = False
    assert bench.run_for(20).main_power_w() == 60.0


def test_a_power_mode_that_could_not_be_asked_for_is_asked_for_again(bench: Bench) -> None:
    """At the start jtop has not answered yet when the governor wants its first mode."""

    class Service(Jtop):
        problem, asked = "it has not answered yet", 0

        def read(self) -> list[Reading]:
            return []

        def set_mode(self, _name: str, _allowed: Sequence[str]) -> str:
            self.asked += 1
            return self.problem

    service = Service()
    bench.sampler.sources = [bench.source, service]
    bench.sampler.__post_init__()
    bench.sampling.heartbeat = Heartbeat(wanted_mode="40W")
    bench.run_for(130)
    assert service.asked == 3
    failed = ("power-mode", "40W could not be asked for: it has not answered yet")
    assert bench.events() == [failed]
    service.problem = ""
    bench.run_for(180)
    assert service.asked == 4
    assert bench.events() == [failed, ("power-mode", "40W was asked for by the governor")]


@pytest.mark.parametrize("left", [{}, {"gpu": 0.0}])
def test_a_throttling_that_nobody_sees_any_more_has_not_ended(bench: Bench, left: dict[str, float]) -> None:
    def throttling() -> list[str]:
        return [kind for kind, _ in bench.events() if kind.startswith("throttling")]

    for told, expected in (
        ({"cpu": 0.0, "gpu": 0.0}, []),
        ({"cpu": 1.0, "gpu": 0.0}, ["throttling-began"]),
        (left, ["throttling-began"]),
        ({"cpu": 0.0, "gpu": 0.0}, ["throttling-began", "throttling-ended"]),
    ):
        bench.source.throttled = told
        bench.run_for(20)
        assert throttling() == expected


@pytest.mark.parametrize(
    ("scene", "governor", "works"),
    [
        ("a", "off", True), ("a", "working", True), (None, "working", False), (None, "off", False),
        ("a", "pacing", False), ("a", "orbit", False), ("a", "peak", False), ("a", "hot", False), ("a", "quiet", False),
    ],
)  # fmt: skip
def test_a_pause_of_the_governor_is_no_work(scene: str | None, governor: str, works: bool) -> None:
    assert _is_working(Heartbeat(scene=scene, governor=governor, governor_why="for a reason")) is works


def test_a_blind_governor_works_a_share_of_the_time_and_says_when() -> None:
    governor = Governor(Limits(mean_w=10, safe_duty=0.25, least_period_s=20))
    decisions = [governor.decide(float(second)) for second in range(400)]
    blind = [decision for decision in decisions if decision.state == "blind"]
    assert {decision.work for decision in blind} == {True, False}
    for decision in decisions:
        assert makes_wait(decision.state, decision.why) is not decision.work
