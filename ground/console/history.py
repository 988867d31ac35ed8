"""Curves from the Parquet files of `ground telemetry`, thinned here so that a page gets some hundred points.

A curve is a row of bins over the time asked for: the mean of each, and its highest value. A bin in which nothing was
measured is null, never zero. Rows that several files have count once, as of the first of these: a pass that was cut
pulls a page again, and more of it.
"""

from __future__ import annotations

import re
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ground.console.rows import Damaged, Floats, Rows, joined, read_rows
from ground.telemetry import HISTORY

_FILE = re.compile(r"(?P<epoch>\d{3})-\d{15}-\d{15}\.parquet")
_MOST_FIELDS = 24
_IDLE, _WORK = 0.1, 0.9
"""Share of a row's time with work below which it counts as idle, and above which it counts as work: as `onboard report`
has it."""
MOST_ROWS = 200_000
"""Rows that are kept in memory, some 70 MB; beyond them blocks of running time become one row each."""
FIRST_BLOCK_S = 15.0
MOST_ORBITS = 2000
_LONGEST_BLOCK_S = 1e6
_Stamp = tuple[str, int, int]
"""Name, size and time of a file."""


class NoHistory(Exception):
    """There is none, or it cannot be read; the message says what to do."""


class HistoryFiles:
    """Curves of a telemetry folder; any thread may ask.

    Args:
        folder: of `ground telemetry`.
        most_rows: kept in memory.
    """

    def __init__(self, folder: Path, most_rows: int = MOST_ROWS) -> None:
        self._folder, self._most_rows = folder / HISTORY, most_rows
        self._lock = threading.Lock()
        self._block_s = 0.0
        # By name, size and time: a file that has changed is another one and is read anew.
        self._read: dict[_Stamp, list[Rows]] = {}
        self._after: dict[_Stamp, float] = {}
        self._damaged: dict[_Stamp, str] = {}
        self._joined: tuple[tuple[_Stamp, ...], Rows | None, int] | None = None

    def curves(
        self, begin_s: float | None, end_s: float | None, points: int, orbit_s: float, *, last_s: float | None = None
    ) -> dict[str, Any]:
        """What the page draws.

        Args:
            begin_s: UTC seconds by the clock aboard, None for an open end.
            end_s: likewise.
            points: bins at most; fewer where rows are longer than such a bin.
            orbit_s: seconds an orbit, for the energy of each.
            last_s: instead of a begin, so many seconds up to the last row.

        Returns:
            "from_s", "to_s" of all there is; "time_s" (bins,), and by series name lists of as many numbers or None.

        Raises:
            NoHistory: see the class.
        """
        rows, unset, unread = self._rows()
        first, last = float(rows.utc_s.min()), float(rows.utc_s.max())
        low = first if begin_s is None else begin_s
        high = last if end_s is None else end_s
        if last_s is not None:
            low = max(first, high - last_s)
        inside = (rows.utc_s >= low) & (rows.utc_s <= high)
        span = max(high - low, 1.0)
        # Bins of two rows and more: narrower ones would show a gap where a row comes a moment late.
        longest = rows.covered_s[inside].max(initial=1e-3)
        points = max(1, min(points, int(span / (2 * longest))))
        edges = np.linspace(low, low + span, points + 1)
        # The last row lies on the last edge and would fall behind the last bin.
        bins = np.clip(np.searchsorted(edges, rows.utc_s[inside], side="right") - 1, 0, points - 1)
        shown = _Shown(rows, inside, bins, points)
        return {
            "from_s": first, "to_s": last, "rows": int(shown.count.sum()), "unread": unread,
            "clock_set_back": bool((np.diff(rows.utc_s) < 0).any()), "clock_unset_rows": unset,
            "time_s": np.round((edges[:-1] + edges[1:]) / 2, 3).tolist(), **shown.curves(orbit_s),
        }  # fmt: skip

    def _rows(self) -> tuple[Rows, int, list[str]]:
        """All rows, how many of them had no clock, and the names of files that cannot be read."""
        with self._lock:
            names = tuple(sorted(self._files()))
            if not names:
                raise NoHistory("no telemetry has come yet; `ground telemetry URL --dest FOLDER` pulls it")
            if self._joined is None or self._joined[0] != names:
                # Let go before the files are read: both at once would take twice the memory.
                self._joined = None
                self._read_all(names)
                parts = [part for name in names for part in self._read.get(name, ())]
                unset = int(sum(part.count[~np.isfinite(part.utc_s)].sum() for part in parts))
                self._joined = names, joined(parts) if parts else None, unset
            _, rows, unset = self._joined
            unread = [f"{name[0]} {self._damaged[name]}" for name in names if name in self._damaged]
            if rows is None:
                raise NoHistory("; ".join(unread[:1]) or "the telemetry that came has no rows yet")
            return rows, unset, unread

    def _read_all(self, names: tuple[_Stamp, ...]) -> None:
        """Reads what is new, and thins all of it whenever there is more than may be kept."""
        kept = set(names)
        self._read = {name: parts for name, parts in self._read.items() if name in kept}
        self._after = {name: after_s for name, after_s in self._after.items() if name in kept}
        self._damaged = {name: reason for name, reason in self._damaged.items() if name in kept}
        count = sum(len(part) for parts in self._read.values() for part in parts)
        # By epoch, the running time up to which rows were read: a later file adds what lies behind it.
        until: dict[int, float] = {}
        for name in names:
            epoch = int(name[0][:3])
            after_s = until.get(epoch, -np.inf)
            if name in self._damaged:
                continue
            if name in self._read and self._after[name] == after_s:
                until[epoch] = _end_of(self._read[name], after_s)
                continue
            # Also where a file before it came, went or was mended.
            count -= sum(len(part) for part in self._read.pop(name, ()))
            try:
                self._read[name] = read_rows(self._folder / name[0], epoch, self._block_s, after_s)
            # Costs its own rows alone; the page names the file.
            except Damaged as error:
                self._damaged[name] = str(error)
                continue
            except ImportError:
                raise NoHistory(f"curves need pyarrow: {sys.executable} -m pip install pyarrow") from None
            self._after[name], until[epoch] = after_s, _end_of(self._read[name], after_s)
            count += sum(len(part) for part in self._read[name])
            # All rows, so that blocks have one length, which only grows: joined rows cannot be taken apart.
            while count > self._most_rows and self._block_s < _LONGEST_BLOCK_S:
                self._block_s = max(FIRST_BLOCK_S, 2 * self._block_s)
                self._read = {
                    done: [part.thinned(self._block_s) for part in parts] for done, parts in self._read.items()
                }
                count = sum(len(part) for parts in self._read.values() for part in parts)

    def _files(self) -> list[_Stamp]:
        if not self._folder.is_dir():
            return []
        found = []
        for path in self._folder.iterdir():
            # No links: what lies outside the folder is not the station's.
            if _FILE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                with suppress(FileNotFoundError):  # a pull has just put a longer one in its place
                    facts = path.stat()
                    found.append((path.name, facts.st_size, facts.st_mtime_ns))
        return found


class _Shown:
    """The rows of one span of time, in bins."""

    def __init__(self, rows: Rows, inside: NDArray[np.bool_], bins: NDArray[Any], points: int) -> None:
        self._bins, self._points = bins, points
        self.count, self._covered, self._utc_s = rows.count[inside], rows.covered_s[inside], rows.utc_s[inside]
        self._values = {name: column[inside] for name, column in rows.values.items()}
        self._joules = {name: column[inside] for name, column in rows.joules.items()}
        self._measured = {name: column[inside] for name, column in rows.measured_s.items()}

    def curves(self, orbit_s: float) -> dict[str, Any]:
        """Series, figures of each rail, and energies of orbits."""
        rails, zones = self._named("power_w:", ".mean"), self._named("temperature_c:", ".max")
        means = {rail: self._mean(self._values[f"power_w:{rail}.mean"]) or 0.0 for rail in rails}
        # The one that covers most of the machine.
        main = max(means, key=lambda rail: means[rail], default=None)
        nothing = np.full(len(self.count), np.nan)
        busy = self._values.get("work:busy.mean", nothing)
        return {
            "main": main,
            "power_w": {rail: self._binned(self._values[f"power_w:{rail}.mean"]) for rail in rails},
            "peak_w": {
                rail: self._highest(self._values[f"power_w:{rail}.max"])
                for rail in rails if f"power_w:{rail}.max" in self._values
            },
            "temperature_c": {zone: self._highest(self._values[f"temperature_c:{zone}.max"]) for zone in zones},
            "tiles_per_s": self._binned(self._values.get("work:tiles_per_s.mean", nothing)),
            "busy": self._binned(busy), "rails": [self._rail(rail, busy) for rail in rails],
            "orbits": [] if main is None else self._orbits(f"power_w:{main}.mean", orbit_s),
        }  # fmt: skip

    def _named(self, start: str, end: str) -> list[str]:
        """Rails or zones of which something was measured."""
        names = [name for name in self._values if name.startswith(start) and name.endswith(end)]
        measured = [name for name in names if np.isfinite(self._values[name]).any()]
        return [name.removeprefix(start).removesuffix(end) for name in measured[:_MOST_FIELDS]]

    def _mean(self, values: Floats) -> float | None:
        """By the time that rows cover: a file of seconds counts no more than one of minutes."""
        there = np.isfinite(values)
        weights = self._covered[there]
        return _rounded(float((values[there] * weights).sum() / weights.sum())) if there.any() else None

    def _binned(self, values: Floats) -> list[float | None]:
        """Mean of each bin; None where nothing was measured."""
        there = np.isfinite(values)
        weights = np.bincount(self._bins[there], self._covered[there], self._points)
        sums = np.bincount(self._bins[there], values[there] * self._covered[there], self._points)
        means = sums / np.where(weights > 0, weights, 1.0)
        return [
            _rounded(value) if weight > 0 else None
            for value, weight in zip(means.tolist(), weights.tolist(), strict=True)
        ]

    def _highest(self, values: Floats) -> list[float | None]:
        there = np.isfinite(values)
        out = np.full(self._points, -np.inf)
        # ufunc.at, as bins need not rise: a clock that was set back puts later rows into earlier bins.
        np.maximum.at(out, self._bins[there], values[there])
        return [_rounded(value) if value > -np.inf else None for value in out.tolist()]

    def _rail(self, rail: str, busy: Floats) -> dict[str, Any]:
        name = f"power_w:{rail}.mean"
        power = self._values[name]
        peak = self._values.get(f"power_w:{rail}.max", power)
        idle, work = np.where(busy < _IDLE, power, np.nan), np.where(busy > _WORK, power, np.nan)
        return {
            "rail": rail, "idle_w": self._mean(idle), "work_w": self._mean(work), "mean_w": self._mean(power),
            "peak_w": float(np.nanmax(peak)) if np.isfinite(peak).any() else None,
            "energy_j": float(self._joules[name].sum()), "measured_s": float(self._measured[name].sum()),
        }  # fmt: skip

    def _orbits(self, name: str, orbit_s: float) -> list[dict[str, float]]:
        """Energy of a rail, orbit by orbit from the earliest row on: joules, and the seconds that were measured."""
        if not len(self._utc_s):
            return []
        begin_s = float(self._utc_s.min())
        # Orbits without a row are left out: nothing is known of them, which is not zero.
        orbits, number = np.unique(np.floor((self._utc_s - begin_s) / orbit_s), return_inverse=True)
        joules, measured = (np.bincount(number, column[name]) for column in (self._joules, self._measured))
        rows = zip(orbits.tolist(), joules.tolist(), measured.tolist(), strict=True)
        return [
            {"begin_s": begin_s + orbit * orbit_s, "energy_j": round(energy, 1), "measured_s": took}
            for orbit, energy, took in rows if took > 0
        ][-MOST_ORBITS:]  # fmt: skip


def _end_of(parts: list[Rows], after_s: float) -> float:
    """Seconds of running up to which rows are known, with these behind ``after_s``."""
    return max([after_s, *(part.until_s for part in parts)])


def _rounded(value: float) -> float:
    # Five digits draw the same curve in fewer bytes.
    return float(f"{value:.5g}")
