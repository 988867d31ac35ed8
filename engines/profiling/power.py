"""What a bench draws, by this machine's own sensors. The one place where engines ask telemetry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from telemetry.discover import main_rail, sources
from telemetry.readings import field_of
from telemetry.sampler import Sampler


class Wattmeter(Protocol):
    """Joules since it was made; None where this machine measures no power."""

    def joules(self) -> float | None:
        """Of the whole machine, or of what of it is measured."""


@contextmanager
def power_meter(root: Path = Path("/")) -> Iterator[Wattmeter | None]:
    """This machine's main rail while the block runs, None where no sensor is readable; ``root`` of its file system."""
    sampler = Sampler(sources(root, with_jtop=False))
    sampler.turn()
    # A counter of energy (RAPL) has a power from its second reading on.
    time.sleep(2 * sampler.interval_s)
    sampler.turn()
    rail = main_rail(list(sampler.latest.values()))
    if rail is None:
        yield None
        return
    name = field_of(rail.quantity, rail.rail)

    class Meter:
        def joules(self) -> float | None:
            return sampler.energy[name].joules

    thread = sampler.start()
    try:
        yield Meter()
    finally:
        sampler.stop()
        thread.join()
