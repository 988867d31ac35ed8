"""What a bench draws, by this machine's own sensors. The one place where engines ask telemetry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from telemetry.discover import main_rail, sources
from telemetry.readings import field_of
from telemetry.sampler import Sampler


class Wattmeter(Protocol):
    """Joules since it was made; None where this machine measures no power."""

    def joules(self) -> float | None:
        """Of the whole machine, or of what of it is measured."""


@contextmanager
def power_meter() -> Iterator[Wattmeter | None]:
    """This machine's main rail while the block runs, None where no sensor is readable."""
    sampler = Sampler(sources(with_jtop=False))
    rail = main_rail(sampler.turn().readings)
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
