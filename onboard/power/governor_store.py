"""The governor's state on disk, so that a new worker does not begin an orbit's energy budget anew."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from engines.files import replace_file
from onboard.power.governor import Governor
from onboard.power.receiver import TelemetryMessage

NOTE_S = 10.0
FILE = "governor.json"


class GovernorStore:
    """Saves a governor's state every ten seconds, by the history's tick, and restores it after a restart.

    Ticks count running, over restarts and reboots. Time in which the machine was off is not in them, and an orbit goes
    on meanwhile: after a reboot the allotment lasts longer than the orbit, never less long.
    """

    def __init__(self, folder: Path, governor: Governor) -> None:
        self._path, self._governor = folder / FILE, governor
        self._resumed = False
        self._noted: int | None = None

    def update(self, message: TelemetryMessage, now_s: float) -> None:
        """Called with each message; the first one restores the saved state."""
        if not self._governor.limits.any or not message.tick:
            return
        if not self._resumed:
            self._resumed = True
            self._take_up(message.tick, now_s)
        if self._noted is None or message.tick - self._noted >= 1000 * NOTE_S:
            self._noted = message.tick
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                state = self._governor.state(now_s) | {"tick": message.tick}
                # Not synced: every ten seconds that would wear the storage.
                replace_file(self._path, json.dumps(state).encode(), durable=False)

    def _take_up(self, tick: int, now_s: float) -> None:
        try:
            noted = json.loads(self._path.read_text(encoding="utf-8"))
            silent_s = (tick - int(noted["tick"])) / 1000
            # A tick that fell back is that of another history: how long the silence was cannot be told.
            if silent_s >= 0:
                self._governor.resume(noted, silent_s, now_s)
        except (OSError, ValueError, KeyError, TypeError):
            return
