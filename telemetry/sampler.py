"""Reads the sources at a steady rate of the monotonic clock and passes each sample to the listeners.

A late turn is not repeated: missing samples stay missing, and the next sample reports the gap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from telemetry.discover import Source
from telemetry.energy import Energy, EnergyMeter
from telemetry.readings import Reading, field_of

LATE = 3.0
"""Number of intervals after which a sample counts as late and the time before it as a gap."""


@dataclass(frozen=True)
class Sample:
    """The readings of one turn.

    Attributes:
        monotonic_s: time of the turn.
        readings: of the sources that were due.
        gap_s: seconds since the last sample if it was late, else 0.
    """

    monotonic_s: float
    readings: Sequence[Reading]
    gap_s: float = 0.0

    def values(self) -> dict[str, float]:
        """Values by field name; readings without a value are left out."""
        measured = ((field_of(reading.quantity, reading.rail), reading.value) for reading in self.readings)
        return {name: value for name, value in measured if value is not None}


@dataclass(frozen=True)
class _Owner:
    """Who last had a value of a field: the source's place in the order, when, and how often it is read."""

    place: int
    at_s: float
    period_s: float


@dataclass
class Sampler:
    """Samples sources; `run` blocks, `start` does it in a thread.

    Two sources may report one field (jtop reads the chip that the INA3221 source reads too): the one that stands first
    counts, the other takes its place while the first has no value.

    Attributes:
        sources: in order of preference; each is read no more often than its own period.
        interval_s: time between two turns, in seconds.
        listeners: called with each sample, in the sampler's thread; they must return quickly.
        energy: by field "power_w:RAIL", since the start.
        latest: by field, the last reading; it has no value where its source was read and did not report the field.
        measuring: by name of a source, whether its last read gave any value.
    """

    sources: Sequence[Source]
    interval_s: float = 0.1
    listeners: list[Callable[[Sample], None]] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._due = [float("-inf")] * len(self.sources)
        self._meters: dict[str, EnergyMeter] = {}
        self._last: float | None = None
        self._stop = threading.Event()
        self.latest: dict[str, Reading] = {}
        self.measuring: dict[str, bool] = {}
        self._owners: dict[str, _Owner] = {}

    @property
    def energy(self) -> dict[str, Energy]:
        """Energy by field, for every rail measured so far."""
        # A copy first, in one step: the sampling thread may add a rail meanwhile.
        return {name: meter.total for name, meter in dict(self._meters).items()}

    def start(self) -> threading.Thread:
        """Runs in a thread of its own until `stop`."""
        thread = threading.Thread(target=self.run, name="sampler", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Stops after the current turn."""
        self._stop.set()

    def run(self) -> None:
        """Samples until stopped."""
        due = self.clock()
        while not self._stop.is_set():
            self.turn()
            due += self.interval_s
            # By the clock and not by the interval alone: reading takes time, which would add up.
            left = due - self.clock()
            if left < -self.interval_s:
                due = self.clock()  # late by more than a turn: skip the missed turns
            elif left > 0:
                # Not sleep: stop() ends the wait.
                self._stop.wait(left)

    def turn(self) -> Sample:
        """One sample, now."""
        now = self.clock()
        readings: list[Reading] = []
        for position, source in enumerate(self.sources):
            if now >= self._due[position]:
                period = max(self.interval_s, source.period_s)
                read = source.read()
                self.measuring[source.name] = any(reading.value is not None for reading in read)
                mine = _Owner(position, now, period)
                readings += [one for one in (*read, *self._missing(source, read)) if self._take(one, mine)]
                # Half a turn early, since rounding up would make it a whole turn late.
                self._due[position] = now + period - self.interval_s / 2
        gap = 0.0 if self._last is None or now - self._last <= LATE * self.interval_s else now - self._last
        self._last = now
        sample = Sample(now, readings, gap)
        for listener in self.listeners:
            listener(sample)
        return sample

    def _missing(self, source: Source, readings: Sequence[Reading]) -> list[Reading]:
        """Readings without a value for fields that the source no longer reports, so that no old value is shown."""
        names = {field_of(reading.quantity, reading.rail) for reading in readings}
        return [
            Reading(last.quantity, None, last.source, last.rail, reason=f"{source.name} no longer reports it")
            for name, last in self.latest.items()
            if last.source == source.name and name not in names
        ]

    def _take(self, reading: Reading, mine: _Owner) -> bool:
        """Keeps a reading; False where another source counts for its field now."""
        name = field_of(reading.quantity, reading.rail)
        owner = self._owners.get(name, mine)
        is_fresh = mine.at_s - owner.at_s <= LATE * owner.period_s
        if owner.place != mine.place and is_fresh and (owner.place < mine.place or reading.value is None):
            return False
        self.latest[name] = reading
        if reading.value is not None:
            self._owners[name] = mine
        if reading.quantity == "power_w":
            meter = self._meters.setdefault(name, EnergyMeter(0.0))
            # By the source's own period: one that is slower than the sampler is not late at each sample.
            meter.longest_s = LATE * mine.period_s
            meter.add(mine.at_s, reading.value)
        return True
