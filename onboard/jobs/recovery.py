"""What is run when the engine stays lost: the operator's own command, not too often."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable


class Recovery:
    """Runs a command at most every so many minutes.

    Args:
        command: split as a shell would, run without one; None does nothing.
        minutes: least time between two runs.
        clock: seconds since boot: after a reboot the next run waits again, or the board would reboot for ever.
    """

    def __init__(self, command: str | None, minutes: float, clock: Callable[[], float] | None = None) -> None:
        self._command, self._least_s = command, 60 * minutes
        self._clock = clock or _since_boot
        self._last = 0.0

    def attempt(self) -> bool:
        """Runs it if it is time; True if it was run."""
        if self._command is None or self._clock() - self._last < self._least_s:
            return False
        self._last = self._clock()
        subprocess.run(shlex.split(self._command), check=False, timeout=300, stdin=subprocess.DEVNULL)
        return True


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
