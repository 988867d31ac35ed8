"""Which sources this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from telemetry.readings import Reading, SourceState
from telemetry.sources.ina3221 import Ina3221
from telemetry.sources.rapl import Rapl
from telemetry.sources.thermal import Thermal


class Source(Protocol):
    """A place that measures."""

    def state(self) -> SourceState:
        """Whether it is there, and if not, why not."""

    def read(self) -> list[Reading]:
        """One reading for each of its rails; never raises."""


def sources(root: Path = Path("/")) -> list[Source]:
    """Every source we know, first choice first, found or not."""
    return [Ina3221(root), Rapl(root), Thermal(root)]
