"""INA3221 power monitor by hwmon sysfs, as on Jetson boards: millivolts times milliamperes, three rails.

On Orin NX: VDD_IN is the whole module, VDD_CPU_GPU_CV is CPU *and* GPU, VDD_SOC the rest of the chip.
Source: NVIDIA Jetson Linux developer guide, "Platform power and performance", for path and labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from telemetry.sources.sysfs import Gauge, NumberFile, SysfsSource, text_or_reason

NAME = "ina3221"
_PATTERN = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"
LOWEST_W, HIGHEST_W = -1.0, 1000.0
"""Bounds of what the chip measures on a board: 26 V at some ten amperes. A current near 0 may read a little below it.
To the governor one sample of a garbled register would be a whole orbit's energy."""
# The driver's virtual channel adds shunt voltages, and boards call unconnected inputs NC: neither is a rail.
_NO_RAIL = re.compile(r"sum of shunt|^NC$", re.IGNORECASE)


class Ina3221(SysfsSource):
    """Watts of all rails of all INA3221 chips."""

    name, period_s = NAME, 0.1
    problem, remedy = "no INA3221 in sysfs", "expected on a Jetson only; in a container mount /sys read-only"

    def gauges(self) -> Iterator[Gauge]:
        """A gauge a labelled channel."""
        for folder in sorted(self.root.glob(_PATTERN)):
            for label_file in sorted(folder.glob("in*_label")):
                label, _ = text_or_reason(label_file)
                number = label_file.name.removeprefix("in").removesuffix("_label")
                if label and not _NO_RAIL.search(label):
                    files = NumberFile(folder / f"in{number}_input"), NumberFile(folder / f"curr{number}_input")
                    # Millivolts times milliamperes are microwatts.
                    yield Gauge("power_w", label, files, 1e-6, LOWEST_W, HIGHEST_W)
