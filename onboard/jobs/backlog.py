"""What the supervisor writes into the ledger, when the ledger lets it: nobody is kept waiting for the lock."""

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


class Backlog:
    """Writes in their order, later if the ledger is busy, full or damaged now; each is in the log at once.

    Args:
        ledger: one that does not wait long for its lock.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writes: deque[Write] = deque(maxlen=LONGEST)  # the oldest go first: the log has them
        self._problem = ""

    def tell(self, kind: str, text: str, about: str | None) -> None:
        """An event of severity error."""
        log.error("%s: %s", kind, text)
        self.add(lambda ledger: _tell(ledger, kind, text, about))

    def add(self, write: Write) -> None:
        """Takes one up."""
        self._writes.append(write)

    def turn(self) -> None:
        """Writes what can be written now."""
        while self._writes:
            try:
                self._writes[0](self._ledger)
            except OnboardError as error:
                if str(error) != self._problem:
                    log.warning("%d writes wait for the ledger: %s", len(self._writes), error)
                self._problem = str(error)
                return
            except Exception:
                log.exception("a write into the ledger failed and is left out")
            self._problem = ""
            self._writes.popleft()


def _tell(ledger: Ledger, kind: str, text: str, about: str | None) -> None:
    ledger.tell("error", kind, text, about)
