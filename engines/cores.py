"""The processor, and how many of its cores this process may use: a container's share, not the machine's count."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores by affinity, bounded by the control group's quota (rounded up), at least 1.

    Runtimes that count the machine's cores start sixteen threads in a container that may use two.
    Source: Linux admin-guide/cgroup-v2, cpu.max is "$MAX $PERIOD" in microseconds, $MAX may be "max".
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no version 2 control group here: affinity alone decides
    return max(1, cores)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Its name."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"
