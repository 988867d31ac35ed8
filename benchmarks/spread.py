"""Prints the median and spread of several rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):7.3f} [{min(values):.3f} to {max(values):.3f}]"
