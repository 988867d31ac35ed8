from __future__ import annotations

import logging

import pytest

from onboard.api.log_limit import MOST_KINDS, RepeatLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(lines: list[str], clock: Clock) -> logging.Logger:
    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.Logger("any")
    handler = Keeping()
    handler.addFilter(RepeatLimit(count=2, span_s=60, clock=clock))
    logger.addHandler(handler)
    return logger


def test_what_is_said_again_and_again_is_said_a_few_times_and_then_counted(
    log: logging.Logger, lines: list[str], clock: Clock
) -> None:
    for number in range(1000):
        log.warning("%d refused", number)
    log.warning("something else")
    assert lines == ["0 refused", "1 refused", "something else"]
    clock.now = 61.0
    log.warning("%d refused", 1000)
    assert lines[-1] == "1000 refused (998 more like it were not logged)"
    log.warning("%d refused", 1001)
    assert lines[-1] == "1001 refused"


def test_another_exception_under_the_same_words_is_logged(log: logging.Logger, lines: list[str]) -> None:
    for error in (KeyError("a"), ValueError("b"), OSError("c")):
        for _ in range(5):
            log.error("failed", exc_info=error)
    assert len(lines) == 6


def test_the_limit_itself_stays_small(log: logging.Logger) -> None:
    for number in range(3 * MOST_KINDS):
        log.warning(f"kind {number}")
    limit = log.handlers[0].filters[0]
    assert isinstance(limit, RepeatLimit)
    assert len(limit._seen) <= MOST_KINDS
