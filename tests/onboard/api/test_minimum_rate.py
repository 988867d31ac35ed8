from __future__ import annotations

import pytest

from onboard.api.minimum_rate import MinimumRate, TooSlow


def test_silence_and_a_trickle_end_after_a_window() -> None:
    pace = MinimumRate(10, 5)
    pace.add(9, 0)
    assert pace.left_s == 1
    with pytest.raises(TooSlow, match="no byte came for 10 s"):
        pace.add(1, 0)
    pace = MinimumRate(10, 5)
    with pytest.raises(TooSlow, match="only 49 bytes came in 10 s, 50 are needed"):
        for _ in range(10):
            pace.add(1, 4 + (pace.left_s < 9.5))


def test_who_keeps_up_goes_on_and_has_no_credit_from_before() -> None:
    pace = MinimumRate(10, 5)
    pace.add(0.1, 10**9)
    for _ in range(100):
        pace.add(10, 50)
    with pytest.raises(TooSlow):
        pace.add(10, 49)


def test_time_in_which_nobody_waits_does_not_count() -> None:
    pace = MinimumRate(1, 1000)
    for _ in range(10_000):
        pace.add(0, 1)  # all was there already: it is our disk that is slow
    assert pace.left_s == 1


def test_a_rate_of_nought_asks_for_a_byte_a_window() -> None:
    pace = MinimumRate(1, 0)
    for _ in range(5):
        pace.add(1, 1)
    with pytest.raises(TooSlow):
        pace.add(1, 0)
