"""The peak memory of a process."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """Of this program since it began."""
    # Not ru_maxrss: exec leaves in it what the process that forked had held.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
