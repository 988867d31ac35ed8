"""Power of the machine at rest, as `onboard calibrate` measured it."""

from __future__ import annotations

import json
from pathlib import Path

from onboard.settings import Settings


def idle_path(settings: Settings) -> Path:
    """The file that `onboard calibrate` writes."""
    return settings.telemetry_dir / "idle.json"


def calibrated_idle_w(settings: Settings, main: str) -> float | None:
    """Watts of the main rail at rest, None where nobody calibrated it."""
    try:
        calibration = json.loads(idle_path(settings).read_text(encoding="utf-8"))
        return float(calibration["idle_w"][main])
    except (OSError, ValueError, KeyError, TypeError):
        return None
