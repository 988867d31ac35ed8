"""The first bytes of a TIFF."""

from __future__ import annotations

from typing import Final

TIFF_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First four bytes, little and big endian, of TIFF 6.0 and of BigTIFF."""


def is_tiff_start(start: bytes) -> bool:
    """Whether a file that begins with these bytes (four at least) says that it is a TIFF."""
    return start[:4] in TIFF_STARTS
