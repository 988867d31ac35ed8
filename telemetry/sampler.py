"""Asks the sources at a steady rate by the monotonic clock and tells whoever listens.

A turn that came too late is not made up for: the samples that are missing are missing, and the next one says so.
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
"""Intervals after which a sample counts as late, and the time before it as a gap."""


@dataclass(frozen=True)
class Sample:
    """What was measured in one turn.

    Attributes:
        monotonic_s: when.
        readings: of the sources whose turn it was.
        gap_s: seconds since the last sample where that was too long ago, 0 otherwise.
    """

    monotonic_s: float
    readings: Sequence[Reading]
    gap_s: float = 0.0

    def values(self) -> dict[str, float]:
        """By field, what has a value."""
        return {field_of(one.quantity, one.rail): one.value for one in self.readings if one.value is not None}


@dataclass
class Sampler:
    """Samples sources; `run` blocks, `start` does it in a thread.

    Attributes:
        sources: asked no more often than their own period.
        interval_s: of the fastest.
        listeners: called with each sample, in the sampler's thread; they must be quick.
        energy: by field "power_w:RAIL", since the start.
        latest: by field, the last reading of each, with or without a value; without one where its source was asked
            and said nothing of it.
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

    @property
    def energy(self) -> dict[str, Energy]:
        """By field, of every rail that was ever measured."""
        return {name: meter.total for name, meter in self._meters.items()}

    def start(self) -> threading.Thread:
        """Runs in a thread of its own until `stop`."""
        thread = threading.Thread(target=self.run, name="sampler", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Ends it after the turn under way."""
        self._stop.set()

    def run(self) -> None:
        """Samples until stopped."""
        due = self.clock()
        while not self._stop.is_set():
            self.turn()
            due += self.interval_s
            left = due - self.clock()
            if left < -self.interval_s:
                due = self.clock()  # late by more than a turn: what was missed stays missed
            elif left > 0:
                self._stop.wait(left)

    def turn(self) -> Sample:
        """One sample, now."""
        now = self.clock()
        readings: list[Reading] = []
        for position, source in enumerate(self.sources):
            if now >= self._due[position]:
                period = max(self.interval_s, source.period_s)
                told = source.read()
                told = [*told, *self._untold(source, told)]
                for one in told:
                    self._take(one, now, period)
                readings += told
                # Half a turn early rather than a whole one late.
                self._due[position] = now + period - self.interval_s / 2
        gap = 0.0 if self._last is None or now - self._last <= LATE * self.interval_s else now - self._last
        self._last = now
        sample = Sample(now, readings, gap)
        for listener in self.listeners:
            listener(sample)
        return sample

    def _untold(self, source: Source, told: Sequence[Reading]) -> list[Reading]:
        """What a source gave before and is silent about now: its last value must not pass for today's."""
        names = {field_of(one.quantity, one.rail) for one in told}
        return [
            Reading(last.quantity, None, last.source, last.rail, reason=f"{source.name} says nothing of it any more")
            for name, last in self.latest.items()
            if last.source == source.name and name not in names
        ]

    def _take(self, one: Reading, now: float, period_s: float) -> None:
        name = field_of(one.quantity, one.rail)
        self.latest[name] = one
        if one.quantity == "power_w":
            self._meters.setdefault(name, EnergyMeter(LATE * period_s)).add(now, one.value)
