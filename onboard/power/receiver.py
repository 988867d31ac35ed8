"""Measurements of the sampling process as lines of JSON through pipes, to the API and to the worker's governor.

A line is shorter than PIPE_BUF, so that it is written whole or not at all; reasons are cut before values are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from telemetry.energy import Energy

LONGEST_LINE = 4000


@dataclass(frozen=True)
class TelemetryMessage:
    """One line.

    Attributes:
        monotonic_s, utc_s: when.
        tick: of the history.
        readings: rows (quantity, rail, source, value or None, reason).
        energy: by field "power_w:RAIL", (joules, measured seconds, seconds of gaps, peak watts) since sampling began.
        began_s: monotonic, when sampling began: energies of two beginnings must not be subtracted.
        main: field of the rail that covers most; empty where no power is measured, and ``main_problem`` says why.
        hottest_c: of all zones.
        throttling: whether the board holds itself back.
        mode: power mode by name; empty where it is not known.
        sources: by name, what is wrong; empty where it measures.
        idle_w: calibrated power of the main rail at rest.
    """

    monotonic_s: float = 0.0
    utc_s: float = 0.0
    tick: int = 0
    readings: Sequence[Sequence[str | float | None]] = ()
    energy: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    began_s: float = 0.0
    main: str = ""
    main_problem: str = "nothing was heard from the sampling process yet"
    hottest_c: float | None = None
    throttling: bool = False
    mode: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    idle_w: float | None = None

    def line(self) -> bytes:
        """As JSON, ended by a newline, under LONGEST_LINE bytes."""
        # What can be done without goes first: reasons are for people, readings are for the governor too.
        without_reasons = replace(self, readings=[[*row[:4], ""] for row in self.readings])
        for message in (self, without_reasons, replace(self, readings=())):
            line = json.dumps({"measured": asdict(message)}, separators=(",", ":")).encode() + b"\n"
            if len(line) <= LONGEST_LINE:
                return line
        return json.dumps({"measured": {"monotonic_s": self.monotonic_s}}).encode() + b"\n"

    def main_energy(self) -> Energy | None:
        """Of the main rail since sampling began."""
        row = self.energy.get(self.main)
        return None if row is None else Energy(row[0] or 0.0, row[1] or 0.0, row[2] or 0.0, row[3])

    def main_power_w(self) -> float | None:
        """Of the main rail, now."""
        for quantity, rail, _, value, _ in self.readings:
            # A reading without a value is null with a reason: no power, not a power of zero.
            if f"{quantity}:{rail}" == self.main and isinstance(value, (int, float)):
                return float(value)
        return None


def telemetry_message_of(line: bytes | str) -> TelemetryMessage | None:
    """Of a line; None where it is none."""
    try:
        return TelemetryMessage(**json.loads(line)["measured"])
    except (ValueError, TypeError, KeyError):
        return None


class TelemetryReceiver:
    """The last message and its age; one thread receives, any thread may ask."""

    def __init__(self) -> None:
        self._last = TelemetryMessage()
        self._heard: float | None = None

    def take(self, line: bytes | str) -> bool:
        """Takes a line if it is one."""
        message = telemetry_message_of(line)
        if message is None:
            return False
        # Without a lock: each name is replaced whole, and a message with the age of the one before does no harm.
        self._last, self._heard = message, time.monotonic()
        return True

    def listen(self, lines: Iterable[bytes]) -> None:
        """Takes lines until they end."""
        for line in lines:
            self.take(line)

    @property
    def last(self) -> TelemetryMessage:
        """The last one; one that says "nothing yet" before the first."""
        return self._last

    @property
    def silent_s(self) -> float | None:
        """Seconds since it came, None before the first."""
        return None if self._heard is None else time.monotonic() - self._heard
