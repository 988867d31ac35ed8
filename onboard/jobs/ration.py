"""The governor's books on disk, so that a worker that dies does not begin an orbit's allotment anew."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from onboard.jobs.governor import Governor
from onboard.jobs.measured import Measured

NOTE_S = 10.0
FILE = "governor.json"


class Ration:
    """Notes a governor's state every ten seconds, by the history's tick, and gives it back after a restart.

    Ticks count running, over restarts and reboots. Time in which the machine was off is not in them, and an orbit goes
    on meanwhile: after a reboot the allotment lasts longer than the orbit, never less long.
    """

    def __init__(self, folder: Path, governor: Governor) -> None:
        self._path, self._governor = folder / FILE, governor
        self._resumed = False
        self._noted: int | None = None

    def turn(self, told: Measured, now_s: float) -> None:
        """Called with each measurement; the first takes up what was noted."""
        if not self._governor.limits.any or not told.tick:
            return
        if not self._resumed:
            self._resumed = True
            self._take_up(told.tick, now_s)
        if self._noted is None or told.tick - self._noted >= 1000 * NOTE_S:
            self._noted = told.tick
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                fresh = self._path.with_suffix(".new")
                fresh.write_text(json.dumps(self._governor.state(now_s) | {"tick": told.tick}), encoding="utf-8")
                fresh.replace(self._path)

    def _take_up(self, tick: int, now_s: float) -> None:
        try:
            noted = json.loads(self._path.read_text(encoding="utf-8"))
            silent_s = (tick - int(noted["tick"])) / 1000
            if silent_s >= 0:
                self._governor.resume(noted, silent_s, now_s)
        except (OSError, ValueError, KeyError, TypeError):
            return
