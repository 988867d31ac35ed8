"""Learns from alarms about changed pages, so that false alarms do not reopen the engine again and again.

After an alarm the engine is opened again, and the changed pages are searched, by content, among the pages of the new
engine: weights are found again at any address. If the engine's output was still correct with the changed page, the
alarm may have been false: such a page is not watched any more, so it costs one reopening at most. A page that is not
found again was no constant of the engine; after several such alarms its kind of memory is not watched any more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from engines.integrity.page_scrub import PageChange, PageScrub, Words, lines_of

SPAN_S = 3600.0
UNEXPLAINED = 5
"""Number of alarms within the span about memory that was no constant, after which that kind is not watched any more."""
_REMEMBERED = 256
"""Number of alarms whose pages stay unwatched over later openings."""


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
        """Records an alarm, for which the engine is closed; call `settle` after the reopening."""
        self._open = (change, answers_right)

    def settle(self, scrub: PageScrub) -> str | None:
        """Evaluates the last alarm after the reopening; returns a text for an event.

        None where the engine's output had become wrong too, or there was no alarm. May stop the scrub from watching
        some pages, or a whole group of memory that alarmed too often.
        """
        if self._dropped:
            # Weights have other addresses after each opening, so pages of earlier alarms are found by content.
            scrub.drop_pages(scrub.alike(np.concatenate(list(self._dropped))))
        if self._open is None:
            return None
        (change, answers_right), self._open = self._open, None
        lines = np.unique(_telling(change.content))
        alike = scrub.alike(lines)
        # PageChange keeps the content of 1,024 pages only. Of more, a part explains nothing.
        whole = len(change.content) == len(change.addresses)
        if len(alike) and whole and answers_right:
            self._dropped.append(lines)
            scrub.drop_pages(alike)
            return f"the engine answered right: {len(alike)} pages like those that changed are watched no more"
        # A wrong answer is a real fault. Its page stays watched: the next flip may hit it too.
        if not answers_right:
            return None
        return self._not_explained(frozenset(change.groups), scrub)

    def _not_explained(self, groups: frozenset[int], scrub: PageScrub) -> str:
        self._unexplained.append((self._clock(), groups))
        while self._unexplained and self._clock() - self._unexplained[0][0] > SPAN_S:
            self._unexplained.popleft()
        often = [group for group in sorted(groups) if self._count(group) >= UNEXPLAINED]
        # For the rest of this process: unlike dropped pages, a group that is off stays off over later openings.
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
