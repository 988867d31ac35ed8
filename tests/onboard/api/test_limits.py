from __future__ import annotations

import pytest

from onboard.api.errors import TooMany
from onboard.api.limits import RateLimit, Slots


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    clock = Clock()
    limit = RateLimit(per_second=2.0, burst=3, clock=clock)
    for _ in range(3):
        limit.take("a")
    with pytest.raises(TooMany, match="a sends more than 2 requests a second; try again in 1 s"):
        limit.take("a")
    limit.take("b")
    clock.now += 0.5
    limit.take("a")
    with pytest.raises(TooMany):
        limit.take("a")
    clock.now += 1000.0
    for _ in range(3):
        limit.take("a")
    with pytest.raises(TooMany):
        limit.take("a")


def test_a_refusal_costs_nothing() -> None:
    clock = Clock()
    limit = RateLimit(per_second=1.0, burst=1, clock=clock)
    limit.take("a")
    for _ in range(50):
        clock.now += 0.01
        with pytest.raises(TooMany):
            limit.take("a")
    clock.now += 0.51
    limit.take("a")


def test_slots_come_back_whatever_happened_in_them() -> None:
    slots = Slots(1)
    with pytest.raises(KeyError), slots.hold():
        raise KeyError
    with slots.hold(), pytest.raises(TooMany, match="1 uploads are running"), slots.hold():
        pass
    with slots.hold():
        pass
