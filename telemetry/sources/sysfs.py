"""Reading sysfs files that may be absent, forbidden, empty or garbled."""

from __future__ import annotations

import os
from pathlib import Path


def text_or_reason(path: Path) -> tuple[str | None, str]:
    """The file's stripped text, or None and the reason."""
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        return None, f"{path.name}: {(error.strerror or str(error)).lower()}"
    if not text:
        return None, f"{path.name}: empty"
    return text, ""


def number_or_reason(path: Path) -> tuple[float | None, str]:
    """The file's number, or None and the reason."""
    text, reason = text_or_reason(path)
    if text is None:
        return None, reason
    try:
        return float(text), ""
    except ValueError:
        return None, f"{path.name}: not a number: {text[:20]!r}"


def readable(path: Path) -> bool:
    """Whether this process may read the file."""
    return os.access(path, os.R_OK)
