"""Checks a scene."""

from __future__ import annotations

from pathlib import Path

from onboard.scene.reader import SceneOptions


def probe_scene(path: Path, options: SceneOptions | None = None) -> None:
    """Stub."""
