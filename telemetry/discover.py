"""The measurement sources of this machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from telemetry.readings import Reading, SourceState
from telemetry.sources.gpu import Gpu
from telemetry.sources.ina3221 import Ina3221
from telemetry.sources.jtop import Jtop
from telemetry.sources.nvml import Nvml
from telemetry.sources.processor import Processor
from telemetry.sources.rapl import Rapl
from telemetry.sources.thermal import Thermal
from telemetry.sources.throttle import OverCurrent, Throttle

MODULE_RAILS = ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN", "total")
"""Rails that carry a whole module, by the boards' own names; jtop calls its sum "total"."""

SCOPES = ("module", "package", "gpu")
"""What a main rail may cover, widest first; see scope_of."""


class Source(Protocol):
    """A source of readings, such as a power monitor.

    Attributes:
        name: of the source.
        period_s: shortest useful interval between two reads, in seconds.
    """

    name: str
    period_s: float

    def state(self) -> SourceState:
        """Whether the source is available, and if not, why."""

    def read(self) -> list[Reading]:
        """One reading for each of its rails; never raises."""

    def close(self) -> None:
        """Releases its files and processes."""


def sources(root: Path = Path("/"), *, with_jtop: bool | None = None) -> list[Source]:
    """All known sources in order of preference, whether they are available or not.

    Args:
        root: of the file system that is read.
        with_jtop: whether to start a jtop process; None: only on a Jetson whose INA3221 cannot be read.
    """
    ina3221 = Ina3221(root)
    all_sources: list[Source] = [ina3221, Rapl(root), Thermal(root), Gpu(root), Processor(root)]
    all_sources += [OverCurrent(root), Throttle(root)]
    if root == Path("/"):  # neither can be pointed at another root
        all_sources.append(Nvml())
        # jtop reads the same chip through a service and one more process: a second choice.
        if with_jtop or (with_jtop is None and is_jetson(root) and not ina3221.read()):
            all_sources.append(Jtop())
    return all_sources


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether this is a Jetson, by files of NVIDIA's system: a container may hide the device tree."""
    signs = ("etc/nv_tegra_release", "sys/class/devfreq/17000000.gpu", "sys/class/devfreq/17000000.ga10b")
    return any((root / sign).exists() for sign in signs)


def scope_of(reading: Reading) -> str:
    """What a power rail covers: "module", "package" (processor only), "gpu", or "part"."""
    if reading.rail in MODULE_RAILS:
        return "module"
    if reading.source == "rapl":
        return "package" if reading.rail.startswith(("package", "psys")) else "part"
    return "gpu" if reading.source == "nvml" else "part"


def main_rail(readings: Iterable[Reading]) -> Reading | None:
    """The power reading of widest scope: module before package before GPU; None where there is none."""
    measured = [reading for reading in readings if reading.quantity == "power_w" and reading.value is not None]
    candidates = [reading for reading in measured if scope_of(reading) in SCOPES]
    return min(candidates, key=lambda reading: SCOPES.index(scope_of(reading)), default=None)


def measured_period_s(
    source: Source,
    *,
    most_s: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float | None:
    """Measures a source's real update period in seconds by reading it often; None if it hardly changes.

    A sensor averages over an interval of its own; reading more often returns the same number again.
    """
    changes: list[float] = []
    before: list[float | None] | None = None
    begin = clock()
    while clock() - begin < most_s:
        now = [reading.value for reading in source.read()]
        if before is not None and now != before:
            changes.append(clock())
        before = now
        sleep(0.002)
    steps = sorted(after - earlier for earlier, after in itertools.pairwise(changes))
    # The median: a thread that woke late sees two steps as one.
    return steps[len(steps) // 2] if len(steps) >= 3 else None
