"""RAPL energy counters by the powercap sysfs tree: x86 processors, energy of package and memory.

The counter wraps at `max_energy_range_uj`; since Linux 5.10 only root may read it (CVE-2020-8694).
Source: Documentation/power/powercap/powercap.rst in the Linux kernel.
"""

from __future__ import annotations

from collections.abc import Iterator

from telemetry.readings import Reading, SourceState
from telemetry.sources.sysfs import (
    Gauge,
    NumberFile,
    SysfsSource,
    number_or_reason,
    numbered,
    numbered_name,
    readable,
    text_or_reason,
)

NAME = "rapl"
MOST_W = 10_000.0
"""No zone draws as much: a higher figure is a counter that was set back, by sleep or a driver loaded anew."""
LONGEST_S = 60.0
"""Longest between two readings that make a mean. Counters wrap within minutes on a busy server (65 kJ at some hundred
watts): after a longer silence, such as a stopped process has, nobody knows how often."""


class Rapl(SysfsSource):
    """Joules of all RAPL zones, and watts as the mean since the reading before."""

    name, period_s = NAME, 0.1
    problem, remedy = "no powercap zones in sysfs", "expected on bare x86 machines only"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._before: dict[str, tuple[float, float]] = {}

    def state(self) -> SourceState:
        """Which zones can be read."""
        gauges = list(self.gauges())
        if gauges and not any(readable(gauge.files[0].path) for gauge in gauges):
            return SourceState(
                NAME,
                problem="energy_uj is readable by root only",
                remedy="run as root, or let a udev rule open it to this user's group",
            )
        return super().state()

    def read(self) -> list[Reading]:
        """Energy counter of each zone in joules (it wraps at the zone's range), and its power."""
        counters = super().read()
        return [*counters, *(self._power(counter) for counter in counters)]

    def range_j(self) -> dict[str, float]:
        """Where each zone's counter wraps, in joules, for those that say."""
        ranges = {
            gauge.rail: number_or_reason(gauge.files[0].path.parent / "max_energy_range_uj")[0]
            for gauge in self.gauges()
        }
        return {rail: limit / 1e6 for rail, limit in ranges.items() if limit is not None}

    def gauges(self) -> Iterator[Gauge]:
        """A gauge a zone; zones of one name are numbered: each socket has a zone "dram"."""
        seen: dict[str, int] = {}
        for folder in numbered(self.root.glob("sys/class/powercap/*-rapl:*")):
            rail, _ = text_or_reason(folder / "name")
            if rail and (folder / "energy_uj").exists():
                file = NumberFile(folder / "energy_uj")
                yield Gauge("energy_j", numbered_name(rail, seen), (file,), scale=1e-6)

    def _power(self, counter: Reading) -> Reading:
        now = counter.at.monotonic_s
        # Taken out: after a reading that failed the counter may have wrapped more than once.
        before = self._before.pop(counter.rail, None)
        if counter.value is None:
            return Reading("power_w", None, NAME, counter.rail, reason=counter.reason)
        self._before[counter.rail] = (now, counter.value)
        if before is None or now <= before[0]:
            return Reading("power_w", None, NAME, counter.rail, reason="a counter's first reading")
        if now - before[0] > LONGEST_S:
            return Reading("power_w", None, NAME, counter.rail, reason="a counter's first reading after a silence")
        # The range is looked up where it is needed only: once in hours, not ten times a second.
        range_j = 0.0 if counter.value >= before[1] else self.range_j().get(counter.rail, 0.0)
        step = counter_step_j(before[1], counter.value, range_j)
        if step < 0:
            return Reading("power_w", None, NAME, counter.rail, reason="the counter fell, and its range is not known")
        watts = step / (now - before[0])
        # A counter that was set back looks like one that wrapped, and would add its whole range to the energy.
        if watts > MOST_W and counter.value < before[1]:
            return Reading("power_w", None, NAME, counter.rail, reason="the counter was set back")
        return Reading("power_w", watts, NAME, counter.rail)


def counter_step_j(before_j: float, after_j: float, range_j: float) -> float:
    """Energy between two counter readings less than one wrap apart, in joules."""
    step = after_j - before_j
    return step if step >= 0 else step + range_j
