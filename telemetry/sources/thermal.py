"""Temperatures by the kernel's thermal zones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from telemetry.readings import Reading, SourceState
from telemetry.sources.sysfs import number_or_reason, text_or_reason

NAME = "thermal"
# A zone that is switched off reads -256 (Jetson) or absurd values; no board works outside of these.
_COLDEST_C, _HOTTEST_C = -100.0, 200.0


@dataclass(frozen=True)
class Thermal:
    """All thermal zones under a root."""

    root: Path = Path("/")

    def state(self) -> SourceState:
        """Which zones give a temperature now."""
        rails = tuple(reading.rail for reading in self.read() if reading.value is not None)
        if rails:
            return SourceState(NAME, rails)
        return SourceState(
            NAME,
            problem="no thermal zone gives a temperature",
            remedy="virtual machines have none; see /sys/class/thermal",
        )

    def read(self) -> list[Reading]:
        """Temperature of each zone in degrees Celsius."""
        return [self._temperature(rail, folder) for rail, folder in self._zones()]

    def hottest(self) -> Reading:
        """The highest of the valid zones: some boards' joint zone (tj-thermal) reads empty."""
        valid = [reading for reading in self.read() if reading.value is not None]
        if not valid:
            return Reading("temperature_c", None, NAME, "hottest", reason=self.state().problem)
        return max(valid, key=lambda reading: reading.value or 0.0)

    def _zones(self) -> Iterator[tuple[str, Path]]:
        for folder in sorted(self.root.glob("sys/class/thermal/thermal_zone*")):
            kind, _ = text_or_reason(folder / "type")
            yield kind or folder.name, folder

    def _temperature(self, rail: str, folder: Path) -> Reading:
        millidegrees, reason = number_or_reason(folder / "temp")
        if millidegrees is None:
            return Reading("temperature_c", None, NAME, rail, reason=reason)
        if not _COLDEST_C <= millidegrees / 1e3 <= _HOTTEST_C:
            return Reading("temperature_c", None, NAME, rail, reason=f"temp: {millidegrees / 1e3:g} is no temperature")
        return Reading("temperature_c", millidegrees / 1e3, NAME, rail)
