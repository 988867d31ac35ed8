"""What to make of pages that changed again and again: a false alarm must not have an engine opened for ever.

An alarm is followed by opening the engine afresh. Then its pages are looked for, by their content, among those of the
new engine: a weight is found again, at whatever address. What is not found again was no constant of the engine, and
after a few such alarms its kind of memory is watched no more. A page that *is* found again and still alarms time after
time, though the engine answers right, is dropped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from engines.page_scrub import PageChange, PageScrub, Words, lines_of

SPAN_S = 3600.0
REPEATS = 3
"""Alarms of one page within the span that have the engine opened; the next one has the page dropped."""
UNEXPLAINED = 5
"""Alarms within the span by what was no constant, after which that kind of memory is watched no more."""
_ALIKE = 0.5
"""Share of a page's 64-byte lines that must be found again."""


class AlarmHistory:
    """Remembers the alarms of the last hour, over all openings.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._alarms: deque[tuple[float, Words]] = deque()
        self._unexplained: deque[tuple[float, frozenset[int]]] = deque()
        self._open: tuple[Words, frozenset[int]] | None = None

    def is_repeated(self, change: PageChange) -> bool:
        """Whether each of these pages alarmed before, REPEATS times within the span."""
        self._forget_old()
        if len(change.content) < len(change.addresses):
            return False
        for page in change.content:
            lines = _telling(page)
            alike = sum(_share(lines, earlier) >= _ALIKE for _, earlier in self._alarms)
            if not len(lines) or alike < REPEATS:
                return False
        return True

    def note(self, change: PageChange) -> None:
        """The engine is closed for this; see `settle` for what follows."""
        lines = np.unique(_telling(change.content))
        self._alarms.append((self._clock(), lines))
        self._open = (lines, frozenset(change.groups))

    def settle(self, scrub: PageScrub) -> str | None:
        """After the engine was opened again and its pages are known: what was learned of the alarm, for an event.

        None where it was a constant of the engine. Turns the scrub off for a group that alarmed too often otherwise.
        """
        if self._open is None:
            return None
        (lines, groups), self._open = self._open, None
        if len(lines) and _share(lines, scrub.lines()) >= _ALIKE:
            return None
        self._unexplained.append((self._clock(), groups))
        self._forget_old()
        often = [group for group in sorted(groups) if self._count(group) >= UNEXPLAINED]
        scrub.off.update(often)
        return "what changed was no constant of the engine" + (
            f"; after {UNEXPLAINED} such alarms within an hour this memory is watched no more" if often else ""
        )

    def _count(self, group: int) -> int:
        return sum(group in groups for _, groups in self._unexplained)

    def _forget_old(self) -> None:
        for alarms in (self._alarms, self._unexplained):
            while alarms and self._clock() - alarms[0][0] > SPAN_S:
                alarms.popleft()


def _telling(words: Words) -> Words:
    """Checksums of the lines that are not all zero."""
    lines = lines_of(np.ascontiguousarray(words).ravel())
    telling: Words = lines[lines != 0]
    return telling


def _share(lines: Words, among: Words) -> float:
    return float(np.isin(lines, among).mean()) if len(lines) else 0.0
