"""What a measurement is: a value with unit, source, rail and time, or the reason why there is none.

Missing is never zero: a rail that nobody could read has `value` None and says why.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timezone


@dataclass(frozen=True)
class Moment:
    """When: wall clock for people, monotonic clock for durations (aboard there is no NTP; the wall clock may jump)."""

    utc: datetime
    monotonic_s: float

    @classmethod
    def now(cls) -> Moment:
        """This moment by both clocks."""
        return cls(datetime.now(timezone.utc), time.monotonic())


@dataclass(frozen=True)
class Reading:
    """One quantity at one moment.

    Attributes:
        quantity: what is measured, with its unit in the name: "power_w", "temperature_c", "energy_j".
        value: the number, or None.
        source: who measured ("ina3221", "rapl", "thermal").
        rail: which part of the machine ("VDD_IN", "package-0", "cpu-thermal").
        at: when.
        reason: why there is no value; empty where there is one.
    """

    quantity: str
    value: float | None
    source: str
    rail: str
    at: Moment = field(default_factory=Moment.now)
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) == (not self.reason):
            raise ValueError("a reading has a value or a reason why there is none, not both and not neither")


@dataclass(frozen=True)
class SourceState:
    """Whether a source is there, and if not, why not and what to do.

    Attributes:
        name: of the source.
        rails: what it can measure; empty where it is missing.
        problem: why it is missing; empty where it is there.
        remedy: what to do about that.
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
    """The name under which a quantity of a rail is kept in history and shown in tables."""
    return f"{quantity}:{rail}"
