"""The processor's clock and the memory that is left, by sysfs and procfs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from telemetry.readings import Reading
from telemetry.sources.sysfs import Gauge, NumberFile, SysfsSource, text_or_reason

_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)


class Processor(SysfsSource):
    """Clock of the first core in hertz, and available memory in bytes."""

    name = "processor"
    problem, remedy = "neither clock nor memory can be read", "mount /proc and /sys"

    def gauges(self) -> Iterator[Gauge]:
        """The clock, where the kernel manages it (virtual machines have none)."""
        clock = self.root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
        if clock.exists():
            # cpufreq gives kilohertz.
            yield Gauge("clock_hz", "cpu", (NumberFile(clock),), scale=1e3)

    def read(self) -> list[Reading]:
        """Clock and memory."""
        text, reason = text_or_reason(self.root / "proc/meminfo")
        match = _AVAILABLE.search(text or "")
        if match is None:
            memory = Reading("memory_bytes", None, self.name, "available", reason=reason or "meminfo: no MemAvailable")
        else:
            memory = Reading("memory_bytes", 1024.0 * int(match[1]), self.name, "available")
        return [*super().read(), memory]
