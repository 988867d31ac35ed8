"""Events for the operator: written aboard, read by the ground in their order, kept up to a number."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from onboard.jobs.ledger_database import LedgerDatabase
from onboard.jobs.timestamps import timestamp

log = logging.getLogger("onboard.events")
LOG_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
MAX_EVENTS: Final = 20_000
"""Beyond so many the oldest are removed, acknowledged ones first."""


@dataclass(frozen=True)
class Event:
    """Something an operator should know.

    Attributes:
        sequence: its place in the ledger's order.
        severity: "info", "warning" or "error".
        kind: short name for programs, like "engine-lost".
        about: a scene's id, or None.
        text: for people.
        at: see :func:`onboard.jobs.timestamps.timestamp`.
    """

    sequence: int
    severity: str
    kind: str
    about: str | None
    text: str
    at: Mapping[str, Any]


def printable(text: str) -> str:
    r"""One line: control characters, which may stand in names that others gave, are written out like ``\x1b``."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class EventLog:
    """The ledger's events.

    Args:
        database: shared with the other stores of this ledger.
    """

    def __init__(self, database: LedgerDatabase) -> None:
        self._database = database

    def log(self, severity: str, kind: str, text: str, about: str | None = None) -> int:
        """Writes an event, then a line of the log; returns the event's sequence number.

        Raises:
            LedgerBusy, StorageError, LedgerDamaged: as :meth:`Database.writing`; there is no line either.
        """
        number = self.write(severity, kind, text, about)
        log.log(LOG_LEVELS[severity], "%s%s: %s", kind, f" {about}" if about else "", printable(text))
        return number

    def write(self, severity: str, kind: str, text: str, about: str | None = None) -> int:
        """Writes an event without a line of the log, removes the oldest above MAX_EVENTS; returns its number."""
        database = self._database
        with database.numbered():
            number = database.next_number()
            database.change(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                number, severity, kind, about, text, json.dumps(timestamp()),
            )  # fmt: skip
            # Acknowledged events may take half of the number: the other half is left for those that the ground lacks.
            for newest, limit in ((self.acknowledged(), MAX_EVENTS // 2), (number, MAX_EVENTS)):
                database.change(
                    "DELETE FROM events WHERE sequence <= ? AND sequence <="
                    " (SELECT sequence FROM events ORDER BY sequence DESC LIMIT 1 OFFSET ?)",
                    newest, limit,
                )  # fmt: skip
        return number

    def acknowledged(self) -> int:
        """Sequence number up to which the ground has the events."""
        row = self._database.first("SELECT value FROM acknowledged")
        return 0 if row is None else int(row[0])

    def acknowledge(self, sequence: int) -> int:
        """Notes that the ground has the events up to here; returns the highest number noted, never one to come."""
        with self._database.writing():
            # Never above the counter: events that are still to come would count as known to the ground, unseen.
            self._database.change(
                "UPDATE acknowledged SET value = max(value, min(?, (SELECT value FROM counter)))", sequence
            )
        return self.acknowledged()

    def page(self, *, after: int = 0, limit: int = 100) -> list[Event]:
        """Events in their order, those behind sequence number ``after``."""
        rows = self._database.all("SELECT * FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?", after, limit)
        return [Event(**{**dict(row), "at": json.loads(row["at"])}) for row in rows]
