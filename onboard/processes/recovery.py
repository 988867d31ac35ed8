"""Runs the operator's command (a reboot, for example) while the engine is lost, with a least time between runs."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engines.files import replace_file
from onboard.jobs.timestamps import timestamp

log = logging.getLogger(__name__)


class Recovery:
    """Starts a command at most every so many minutes, over restarts of the worker and of the machine.

    Args:
        command: split as a shell would, run without one; None does nothing.
        minutes: least time between two runs. After a reboot the machine must have been up for as long: a command that
            reboots must not do so for ever.
        memory: file that remembers the last run.
        now: see :func:`onboard.jobs.timestamps.timestamp`.
    """

    def __init__(
        self, command: str | None, minutes: float, memory: Path, now: Callable[[], Mapping[str, Any]] = timestamp
    ) -> None:
        self._command, self._least_s, self._memory, self._now = command, 60 * minutes, memory, now

    def attempt(self) -> bool:
        """Starts it if it is time, and does not wait for it; True if it was started."""
        if self._command is None or not self._is_time():
            return False
        try:
            # Noted first, and durably: the command may reset the machine at once.
            replace_file(self._memory, json.dumps(dict(self._now())).encode())
        except OSError as error:
            # Without the note it could be run, and the machine be reset, again and again.
            log.warning("ONBOARD_RECOVERY_COMMAND is not run, for its time cannot be noted: %s", error)
            return False
        try:
            words = shlex.split(self._command)
            # Not waited for: it may take as long as it likes, or end us.
            os.posix_spawnp(words[0], words, os.environ, setpgroup=0)
        except (OSError, ValueError, IndexError) as error:
            log.warning("ONBOARD_RECOVERY_COMMAND %r cannot be run: %s", self._command, error)
            return False
        return True

    def _is_time(self) -> bool:
        now = self._now()
        try:
            last = json.loads(self._memory.read_text(encoding="utf-8"))
            since = now["uptime_s"] - last["uptime_s"] if last["boot_id"] == now["boot_id"] else now["uptime_s"]
        except FileNotFoundError:
            return True
        # Unreadable: taken for a run of another boot, so that the machine must have been up for long enough.
        except (OSError, ValueError, KeyError, TypeError):
            since = now["uptime_s"]
        return bool(since >= self._least_s)
