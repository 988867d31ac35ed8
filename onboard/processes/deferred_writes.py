"""Writes of the supervisor into the ledger, made when its lock is free: the supervisor never waits for it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from onboard.errors import OnboardError
from onboard.jobs.ledger import Ledger

log = logging.getLogger(__name__)
TIMEOUT_S = 0.1
"""Longest wait for the lock in one turn: children's silence is measured meanwhile."""
LONGEST = 1000

Write = Callable[[Ledger], None]


class DeferredWrites:
    """Writes in their order, later if the ledger is busy, full or damaged now; each is in the log at once.

    Args:
        ledger: one that does not wait long for its lock.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writes: deque[Write] = deque(maxlen=LONGEST)  # the oldest go first: the log has them
        self._problem = ""

    def log_event(self, kind: str, text: str, about: str | None) -> None:
        """An event of severity error."""
        log.error("%s: %s", kind, text)
        self.add(lambda ledger: _log_event(ledger, kind, text, about))

    def add(self, write: Write) -> None:
        """Takes one up."""
        self._writes.append(write)

    def turn(self) -> None:
        """Writes what can be written now."""
        while self._writes:
            try:
                self._writes[0](self._ledger)
            # The write stays first in line: events keep their order, and the next turn tries again.
            except OnboardError as error:
                if str(error) != self._problem:
                    log.warning("%d writes wait for the ledger: %s", len(self._writes), error)
                self._problem = str(error)
                return
            # A fault of our own in the write would fail for ever and hold up those behind it.
            except Exception:
                log.exception("a write into the ledger failed and is dropped")
            self._problem = ""
            self._writes.popleft()


def _log_event(ledger: Ledger, kind: str, text: str, about: str | None) -> None:
    ledger.events.write("error", kind, text, about)  # its line of the log was written at once
