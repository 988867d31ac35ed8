from __future__ import annotations

import json

import pytest

from trainer.distill.schedule import Schedule, ScheduleSettings

QUICK = ScheduleSettings(window=1)


def test_a_run_goes_from_early_to_middle_to_late_and_never_back() -> None:
    schedule = Schedule(QUICK)
    stages = []
    for r in (1.2, 0.96, 0.86, 0.84, 1.2, 0.5, 2.0, 0.1):
        assert schedule.update(r, 1.0) == pytest.approx(r)
        stages.append(schedule.stage)
    assert stages == ["early", "early", "early", "middle", "late", "late", "late", "late"]


def test_thresholds_are_not_met_by_equality() -> None:
    schedule = Schedule(QUICK)
    schedule.update(0.85, 1.0)
    assert schedule.state()["stage"] == "early"
    schedule.update(0.849, 1.0)
    schedule.update(0.95, 1.0)
    assert schedule.state()["stage"] == "middle"


def test_a_stage_lasts_at_least_a_window_and_r_is_a_quotient_of_means() -> None:
    schedule = Schedule(ScheduleSettings(window=3))
    assert schedule.update(1.0, 4.0) == pytest.approx(0.25)
    assert schedule.update(1.0, 1.0) == pytest.approx(2 / 5)
    assert schedule.state()["stage"] == "early"
    assert schedule.update(1.0, 1.0) == pytest.approx(3 / 6)
    assert schedule.state()["stage"] == "middle"
    for _ in range(2):
        schedule.update(2.0, 1.0)
    assert schedule.state()["stage"] == "middle"
    schedule.update(2.0, 1.0)
    assert schedule.state()["stage"] == "late"


def test_weights_are_the_papers() -> None:
    schedule = Schedule(QUICK)
    told = []
    for r in (1.0, 0.5, 1.0):
        schedule.update(r, 1.0)
        weights = schedule.weights
        told.append((weights.alignment, weights.teacher, weights.student))
    assert told == [(0.20, 0.40, 0.40), (0.60, 0.20, 0.20), (0.70, 0.15, 0.15)]


def test_a_schedule_goes_on_from_its_state() -> None:
    first, whole = Schedule(ScheduleSettings(window=4)), Schedule(ScheduleSettings(window=4))
    values = [(1.0, 1.1), (0.9, 1.3), (0.5, 1.0), (0.4, 1.0), (1.0, 1.0), (1.3, 1.0), (1.0, 1.0), (1.0, 1.0)]
    for pair in values[:6]:
        first.update(*pair)
    second = Schedule(ScheduleSettings(window=4))
    second.load_state(json.loads(json.dumps(first.state())))
    told = [second.update(*pair) for pair in values[6:]]
    assert told == [whole.update(*pair) for pair in values][6:]
    assert second.stage == whole.stage == "late"
