"""Signs that the board holds itself back: over-current counters (Jetson) and active cooling devices.

Over-current: cumulative event counters of soctherm. Throttling: a cooling device named after an alert or a processor
whose state is above 0; fans are cooling devices too and are left out.
Source: NVIDIA Jetson Linux developer guide (oc*_event_cnt, *-throttle-alert); Linux thermal sysfs API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from telemetry.sources.sysfs import Gauge, NumberFile, SysfsSource, numbered, text_or_reason

_HOLDS_BACK = re.compile(r"throttle|alert|^processor$|cpufreq|devfreq", re.IGNORECASE)


class OverCurrent(SysfsSource):
    """Over-current events since the board was switched on."""

    name = "overcurrent"
    problem, remedy = "no over-current counters in sysfs", "expected on a Jetson only"

    def gauges(self) -> Iterator[Gauge]:
        """A counter a channel."""
        for file in sorted(self.root.glob("sys/devices/platform/soctherm-oc-event/hwmon/hwmon*/oc*_event_cnt")):
            yield Gauge("over_current_events", file.name.removesuffix("_event_cnt"), (NumberFile(file),), lowest=0.0)


class Throttle(SysfsSource):
    """Steps by which cooling devices hold the machine back; 0 is not at all."""

    name = "throttle"
    problem, remedy = "no cooling device can hold this machine back", "virtual machines have none"

    def gauges(self) -> Iterator[Gauge]:
        """A gauge a device; those of one name are numbered."""
        seen: dict[str, int] = {}
        for folder in numbered(self.root.glob("sys/class/thermal/cooling_device*")):
            kind, _ = text_or_reason(folder / "type")
            if kind is None or not _HOLDS_BACK.search(kind):
                continue
            seen[kind] = seen.get(kind, 0) + 1
            rail = kind if seen[kind] == 1 else f"{kind}-{seen[kind]}"
            yield Gauge("throttle_state", rail, (NumberFile(folder / "cur_state"),), lowest=0.0)
