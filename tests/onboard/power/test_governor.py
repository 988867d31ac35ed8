"""The governor against a plant whose constants it does not know (benchmarks/plant.py), and its rules one by one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.plant import Plant, best_duty, simulate, turns, window_means
from onboard.errors import OptionsRefused
from onboard.power.governor import (
    STALE_S,
    Decision,
    Governor,
    Limits,
    Measurement,
    ModeLadder,
    limits_of,
    quiet_spans,
)
from onboard.power.governor_store import GovernorStore
from onboard.power.receiver import TelemetryMessage
from onboard.settings import read_settings

HOURS = 8
# Threefold over all: from 1/sqrt(3) to sqrt(3) of the usual.
FACTORS = (1 / math.sqrt(3), 1.0, math.sqrt(3))
PLANTS = [
    Plant(rest_w=5.74 * load, work_w=18.95 * load, k_per_w=2.2 * heat / load, j_per_k=60 * heat)
    for load in FACTORS
    for heat in FACTORS
]


@pytest.mark.parametrize("plant", PLANTS)
def test_mean_power_is_kept_in_every_window_at_nine_tenths_of_the_best_duty(plant: Plant) -> None:
    limits = Limits(mean_w=plant.rest_w + 0.5 * (plant.work_w - plant.rest_w))
    trace = simulate(plant, limits, HOURS * 3600, seed=3)
    assert limits.mean_w is not None
    assert window_means(trace.power_w, int(limits.window_s)).max() <= 1.02 * limits.mean_w
    assert trace.work.mean() >= 0.9 * best_duty(plant, limits)
    assert turns(trace.work).min() >= limits.least_period_s


@pytest.mark.parametrize("plant", PLANTS)
def test_an_orbits_energy_is_kept_rest_included(plant: Plant) -> None:
    mean = plant.rest_w + 0.4 * (plant.work_w - plant.rest_w)
    limits = Limits(orbit_j=5700 * mean)
    trace = simulate(plant, limits, 4 * 5700, seed=4)
    spent = trace.power_w.reshape(4, 5700).sum(axis=1)
    assert limits.orbit_j is not None
    assert spent.max() <= 1.02 * limits.orbit_j
    assert trace.work.mean() >= 0.9 * best_duty(plant, limits)


@pytest.mark.parametrize("plant", PLANTS)
def test_heat_is_kept_with_hysteresis(plant: Plant) -> None:
    limits = Limits(hot_c=plant.ambient_c + plant.k_per_w * (plant.rest_w + 0.6 * (plant.work_w - plant.rest_w)))
    trace = simulate(plant, limits, HOURS * 3600, seed=5)
    assert limits.hot_c is not None
    # What the board warms up in the seconds until a reading has come, been believed and acted on.
    warming = (plant.work_w - plant.rest_w) / plant.j_per_k * 12
    assert trace.heat_c.max() <= limits.hot_c + warming
    assert "hot" in trace.states
    assert turns(trace.work).min() >= 10


def test_without_a_limit_work_never_waits() -> None:
    assert simulate(Plant(), Limits(), 3600).work.all()


def test_without_power_readings_a_safe_share_is_worked_and_it_says_so() -> None:
    limits = Limits(mean_w=12.0, safe_duty=0.25)
    trace = simulate(Plant(), limits, 7200, sees_power=False)
    assert set(trace.states) <= {"blind", "pacing", "working"}
    assert trace.work.mean() == pytest.approx(0.25, abs=0.02)
    governor = Governor(limits)
    governor.add_measurement(Measurement(0.0))
    decision = governor.decide(19.0)
    assert decision.state == "blind"
    assert "power cannot be read: 25 %" in decision.why


def test_stale_readings_are_none() -> None:
    governor = Governor(Limits(mean_w=12.0))
    governor.add_measurement(Measurement(0.0, 8.0))
    assert governor.decide(1.0).state == "working"
    assert governor.decide(100.0 + STALE_S).state == "blind"


def test_a_peak_makes_it_rest() -> None:
    governor = Governor(Limits(peak_w=20.0, least_period_s=20.0))
    for second in range(3):
        governor.add_measurement(Measurement(float(second), 18.0))
        assert governor.decide(float(second)).work
    governor.add_measurement(Measurement(3.0, 21.0))
    assert governor.decide(3.0) == Decision(False, "peak", "over 20 W")
    states = []
    for second in range(4, 20):
        governor.add_measurement(Measurement(float(second), 6.0))
        states.append(governor.decide(float(second)).work)
    assert not any(states[:8])
    assert states[-1]


def test_a_long_silence_costs_no_more_than_a_window() -> None:
    """A service that was stopped for ten hours while it worked waited four hours for its mean power afterwards."""
    governor = Governor(Limits(mean_w=15.0, window_s=600.0))
    now = 0.0
    for _ in range(60):
        now += 1.0
        governor.add_measurement(Measurement(now, 19.0))
        governor.decide(now)
    now += 36_000.0
    governor.add_measurement(Measurement(now, 19.0))
    back = now
    while not governor.decide(now).work:
        now += 1.0
        governor.add_measurement(Measurement(now, 5.0))
        assert now - back < 3600
    # 4 W over the mean for 600 s are 2,400 J: at 10 W below it they are back in four minutes, and some to begin with.
    assert 240 <= now - back <= 360


def test_quiet_hours_and_a_span_over_midnight() -> None:
    now = [0.0]
    governor = Governor(Limits(quiet=quiet_spans("06:00-07:30,22:00-01:00")), seconds_of_day=lambda: now[0])
    found = {}
    for hour in (0.5, 5.9, 6.1, 7.6, 21.9, 23.0):
        now[0] = hour * 3600
        found[hour] = governor.decide(1e5 * hour).work
    assert found == {0.5: False, 5.9: True, 6.1: False, 7.6: True, 21.9: True, 23.0: False}


@pytest.mark.parametrize("text", ["6-7", "25:00-26:00", "06:61-07:00", "night", "23:00-24:30", "06:00-06:00"])
def test_a_span_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionsRefused, match="ONBOARD_QUIET_HOURS"):
        quiet_spans(text)
    assert quiet_spans("22:00-24:00") == ((79200.0, 86400.0),)


def test_an_urgent_scene_may_overdraw_and_a_routine_one_pays_for_it() -> None:
    def worked(urgent: bool) -> float:
        governor = Governor(Limits(mean_w=12.0, urgent_margin=0.1))
        count = 0
        for second in range(1200):
            work = governor.decide(float(second), urgent=urgent).work
            governor.add_measurement(Measurement(float(second), 18.95 if work else 5.74))
            count += work
        return count / 1200

    assert worked(True) > worked(False) + 0.03


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(OptionsRefused, match="ONBOARD_RESUME_TEMPERATURE_C"):
        limits_of(read_settings(max_temperature_c=80, resume_temperature_c=85))
    with pytest.raises(OptionsRefused, match="ONBOARD_MIN_DUTY_PERIOD_S"):
        limits_of(read_settings(max_mean_power_w=10, power_window_s=60, min_duty_period_s=20))
    assert not limits_of(read_settings()).any


def test_a_mode_is_stepped_down_after_repeated_heat_and_up_after_calm() -> None:
    ladder = ModeLadder(["40W", "25W"], patience=3, calm_s=100)
    hot, fine = Decision(False, "hot", ""), Decision(True, "working")
    modes = [ladder.wanted(hot if second % 2 else fine, float(second)) for second in range(6)]
    assert modes == ["40W"] * 5 + ["25W"]
    assert ladder.wanted(fine, 50.0) == "25W"
    assert ladder.wanted(fine, 120.0) == "40W"
    assert ModeLadder([]).wanted(hot, 0.0) == ""


def test_the_plant_is_what_it_is_said_to_be() -> None:
    plant = Plant(noise_w=0.0)
    trace = simulate(plant, Limits(), 3600)
    settled = plant.ambient_c + plant.k_per_w * plant.work_w
    assert trace.heat_c[-1] == pytest.approx(settled, abs=0.7)
    assert np.mean(trace.power_w) == pytest.approx(plant.work_w, rel=0.01)


def test_a_restart_does_not_begin_the_allotment_anew(tmp_path: Path) -> None:
    limits = Limits(orbit_j=10_000.0, orbit_s=1000.0)
    first = Governor(limits)
    books = GovernorStore(tmp_path, first)
    for second in range(500):
        first.decide(float(second))
        books.update(TelemetryMessage(tick=1000 * second + 1), float(second))
        first.add_measurement(Measurement(float(second), 19.0))
    assert first.decide(500.0).state == "orbit"
    # Another process, another monotonic clock, 20 s later by the tick.
    second_life = Governor(limits)
    again = GovernorStore(tmp_path, second_life)
    again.update(TelemetryMessage(tick=519_000), 7.0)
    second_life.add_measurement(Measurement(7.0, 6.0))
    second_life.add_measurement(Measurement(8.0, 6.0))
    decision = second_life.decide(8.0)
    assert decision.state == "orbit"
    spent, elapsed = second_life.state(8.0)["orbit_j"], second_life.state(8.0)["orbit_s"]
    assert spent is not None and elapsed is not None
    assert spent >= 499 * 19.0
    assert elapsed == pytest.approx(520, abs=12)
    # A note that is damaged is none.
    (tmp_path / "governor.json").write_text("{")
    fresh = Governor(limits)
    GovernorStore(tmp_path, fresh).update(TelemetryMessage(tick=600_000), 9.0)
    fresh.add_measurement(Measurement(9.0, 6.0))
    assert fresh.decide(9.0).work
