"""jtop (jetson-stats, optional) as a second choice on Jetson: rails, temperatures, GPU load and power mode.

Its package is never imported here: see :mod:`telemetry.sources.jtop_process`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from telemetry.readings import Moment, Reading, SourceState

NAME = "jtop"
SILENCE_S = 5.0
RETRY_S = 30.0
OFFLINE_C = -256.0
"""What jtop says of a sensor that is switched off."""


class Jtop:
    """A jtop process, started again when it ends. Never raises while reading.

    Args:
        command: of the process.
        clock: monotonic seconds.
    """

    name = NAME
    period_s = 1.0

    def __init__(
        self,
        command: Sequence[str] = (sys.executable, "-m", "telemetry.sources.jtop_process"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command, self._clock = command, clock
        self._process: subprocess.Popen[str] | None = None
        self._started = float("-inf")
        self._told: tuple[Moment, dict[str, Any]] | None = None
        self._problem, self._remedy = "it has not answered yet", "look again in a few seconds"
        self.heard = threading.Event()

    def state(self) -> SourceState:
        """Which rails it gives now."""
        rails = tuple(dict.fromkeys(one.rail for one in self.read() if one.value is not None))
        if rails:
            return SourceState(NAME, rails)
        return SourceState(NAME, problem=self._problem, remedy=self._remedy)

    def read(self) -> list[Reading]:
        """What its last line said; nothing where that is too old."""
        self._keep_running()
        told = self._told
        if told is None:
            return []
        at, line = told
        if self._clock() - at.monotonic_s > SILENCE_S:
            self._problem, self._remedy = f"jtop has been silent for {SILENCE_S:g} s", "systemctl restart jtop.service"
            return []
        found = [_reading("power_w", rail, value, at) for rail, value in line.get("watts", {}).items()]
        found += [_reading("temperature_c", rail, value, at) for rail, value in line.get("celsius", {}).items()]
        found += [_reading("load", rail, value, at) for rail, value in line.get("load", {}).items()]
        return found

    def mode(self) -> tuple[str | None, str]:
        """Name of the power mode, or None and the reason."""
        name = None if self._told is None else self._told[1].get("mode")
        return (str(name), "") if name else (None, self._problem or "jtop names no mode")

    def set_mode(self, name: str, allowed: Sequence[str]) -> str:
        """Asks jtop's service for a power mode; gives why not, or nothing. It comes about later, or not.

        Only names in ``allowed``. jtop's service is asked without force: it refuses a mode that needs a reboot.
        """
        if name not in allowed:
            return f"mode {name} is not among those that may be set ({', '.join(allowed) or 'none'})"
        known = [] if self._told is None else self._told[1].get("modes", [])
        if known and name not in known:
            return f"this board has no mode {name}; it has {', '.join(known)}"
        process = self._process
        if process is None or process.stdin is None or self._told is None:
            return self._problem or "jtop does not run"
        try:
            process.stdin.write(f"mode {name}\n")
            process.stdin.flush()
        except OSError as error:
            return f"jtop: {error}"
        return ""

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _keep_running(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        if self._clock() - self._started < RETRY_S:
            return
        self.close()
        self._started = self._clock()
        try:
            self._process = subprocess.Popen(
                list(self._command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            self._problem, self._remedy = f"cannot be started: {error.strerror}", "reinstall this software"
            return
        threading.Thread(target=self._listen, args=(self._process,), name="jtop", daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        with suppress(ValueError, OSError):  # closed under us
            for line in process.stdout or ():
                try:
                    told = json.loads(line)
                except ValueError:
                    continue
                if "problem" in told:
                    self._told = None
                    self._problem, self._remedy = str(told["problem"]), str(told["remedy"])
                else:
                    self._told, self._problem = (Moment.now(), told), ""
                self.heard.set()


def _reading(quantity: str, rail: str, value: object, at: Moment) -> Reading:
    if not isinstance(value, (int, float)):
        return Reading(quantity, None, NAME, rail, at, reason="jtop gives no number")
    if quantity == "temperature_c" and value <= OFFLINE_C:
        return Reading(quantity, None, NAME, rail, at, reason="the sensor is switched off")
    return Reading(quantity, float(value), NAME, rail, at)
