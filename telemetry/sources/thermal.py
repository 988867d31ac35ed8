"""Temperatures by the kernel's thermal zones."""

from __future__ import annotations

from collections.abc import Iterator

from telemetry.readings import Reading
from telemetry.sources.sysfs import Gauge, NumberFile, SysfsSource, numbered, numbered_name, text_or_reason

NAME = "thermal"
# A zone that is switched off reads -256 (Jetson) or absurd values; no board works outside of these.
_COLDEST_C, _HOTTEST_C = -100.0, 200.0


class Thermal(SysfsSource):
    """Degrees Celsius of all thermal zones."""

    name = NAME
    problem, remedy = "no thermal zone gives a temperature", "virtual machines have none; see /sys/class/thermal"

    def gauges(self) -> Iterator[Gauge]:
        """A gauge a zone; zones of one name are numbered."""
        seen: dict[str, int] = {}
        for folder in numbered(self.root.glob("sys/class/thermal/thermal_zone*")):
            kind, _ = text_or_reason(folder / "type")
            rail = numbered_name(kind or folder.name, seen)
            file = NumberFile(folder / "temp")
            yield Gauge("temperature_c", rail, (file,), 1e-3, _COLDEST_C, _HOTTEST_C)

    def hottest(self) -> Reading:
        """The highest of the valid zones: some boards' joint zone (tj-thermal) reads empty."""
        return hottest_of(self.read(), self.state().problem)


def hottest_of(readings: list[Reading], problem: str = "nothing measured a temperature") -> Reading:
    """The highest temperature among readings, or the reason why there is none."""
    valid = [reading for reading in readings if reading.quantity == "temperature_c" and reading.value is not None]
    if not valid:
        return Reading("temperature_c", None, NAME, "hottest", reason=problem)
    return max(valid, key=lambda reading: reading.value or 0.0)
