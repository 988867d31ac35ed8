"""The Jetson's power mode by its name, as nvpmodel has set it.

Numbers differ between boards and releases, names do not: the number of now is looked up in the board's own table.
Source: NVIDIA Jetson Linux developer guide, nvpmodel; format of /etc/nvpmodel.conf as its header describes it.
"""

from __future__ import annotations

import re
from pathlib import Path

from telemetry.sources.sysfs import text_or_reason

STATUS, TABLE = "var/lib/nvpmodel/status", "etc/nvpmodel.conf"
# nvpmodel pads the number: pmode:0002.
_NUMBER = re.compile(r"pmode:0*(\d+)")
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")


def power_modes(root: Path = Path("/")) -> dict[int, str]:
    """Names by number of every mode the board has; empty where there is no table."""
    text, _ = text_or_reason(root / TABLE)
    return {int(number): name for number, name in _MODE.findall(text or "")}


def power_mode(root: Path = Path("/")) -> tuple[str | None, str]:
    """The name of the mode in force, or None and the reason."""
    text, reason = text_or_reason(root / STATUS)
    if text is None:
        return None, f"{STATUS}: {reason.partition(': ')[2]}"
    match = _NUMBER.search(text)
    if match is None:
        return None, f"{STATUS}: names no mode: {text[:20]!r}"
    name = power_modes(root).get(int(match[1]))
    return (name, "") if name else (None, f"{TABLE} has no mode {match[1]}")
