"""A measurement: a value with unit, source, rail and timestamp, or the reason why there is none.

A missing value is never zero: a rail that cannot be read has `value` None and a reason.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timezone


@dataclass(frozen=True)
class Timestamp:
    """A point in time: wall clock for people, monotonic clock for durations (without NTP the wall clock may jump)."""

    utc: datetime
    monotonic_s: float

    @classmethod
    def now(cls) -> Timestamp:
        """The current time of both clocks."""
        return cls(datetime.now(timezone.utc), time.monotonic())


@dataclass(frozen=True)
class Reading:
    """One quantity at one time.

    Attributes:
        quantity: name with unit: "power_w", "temperature_c", "energy_j".
        value: the number, or None.
        source: "ina3221", "rapl", "thermal", ...
        rail: the part of the machine ("VDD_IN", "package-0", "cpu-thermal").
        at: time of the measurement.
        reason: why there is no value; empty where there is one.
    """

    quantity: str
    value: float | None
    source: str
    rail: str
    at: Timestamp = field(default_factory=Timestamp.now)
    reason: str = ""

    def __post_init__(self) -> None:
        # So no code can make up a zero for what was not measured.
        if (self.value is None) == (not self.reason):
            raise ValueError("a reading has a value or a reason why there is none, not both and not neither")


@dataclass(frozen=True)
class SourceState:
    """Whether a source is available, and if not, why and what to do.

    Attributes:
        name: of the source.
        rails: that it can measure; empty where it is missing.
        problem: why it is missing; empty where it is available.
        remedy: what to do about the problem.
    """

    name: str
    rails: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""

    @property
    def found(self) -> bool:
        """Whether it can measure anything."""
        return bool(self.rails)


def field_of(quantity: str, rail: str) -> str:
    """Name of a quantity of a rail in history and tables: "QUANTITY:RAIL"."""
    return f"{quantity}:{rail}"
