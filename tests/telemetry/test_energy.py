from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.energy import Energy, EnergyMeter


def test_the_trapezoid_is_that_of_numpy_and_gaps_are_left_out() -> None:
    rng = np.random.default_rng(1)
    at, watts = np.cumsum(rng.uniform(0.05, 0.15, 500)), rng.uniform(5, 20, 500)
    at[300:] += 10  # nobody measured for ten seconds
    meter = EnergyMeter(longest_s=0.3)
    for moment, power in zip(at, watts, strict=True):
        meter.add(float(moment), float(power))
    by_hand = np.trapezoid(watts[:300], at[:300]) + np.trapezoid(watts[300:], at[300:])
    assert meter.total.joules == pytest.approx(by_hand)
    assert meter.total.gap_s == pytest.approx(at[300] - at[299])
    assert meter.total.covered_s == pytest.approx(at[-1] - at[0] - meter.total.gap_s)
    assert meter.total.peak_w == watts.max()


def test_a_sample_without_a_value_is_a_gap() -> None:
    meter = EnergyMeter(longest_s=1.0)
    for at, watts in ((0.0, 10.0), (0.5, 10.0), (1.0, None), (1.5, 10.0), (2.0, 10.0)):
        meter.add(at, watts)
    assert (meter.total.joules, meter.total.covered_s, meter.total.gap_s) == (10.0, 1.0, 1.0)


def test_mean_and_net_as_the_paper_reports_them() -> None:
    work = Energy(joules=18.95 * 100, covered_s=100)
    assert work.mean_w == pytest.approx(18.95)
    assert work.net_j(5.74) / 100 == pytest.approx(13.21)
    assert Energy().mean_w is None


@given(st.lists(st.tuples(st.floats(0.001, 5), st.one_of(st.none(), st.floats(0, 100))), min_size=2, max_size=50))
def test_energy_never_falls_and_time_adds_up(steps: list[tuple[float, float | None]]) -> None:
    meter = EnergyMeter(longest_s=1.0)
    at, last, begun = 0.0, 0.0, None
    for span, watts in steps:
        at += span
        meter.add(at, watts)
        begun = at if begun is None and watts is not None else begun
        assert meter.total.joules >= last
        last = meter.total.joules
    spent = 0.0 if begun is None else at - begun
    assert meter.total.covered_s + meter.total.gap_s == pytest.approx(spent)


def test_an_older_sample_is_passed_over() -> None:
    meter = EnergyMeter(longest_s=1.0)
    for at in (0.0, 1.0, 0.5, 2.0):
        meter.add(at, 1.0)
    assert meter.total.joules == 2.0
