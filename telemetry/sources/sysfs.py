"""Reads numbers from sysfs files that may be absent, forbidden, empty or invalid, and may disappear and come back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from telemetry.readings import Reading, SourceState

RETRY_S = 10.0
"""Seconds between two searches for files, so that a lost source is found again."""


def text_or_reason(path: Path) -> tuple[str | None, str]:
    """The file's stripped text, or None and the reason."""
    try:
        # A byte that is no ASCII must end as a reason, not as an exception.
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        return None, f"{path.name}: {(error.strerror or str(error)).lower()}"
    if not text:
        return None, f"{path.name}: empty"
    return text, ""


def number_or_reason(path: Path) -> tuple[float | None, str]:
    """The file's number, or None and the reason."""
    text, reason = text_or_reason(path)
    if text is None:
        return None, reason
    try:
        return float(text), ""
    except ValueError:
        return None, f"{path.name}: not a number: {text[:20]!r}"


def readable(path: Path) -> bool:
    """Whether this process may read the file."""
    return os.access(path, os.R_OK)


def numbered(paths: Iterable[Path]) -> list[Path]:
    """In the order of the numbers they end with: zone10 after zone9."""
    return sorted(paths, key=lambda path: (len(path.name), path.name))


def numbered_name(name: str, seen: dict[str, int]) -> str:
    """The name the first time, with a number after it from the second on; counts in ``seen``."""
    seen[name] = seen.get(name, 0) + 1
    return name if seen[name] == 1 else f"{name}-{seen[name]}"


class NumberFile:
    """A file that stays open between reads; each read is one pread at offset 0, where sysfs updates its text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def read(self) -> tuple[float | None, str]:
        """The number, or None and the reason; after a failure the next read opens the file again."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            text = os.pread(self._descriptor, 64, 0)
        except OSError as error:
            # A driver that was bound anew has new files behind the same path, and the old descriptor fails for ever.
            self.close()
            return None, f"{self.path.name}: {(error.strerror or str(error)).lower()}"
        try:
            return float(text), ""
        except ValueError:
            content = text.decode("ascii", "replace").strip()
            return None, f"{self.path.name}: not a number: {content[:20]!r}" if content else f"{self.path.name}: empty"

    def close(self) -> None:
        """Closes it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True)
class Gauge:
    """A quantity computed from one or more files: their product times ``scale``.

    Attributes:
        quantity: as in Reading; rail: as in Reading.
        files: whose numbers are multiplied.
        lowest, highest: valid range; other values mean that the sensor is off.
    """

    quantity: str
    rail: str
    files: Sequence[NumberFile]
    scale: float = 1.0
    lowest: float = float("-inf")
    highest: float = float("inf")

    def reading(self, source: str) -> Reading:
        """Its value now."""
        value = self.scale
        for file in self.files:
            number, reason = file.read()
            if number is None:
                return Reading(self.quantity, None, source, self.rail, reason=reason)
            value *= number
        if not self.lowest <= value <= self.highest:
            names = " x ".join(file.path.name for file in self.files)
            return Reading(self.quantity, None, source, self.rail, reason=f"{names}: says {value:g}")
        return Reading(self.quantity, value, source, self.rail)


@dataclass
class SysfsSource:
    """Base class of sources that read sysfs; a subclass gives its name and gauges. Never raises while reading.

    Attributes:
        root: of the file system.
    """

    root: Path = Path("/")
    clock: Callable[[], float] = time.monotonic
    name: str = field(init=False, default="")
    period_s: float = field(init=False, default=1.0)
    problem: str = field(init=False, default="")
    remedy: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self._gauges: list[Gauge] = []
        self._searched = float("-inf")

    def gauges(self) -> Iterator[Gauge]:
        """Searches for the files of this source."""
        raise NotImplementedError

    def state(self) -> SourceState:
        """The rails that have a value now."""
        self._search()
        rails = tuple(dict.fromkeys(reading.rail for reading in self.read() if reading.value is not None))
        if rails:
            return SourceState(self.name, rails)
        return SourceState(self.name, problem=self._why(), remedy=self.remedy)

    def read(self) -> list[Reading]:
        """A reading for each gauge."""
        # Also with files open: a zone may have come or gone.
        if not self._gauges or self.clock() - self._searched >= RETRY_S:
            self._search()
        return [gauge.reading(self.name) for gauge in self._gauges]

    def close(self) -> None:
        """Closes all files."""
        for gauge in self._gauges:
            for file in gauge.files:
                file.close()
        self._gauges = []

    def _search(self) -> None:
        """Searches again, at most every RETRY_S while nothing is found; keeps files that still exist."""
        now = self.clock()
        if not self._gauges and now - self._searched < RETRY_S and self._searched > float("-inf"):
            return
        self._searched = now
        gauges = list(self.gauges())
        # Equal gauges stay: their files are open, and this search is repeated every RETRY_S.
        if [(g.quantity, g.rail, [f.path for f in g.files]) for g in gauges] != [
            (g.quantity, g.rail, [f.path for f in g.files]) for g in self._gauges
        ]:
            self.close()
            self._gauges = gauges

    def _why(self) -> str:
        reasons = [reading.reason for reading in self.read() if reading.reason]
        return reasons[0] if reasons else self.problem
