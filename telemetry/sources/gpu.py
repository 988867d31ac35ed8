"""Load and clock of an integrated GPU by devfreq: on Orin 17000000.ga10b (JetPack 5) or 17000000.gpu (JetPack 6)."""

from __future__ import annotations

from collections.abc import Iterator

from telemetry.sources.sysfs import Gauge, NumberFile, SysfsSource


class Gpu(SysfsSource):
    """Load as a share and clock in hertz."""

    name = "gpu"
    problem, remedy = "no GPU in devfreq", "expected on a Jetson only"

    def gauges(self) -> Iterator[Gauge]:
        """Clock and load of each GPU device."""
        for folder in sorted(self.root.glob("sys/class/devfreq/*")):
            if not folder.name.endswith((".gpu", ".ga10b", ".gv11b")):
                continue
            yield Gauge("clock_hz", "gpu", (NumberFile(folder / "cur_freq"),))
            # devfreq's load is in tenths of a percent.
            yield Gauge("load", "gpu", (NumberFile(folder / "device" / "load"),), 1e-3, 0.0, 1.0)
