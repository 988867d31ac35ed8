from __future__ import annotations

import pytest

from engines import roofline


def test_the_first_touch_of_pages_is_no_memory_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call may take longer than all the time there is: it is never the only one."""
    now, durations = 0.0, iter([10.0, 0.4, 0.2, 0.3])

    def work() -> None:
        nonlocal now
        now += next(durations)

    monkeypatch.setattr("engines.roofline.time.perf_counter", lambda: now)
    assert roofline._best(work, 0.5) == pytest.approx(0.2)


def test_this_machine_s_rates_are_of_bytes_read_and_written() -> None:
    rates = roofline.this_cpu(0.02)
    assert rates.bytes_per_s > 0
    assert rates.number_bytes == 4
    assert "touched" in rates.source
