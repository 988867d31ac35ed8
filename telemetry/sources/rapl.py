"""RAPL energy counters by the powercap sysfs tree: x86 processors, energy of package and memory.

The counter wraps at `max_energy_range_uj`; since Linux 5.10 only root may read it (CVE-2020-8694).
Source: Documentation/power/powercap/powercap.rst in the Linux kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from telemetry.readings import Reading, SourceState
from telemetry.sources.sysfs import number_or_reason, readable, text_or_reason

NAME = "rapl"


@dataclass(frozen=True)
class Rapl:
    """All RAPL zones under a root."""

    root: Path = Path("/")

    def state(self) -> SourceState:
        """Which zones can be read."""
        zones = list(self._zones())
        open_zones = tuple(rail for rail, folder in zones if readable(folder / "energy_uj"))
        if open_zones:
            return SourceState(NAME, open_zones)
        if zones:
            return SourceState(
                NAME,
                problem="energy_uj is readable by root only",
                remedy="run as root, or let a udev rule open it to this user's group",
            )
        return SourceState(NAME, problem="no powercap zones in sysfs", remedy="expected on bare x86 machines only")

    def read(self) -> list[Reading]:
        """Energy counter of each zone in joules; it wraps at the zone's range."""
        return [self._energy(rail, folder) for rail, folder in self._zones()]

    def range_j(self) -> dict[str, float]:
        """Where each zone's counter wraps, in joules, for those that say."""
        ranges = {rail: number_or_reason(folder / "max_energy_range_uj")[0] for rail, folder in self._zones()}
        return {rail: limit / 1e6 for rail, limit in ranges.items() if limit is not None}

    def _zones(self) -> Iterator[tuple[str, Path]]:
        for folder in sorted(self.root.glob("sys/class/powercap/*-rapl:*")):
            rail, _ = text_or_reason(folder / "name")
            if rail and (folder / "energy_uj").exists():
                yield rail, folder

    def _energy(self, rail: str, folder: Path) -> Reading:
        microjoules, reason = number_or_reason(folder / "energy_uj")
        if microjoules is None:
            return Reading("energy_j", None, NAME, rail, reason=reason)
        return Reading("energy_j", microjoules / 1e6, NAME, rail)


def counter_step_j(before_j: float, after_j: float, range_j: float) -> float:
    """Energy between two counter readings less than one wrap apart, in joules."""
    step = after_j - before_j
    return step if step >= 0 else step + range_j
