"""Mean and deviation that normalise pixels of 0..255, for all networks."""

from __future__ import annotations

MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)
"""Per band, of pixels in 0..255. Source: Kirillov et al., "Segment Anything", 2023 (method.md takes SAM's)."""
