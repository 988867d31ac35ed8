"""Events of the station's `events.jsonl`, and up to where an operator has acknowledged them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from ground.json_text import model_of
from ground.telemetry import EVENTS
from ground.transfer import last_lines, read_small, write_whole

# Beside the events and not in them: `ground telemetry` alone writes events.jsonl, maybe at the same time.
ACKNOWLEDGED = "acknowledged.json"
LONGEST = 16 << 20
"""Bytes that are read from the end of the file: some ten thousand events."""


class EventRow(BaseModel):
    """One event, as the page shows it; everything in it is text of the satellite's."""

    model_config = ConfigDict(extra="ignore")

    sequence: int = Field(ge=0, le=2**62)
    severity: str = Field("info", max_length=100)
    kind: str = Field("", max_length=200)
    # Services of before called it "about" (CHANGELOG.md), and events.jsonl keeps what they said.
    scene: str | None = Field(None, max_length=200, validation_alias=AliasChoices("scene", "about"))
    text: str = Field("", max_length=10_000)
    at: dict[str, Any] = Field(default_factory=dict, max_length=50)

    def row(self) -> dict[str, Any]:
        """For the page."""
        utc = self.at.get("utc")
        return {
            "sequence": self.sequence, "severity": self.severity, "kind": self.kind, "scene": self.scene,
            "text": self.text, "utc": utc if isinstance(utc, str) and len(utc) <= 40 else None,
            "clock_synchronised": bool(self.at.get("clock_synchronised")),
        }  # fmt: skip


class _Acknowledged(BaseModel):
    until: int = Field(0, ge=0, le=2**62)


class EventFile:
    """Of a telemetry folder, or of nothing where there is none; any thread may ask."""

    def __init__(self, folder: Path | None) -> None:
        # FastAPI runs plain functions in threads, so two may ask at once.
        self._folder, self._lock = folder, threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._rows: list[EventRow] = []
        self._until = 0

    def stored(self) -> list[EventRow]:
        """Events that are in the file, in their order."""
        if self._folder is None:
            return []
        path = self._folder / EVENTS
        with self._lock:
            try:
                facts = path.stat()
                # `ground telemetry` appends in a process of its own: the file is read again only where it has changed.
                stamp = (facts.st_size, facts.st_mtime_ns)
                if stamp != self._stamp:
                    self._rows, self._stamp = _read(path), stamp
            except OSError:
                self._rows, self._stamp = [], None
            return self._rows

    @property
    def acknowledged(self) -> int:
        """Sequence number up to which an operator has acknowledged."""
        if self._folder is not None:
            with suppress(OSError, ValidationError):
                text = read_small(self._folder / ACKNOWLEDGED, 1000)
                self._until = max(self._until, _Acknowledged.model_validate_json(text).until)
        return self._until

    def acknowledge(self, until: int) -> int:
        """Keeps it, in the folder where there is one; gives the highest that was ever said.

        Raises:
            OSError: the folder cannot be written.
        """
        with self._lock:
            # Never less than before: an older page may still acknowledge what it shows.
            self._until = max(self.acknowledged, until)
            if self._folder is not None and self._folder.is_dir():
                write_whole(self._folder / ACKNOWLEDGED, json.dumps({"until": self._until}).encode())
            return self._until


def merged(stored: Iterable[EventRow], live: Iterable[EventRow]) -> list[tuple[EventRow, bool]]:
    """The newest first, each with whether it is stored here."""
    rows = {row.sequence: (row, False) for row in live} | {row.sequence: (row, True) for row in stored}
    return [rows[number] for number in sorted(rows, reverse=True)]


def _read(path: Path) -> list[EventRow]:
    rows = []
    for line in last_lines(path, LONGEST):
        with suppress(ValueError, RecursionError):
            rows.append(model_of(EventRow, line))
    return rows
