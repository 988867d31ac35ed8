"""INA3221 power monitor by hwmon sysfs, as on Jetson boards: millivolts times milliamperes, three rails.

On Orin NX: VDD_IN is the whole module, VDD_CPU_GPU_CV is CPU *and* GPU, VDD_SOC the rest of the chip.
Source: NVIDIA Jetson Linux developer guide, "Platform power and performance", for path and labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from telemetry.readings import Reading, SourceState
from telemetry.sources.sysfs import number_or_reason, text_or_reason

NAME = "ina3221"
_PATTERN = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
# The driver's virtual channel adds shunt voltages; it is no rail.
_NO_RAIL = re.compile(r"sum of shunt", re.IGNORECASE)


@dataclass(frozen=True)
class _Channel:
    rail: str
    millivolts: Path
    milliamperes: Path


@dataclass(frozen=True)
class Ina3221:
    """All rails of all INA3221 chips under a root."""

    root: Path = Path("/")

    def state(self) -> SourceState:
        """Which rails there are."""
        channels = list(self._channels())
        if channels:
            return SourceState(NAME, tuple(channel.rail for channel in channels))
        return SourceState(
            NAME,
            problem="no INA3221 in sysfs",
            remedy="expected on a Jetson only; in a container mount /sys read-only",
        )

    def read(self) -> list[Reading]:
        """Power of each rail in watts."""
        return [self._power(channel) for channel in self._channels()]

    def _channels(self) -> Iterator[_Channel]:
        for folder in sorted(self.root.glob(_PATTERN)):
            for label_file in sorted(folder.glob("in*_label")):
                label, _ = text_or_reason(label_file)
                number = label_file.name.removeprefix("in").removesuffix("_label")
                if label and not _NO_RAIL.search(label):
                    yield _Channel(label, folder / f"in{number}_input", folder / f"curr{number}_input")

    def _power(self, channel: _Channel) -> Reading:
        millivolts, no_voltage = number_or_reason(channel.millivolts)
        milliamperes, no_current = number_or_reason(channel.milliamperes)
        if millivolts is None or milliamperes is None:
            return Reading("power_w", None, NAME, channel.rail, reason=no_voltage or no_current)
        return Reading("power_w", millivolts * milliamperes / 1e6, NAME, channel.rail)
