from __future__ import annotations

import json
import math

import pytest

from trainer.distill.schedule import RelativeThresholds, Schedule, ScheduleSettings

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


RELATIVE = ScheduleSettings(window=1, relative=RelativeThresholds(turned=0.25, regained=0.5, least_fall=0.1))


def test_relative_thresholds_follow_r_s_own_course() -> None:
    schedule = Schedule(RELATIVE)
    stages = []
    for r in (1.4, 1.2, 1.0, 1.05, 1.1, 1.15, 1.2, 1.4):  # never below 0.85; a fall of 0.4
        schedule.update(r, 1.0)
        stages.append(schedule.stage)
    assert stages == ["early", "early", "early", "early", "middle", "middle", "late", "late"]


def test_a_fall_that_is_noise_ends_no_stage() -> None:
    schedule = Schedule(RELATIVE)
    for r in (1.0, 0.95, 1.0, 1.2, 0.96):
        schedule.update(r, 1.0)
    assert schedule.stage == "early"


def test_a_relative_schedule_goes_on_from_its_state() -> None:
    values = (1.4, 1.0, 1.05, 1.15, 1.19, 1.21, 1.3)
    whole, first = Schedule(RELATIVE), Schedule(RELATIVE)
    for r in values[:3]:
        first.update(r, 1.0)
    second = Schedule(RELATIVE)
    second.load_state(json.loads(json.dumps(first.state())))
    for r in values[3:]:
        second.update(r, 1.0)
    for r in values:
        whole.update(r, 1.0)
    assert second.state() == whole.state()
    assert whole.stage == "late"


def test_relative_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be above"):
        RelativeThresholds(turned=0.6, regained=0.5)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_losses_that_are_no_numbers_are_neither_the_first_nor_the_end_of_a_stage(odd: float) -> None:
    schedule = Schedule(RELATIVE)
    for r in (odd, 1.4, 1.0, odd, 1.1):
        schedule.update(r, 1.0)
    assert schedule.stage == "middle"
    absolute = Schedule(ScheduleSettings(window=1), stage="middle")
    absolute.update(odd, 1.0)
    assert absolute.stage == "middle"


def test_a_state_whose_first_ratio_is_no_number_begins_the_course_of_r_anew() -> None:
    schedule = Schedule(RELATIVE)
    schedule.load_state({"stage": "early", "losses": [], "first": math.nan, "lowest": None})
    for r in (1.4, 1.0, 1.1):
        schedule.update(r, 1.0)
    assert schedule.stage == "middle"
