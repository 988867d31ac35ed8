"""Timestamps by every clock aboard, since the wall clock may be wrong."""

from __future__ import annotations

import ctypes
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_TIME_ERROR = 5  # linux/timex.h: the clock is not synchronised


def timestamp() -> dict[str, Any]:
    """Now by every clock there is: order comes from the ledger, durations from ``uptime_s`` of one ``boot_id``.

    "utc" may be wrong by years where "clock_synchronised" is false.
    """
    return {
        "utc": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "boot_id": _boot_id(),
        # BOOTTIME, not MONOTONIC: it counts the time in which the machine was suspended too.
        "uptime_s": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
        "clock_synchronised": is_synchronised(),
    }


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def is_synchronised() -> bool:
    """Whether the kernel says that its clock is synchronised (adjtimex, read only)."""
    buffer = ctypes.create_string_buffer(512)  # struct timex is 208 bytes; zeros ask and set nothing
    try:
        answer = int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer))
    except (OSError, AttributeError):
        return False
    return 0 <= answer < _TIME_ERROR
