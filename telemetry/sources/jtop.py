"""jtop (jetson-stats, optional) as a second choice on Jetson: rails, temperatures, GPU load and power mode.

Its package is never imported here: see :mod:`telemetry.sources.jtop_process`.
"""

from __future__ import annotations

import json
import math
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
_SECTIONS = {"watts": "power_w", "celsius": "temperature_c", "load": "load"}
_SILENT = f"jtop has been silent for {SILENCE_S:g} s", "systemctl restart jtop.service"


class Jtop:
    """A jtop process, started again when it ends or hangs. Never raises while reading.

    Its lines are heard in a thread; the methods are for one thread at a time.

    Args:
        command: of the process.
        clock: monotonic seconds.

    Attributes:
        heard: set whenever the process said something or ended.
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
        self._started = self._heard_s = float("-inf")
        self._told: tuple[Moment, dict[str, Any]] | None = None
        self._trouble = "it has not answered yet", "look again in a few seconds"
        self.heard = threading.Event()

    def state(self) -> SourceState:
        """Which rails it gives now."""
        readings = self.read()
        rails = tuple(dict.fromkeys(one.rail for one in readings if one.value is not None))
        if rails:
            return SourceState(NAME, rails)
        problem, remedy = self._why()
        return SourceState(NAME, problem=problem, remedy=remedy)

    def read(self) -> list[Reading]:
        """What its last line said, as of when it came: watts, degrees Celsius, loads as shares; nothing if too old."""
        self._keep_running()
        told = self._fresh()
        if told is None:
            return []
        at, line = told
        return [
            _reading(quantity, rail, value, at)
            for section, quantity in _SECTIONS.items()
            for rail, value in line[section].items()
        ]

    def mode(self) -> tuple[str | None, str]:
        """Name of the power mode, or None and the reason."""
        told = self._fresh()
        if told is None:
            return None, self._why()[0]
        name = told[1].get("mode")
        return (str(name), "") if name else (None, "jtop names no mode")

    def set_mode(self, name: str, allowed: Sequence[str]) -> str:
        """Asks jtop's service for a power mode; gives why not, or nothing. It comes about later, or not: see `mode`.

        Only names in ``allowed``, for jtop's marks do not know every mode that needs a reboot (it compares masks of
        the GPU, not the number of cores). Its service is asked without force: nothing reboots.
        """
        if name not in allowed:
            return f"mode {name} is not among those that may be set ({', '.join(allowed) or 'none'})"
        told = self._fresh()
        process = self._process
        if told is None or process is None or process.stdin is None:
            return self._why()[0]
        known = told[1].get("modes") or []
        if name not in known:
            return f"this board has no mode {name}; it has {', '.join(known) or 'none that jtop knows'}"
        if name in (told[1].get("marked") or []):
            return f"jtop marks mode {name} as one that cannot be set while the board runs; it needs a reboot"
        try:
            process.stdin.write(f"mode {name}\n")
            process.stdin.flush()
        except (OSError, ValueError) as error:
            return f"jtop: {error}"
        return ""

    def close(self) -> None:
        """Ends the process."""
        process, self._process, self._told = self._process, None, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdin is not None:
            with suppress(OSError):  # what it had not read yet
                process.stdin.close()

    def _fresh(self) -> tuple[Moment, dict[str, Any]] | None:
        return self._told if self._clock() - self._heard_s <= SILENCE_S else None

    def _silent(self) -> bool:
        process = self._process
        waited_s = self._clock() - max(self._started, self._heard_s)
        return process is not None and process.poll() is None and waited_s > SILENCE_S

    def _why(self) -> tuple[str, str]:
        return _SILENT if self._silent() else self._trouble

    def _keep_running(self) -> None:
        """Starts the process where there is none, it ended, or it hangs; at most every RETRY_S."""
        silent = self._silent()
        if self._process is not None and self._process.poll() is None and not silent:
            return
        if self._clock() - self._started < RETRY_S:
            return
        self.close()
        if silent:
            self._trouble = _SILENT
        self._started = self._clock()
        try:
            self._process = subprocess.Popen(
                list(self._command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            self._trouble = f"cannot be started: {error.strerror}", "reinstall this software"
            return
        threading.Thread(target=self._listen, args=(self._process,), name="jtop", daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        explained, lines = False, process.stdout
        if lines is None:
            return
        # The pipe is closed here and nowhere else: closing it under a reader would wait for the reader.
        with suppress(ValueError, OSError), lines:
            for line in lines:
                told = _told(line)
                # A process that was replaced may still have lines in its pipe.
                if told is not None and process is self._process:
                    explained = "problem" in told
                    self._hear(told)
        status = process.wait()
        if process is self._process and not explained:
            self._told = None
            self._trouble = f"jtop's process ended with status {status}", f"see what it says: {' '.join(self._command)}"
            self.heard.set()

    def _hear(self, told: dict[str, Any]) -> None:
        self._heard_s = self._clock()
        if "problem" in told:
            self._told, self._trouble = None, (str(told["problem"]), str(told.get("remedy", "")))
        else:
            self._told, self._trouble = (Moment.now(), told), ("jtop gives no value", "see what `jtop` itself shows")
        self.heard.set()


def _told(line: str) -> dict[str, Any] | None:
    """What a line says; None where it is not one of ours (libraries print, too)."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    if isinstance(told, dict) and ("problem" in told or all(isinstance(told.get(one), dict) for one in _SECTIONS)):
        return told
    return None


def _reading(quantity: str, rail: str, value: object, at: Moment) -> Reading:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return Reading(quantity, None, NAME, rail, at, reason="jtop gives no number")
    if quantity == "temperature_c" and value <= OFFLINE_C:
        return Reading(quantity, None, NAME, rail, at, reason="the sensor is switched off")
    return Reading(quantity, float(value), NAME, rail, at)
