"""What to make of pages that changed: a false alarm must not have an engine opened again and again.

An alarm is followed by opening the engine afresh. Then its pages are looked for, by their content, among those of the
new engine: a weight is found again, at whatever address. If the engine answered right with the changed page, nobody
can say whether it was a fault: the page is watched no more, so it costs one opening at most. What is not found again
was no constant of the engine; after a few such alarms its kind of memory is watched no more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from engines.page_scrub import PageChange, PageScrub, Words, lines_of

SPAN_S = 3600.0
UNEXPLAINED = 5
"""Alarms within the span by what was no constant, after which that kind of memory is watched no more."""
_REMEMBERED = 256
"""Alarms whose pages stay dropped over later openings."""


class AlarmHistory:
    """Remembers the alarms of the last hour, over all openings.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._dropped: deque[Words] = deque(maxlen=_REMEMBERED)
        self._unexplained: deque[tuple[float, frozenset[int]]] = deque()
        self._open: tuple[PageChange, bool] | None = None

    def note(self, change: PageChange, *, answers_right: bool) -> None:
        """The engine is closed for this; see `settle` for what follows."""
        self._open = (change, answers_right)

    def settle(self, scrub: PageScrub) -> str | None:
        """After the engine was opened again and its pages are known: what was learned of the alarm, for an event.

        None where its answer had become wrong too, or there was no alarm. Has the scrub drop
        pages, or a whole group that alarmed too often.
        """
        if self._dropped:
            scrub.drop_pages(scrub.alike(np.concatenate(list(self._dropped))))
        if self._open is None:
            return None
        (change, answers_right), self._open = self._open, None
        lines = np.unique(_telling(change.content))
        alike = scrub.alike(lines)
        whole = len(change.content) == len(change.addresses)
        if len(alike) and whole and answers_right:
            self._dropped.append(lines)
            scrub.drop_pages(alike)
            return f"the engine answered right: {len(alike)} pages like those that changed are watched no more"
        if not answers_right:
            return None
        return self._not_explained(frozenset(change.groups), scrub)

    def _not_explained(self, groups: frozenset[int], scrub: PageScrub) -> str:
        self._unexplained.append((self._clock(), groups))
        while self._unexplained and self._clock() - self._unexplained[0][0] > SPAN_S:
            self._unexplained.popleft()
        often = [group for group in sorted(groups) if self._count(group) >= UNEXPLAINED]
        scrub.off.update(often)
        return "what changed was no constant of the engine" + (
            f"; after {UNEXPLAINED} such alarms within an hour this memory is watched no more" if often else ""
        )

    def _count(self, group: int) -> int:
        return sum(group in groups for _, groups in self._unexplained)


def _telling(words: Words) -> Words:
    """Checksums of the lines that are not all zero."""
    lines = lines_of(np.ascontiguousarray(words).ravel())
    telling: Words = lines[lines != 0]
    return telling
