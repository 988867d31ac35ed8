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

from telemetry.readings import Reading, SourceState, Timestamp
from telemetry.sources.ina3221 import HIGHEST_W, LOWEST_W

NAME = "jtop"
SILENCE_S = 5.0
RETRY_S = 30.0
OFFLINE_C = -256.0
"""Temperature that jtop reports for a sensor that is switched off."""
_SECTIONS = {"watts": "power_w", "celsius": "temperature_c", "load": "load"}
_SILENT = f"jtop has been silent for {SILENCE_S:g} s", "systemctl restart jtop.service"


class Jtop:
    """Reads jtop through a child process, which is restarted when it ends or hangs. Never raises while reading.

    A thread receives the child's lines; the methods are for one thread at a time.

    Args:
        command: of the process.
        clock: monotonic seconds.

    Attributes:
        heard: event that is set when the process sent a message or ended.
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
        self._started = self._received_s = float("-inf")
        # One attribute for both, since the listening thread replaces it while others read.
        self._last_message: tuple[Timestamp, dict[str, Any]] | None = None
        self._problem = "it has not answered yet", "look again in a few seconds"
        self.heard = threading.Event()

    def state(self) -> SourceState:
        """The rails that have a value now."""
        readings = self.read()
        rails = tuple(dict.fromkeys(reading.rail for reading in readings if reading.value is not None))
        if rails:
            return SourceState(NAME, rails)
        problem, remedy = self._why()
        return SourceState(NAME, problem=problem, remedy=remedy)

    def read(self) -> list[Reading]:
        """Readings of the last message with its time: W, degrees Celsius, loads 0..1; empty if it is too old."""
        self._keep_running()
        message = self._fresh()
        if message is None:
            return []
        at, line = message
        return [
            _reading(quantity, rail, value, at)
            for section, quantity in _SECTIONS.items()
            for rail, value in line[section].items()
        ]

    def mode(self) -> tuple[str | None, str]:
        """Name of the power mode, or None and the reason."""
        message = self._fresh()
        if message is None:
            return None, self._why()[0]
        name = message[1].get("mode")
        return (str(name), "") if name else (None, "jtop names no mode")

    def set_mode(self, name: str, allowed: Sequence[str]) -> str:
        """Requests a power mode from jtop's service; returns why it was refused, or "". See `mode` for the effect.

        Only names in ``allowed`` are requested: jtop does not mark every mode that needs a reboot (it compares masks of
        the GPU, not the number of cores). The request is made without force, so nothing reboots.
        """
        if name not in allowed:
            return f"mode {name} is not among those that may be set ({', '.join(allowed) or 'none'})"
        message = self._fresh()
        process = self._process
        if message is None or process is None or process.stdin is None:
            return self._why()[0]
        known = message[1].get("modes") or []
        if name not in known:
            return f"this board has no mode {name}; it has {', '.join(known) or 'none that jtop knows'}"
        if name in (message[1].get("marked") or []):
            return f"jtop marks mode {name} as one that cannot be set while the board runs; it needs a reboot"
        try:
            process.stdin.write(f"mode {name}\n")
            process.stdin.flush()
        except (OSError, ValueError) as error:
            return f"jtop: {error}"
        return ""

    def close(self) -> None:
        """Ends the process."""
        process, self._process, self._last_message = self._process, None, None
        if process is None:
            return
        # Not terminate: it may hang in jtop's service, and has nothing to save.
        process.kill()
        process.wait()
        if process.stdin is not None:
            with suppress(OSError):  # what it had not read yet
                process.stdin.close()

    def _fresh(self) -> tuple[Timestamp, dict[str, Any]] | None:
        return self._last_message if self._clock() - self._received_s <= SILENCE_S else None

    def _silent(self) -> bool:
        process = self._process
        waited_s = self._clock() - max(self._started, self._received_s)
        return process is not None and process.poll() is None and waited_s > SILENCE_S

    def _why(self) -> tuple[str, str]:
        return _SILENT if self._silent() else self._problem

    def _keep_running(self) -> None:
        """Starts the process if it is missing, has ended or hangs; at most every RETRY_S."""
        silent = self._silent()
        if self._process is not None and self._process.poll() is None and not silent:
            return
        if self._clock() - self._started < RETRY_S:
            return
        self.close()
        if silent:
            self._problem = _SILENT
        self._started = self._clock()
        try:
            # Nobody would read stderr, and a full pipe would stop the process.
            self._process = subprocess.Popen(
                list(self._command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            self._problem = f"cannot be started: {error.strerror}", "reinstall this software"
            return
        threading.Thread(target=self._listen, args=(self._process,), name="jtop", daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        explained, lines = False, process.stdout
        if lines is None:
            return
        # The pipe is closed here and nowhere else: closing it under a reader would wait for the reader.
        with suppress(ValueError, OSError), lines:
            for line in lines:
                message = _parsed(line)
                # A process that was replaced may still have lines in its pipe.
                if message is not None and process is self._process:
                    # A process that said why it ends keeps its own words; another gets its exit status.
                    explained = "problem" in message
                    self._receive(message)
        status = process.wait()
        if process is self._process and not explained:
            self._last_message = None
            self._problem = f"jtop's process ended with status {status}", f"see what it says: {' '.join(self._command)}"
            self.heard.set()

    def _receive(self, message: dict[str, Any]) -> None:
        self._received_s = self._clock()
        if "problem" in message:
            self._last_message, self._problem = None, (str(message["problem"]), str(message.get("remedy", "")))
        else:
            self._last_message = Timestamp.now(), message
            self._problem = "jtop gives no value", "see what `jtop` itself shows"
        self.heard.set()


def _parsed(line: str) -> dict[str, Any] | None:
    """The message of a line; None for other output, since libraries print to stdout too."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if not isinstance(message, dict):
        return None
    is_complete = all(isinstance(message.get(section), dict) for section in _SECTIONS)
    return message if "problem" in message or is_complete else None


def _reading(quantity: str, rail: str, value: object, at: Timestamp) -> Reading:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return Reading(quantity, None, NAME, rail, at, reason="jtop gives no number")
    if quantity == "temperature_c" and value <= OFFLINE_C:
        return Reading(quantity, None, NAME, rail, at, reason="the sensor is switched off")
    if quantity == "power_w" and not LOWEST_W <= value <= HIGHEST_W:
        return Reading(quantity, None, NAME, rail, at, reason=f"jtop says {value:g} W")
    return Reading(quantity, float(value), NAME, rail, at)
