"""Folders of files that this software can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """ENGINES_CACHE_DIR, else a folder in the user's cache. It need not exist."""
    if named := os.environ.get("ENGINES_CACHE_DIR"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onboard-landcover"


def engines_dir() -> Path:
    """Engines built for this device."""
    return cache_dir() / "engines"
