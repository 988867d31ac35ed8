"""What a bench draws, by this machine's own sensors. The one place where engines ask telemetry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from telemetry.discover import main_rail, sources
from telemetry.energy import Energy
from telemetry.readings import field_of
from telemetry.sampler import Sampler

LEAST_COVERED = 0.5
"""Share of the time that must have been measured for a figure of energy: a sensor may vanish meanwhile, and a bench may
be shorter than the time between two samples."""


class Wattmeter(Protocol):
    """Counts energy since it was made."""

    def energy(self) -> Energy:
        """Of the whole machine, or of what of it is measured."""


def joules_between(before: Energy, after: Energy, seconds: float) -> float | None:
    """Energy of so many seconds by the mean power between two readings; None where too little of it was measured."""
    step = after.since(before)
    return None if step.mean_w is None or step.covered_s < LEAST_COVERED * seconds else step.mean_w * seconds


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
        def energy(self) -> Energy:
            return sampler.energy[name]

    thread = sampler.start()
    try:
        yield Meter()
    finally:
        sampler.stop()
        thread.join()
