"""Energy, time and temperature that one scene took, from its first byte read to its map, over all its runs.

Kept in a small file beside the canvas, so that a scene that was interrupted goes on counting. What was spent between
the last note and a SIGKILL is not known; it is left out and counted as a gap.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engines.files import replace_file
from onboard.power.receiver import TelemetryMessage
from telemetry.energy import Energy

NOTE_S = 10.0
"""Between two notes in the file."""
FILE = "account.json"


class SceneEnergy:
    """Counts one scene's run; one thread.

    Args:
        folder: of the canvas; may not be there yet.
        clock: monotonic seconds, the sampling process's own (one clock for all processes).
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = folder / FILE, clock
        self._before = _read(self._path)
        self._run = Energy()
        self._last: tuple[float, str, Energy] | None = None
        self._heat: tuple[float, float] | None = self._before[2]
        self._seconds = self._before[1]
        self._at = self._noted = clock()
        self.missing = "nothing was heard from the sampling process"
        self.rail = ""
        self.idle_w: float | None = None

    def take(self, message: TelemetryMessage) -> None:
        """Counts what was measured since the last time this was called."""
        now = self._clock()
        self._seconds += now - self._at
        self._at = now
        if message.hottest_c is not None:
            low, high = self._heat or (message.hottest_c, message.hottest_c)
            self._heat = (min(low, message.hottest_c), max(high, message.hottest_c))
        total = message.main_energy()
        if total is None:
            self.missing = message.main_problem or "the rail was lost"
            return
        self.rail, self.idle_w = message.main, message.idle_w
        # Sampling may have been started again, and counts from zero then.
        if self._last is not None and self._last[:2] == (message.began_s, message.main):
            step = total.since(self._last[2])
            self._run = self._run.plus(Energy(step.joules, step.covered_s, step.gap_s, message.main_power_w()))
        self._last = (message.began_s, message.main, total)
        if now - self._noted >= NOTE_S:
            self.note()

    @property
    def energy(self) -> Energy:
        """Energy of all runs so far; time without a measurement is in its gap."""
        joined = self._before[0].plus(self._run)
        # At least 0: time is counted here, energy by the sampling process in steps of half a second.
        return Energy(joined.joules, joined.covered_s, max(0.0, self._seconds - joined.covered_s), joined.peak_w)

    def note(self) -> None:
        """Writes down what was counted; not synced, for it is worth no more than a canvas."""
        self._noted = self._clock()
        energy = self.energy
        record = {
            "joules": energy.joules, "covered_s": energy.covered_s, "peak_w": energy.peak_w,
            "seconds": self._seconds, "heat": self._heat,
        }  # fmt: skip
        with suppress(OSError):
            replace_file(self._path, json.dumps(record).encode(), durable=False)

    def facts(self, *, tiles: int, area_m2: float | None) -> Mapping[str, Any]:
        """As properties of the map: figures, or null and why."""
        heat = None if self._heat is None else {"least": round(self._heat[0], 1), "most": round(self._heat[1], 1)}
        energy = self.energy
        if energy.covered_s <= 0 or energy.mean_w is None:
            return {"energy_j": None, "energy_missing": f"no power was measured: {self.missing}", "temperature_c": heat}
        idle = self.idle_w
        return {
            "energy_j": round(energy.joules, 2),
            "energy": {
                "rail": self.rail.partition(":")[2],
                "mean_power_w": round(energy.mean_w, 3),
                "peak_power_w": None if energy.peak_w is None else round(energy.peak_w, 3),
                "idle_power_w": idle,
                "net_power_w": None if idle is None else round(energy.mean_w - idle, 3),
                "net_energy_j": None if idle is None else round(energy.net_j(idle), 2),
                "measured_s": round(energy.covered_s, 2),
                "unmeasured_s": round(energy.gap_s, 2),
                "joules_per_tile": round(energy.joules / tiles, 4) if tiles else None,
                "joules_per_km2": round(energy.joules / (area_m2 / 1e6), 4) if area_m2 else None,
            },
            "temperature_c": heat,
        }


def _read(path: Path) -> tuple[Energy, float, tuple[float, float] | None]:
    """The record of earlier runs: energy, seconds, (lowest, highest) temperature."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        heat = record["heat"]
        energy = Energy(float(record["joules"]), float(record["covered_s"]), 0.0, record["peak_w"])
        return energy, float(record["seconds"]), None if heat is None else (float(heat[0]), float(heat[1]))
    # No file at a scene's first run; a damaged one costs the figures of earlier runs and not the scene.
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return Energy(), 0.0, None
