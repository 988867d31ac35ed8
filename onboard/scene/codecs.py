"""Compressions that this build of GDAL cannot decode: the file is sound, and the error says so."""

from __future__ import annotations

import re

OTHER_CODECS = "deliver it as DEFLATE, ZSTD, LZW or 8-bit JPEG: gdal_translate -co COMPRESS=DEFLATE"
_NAMES = {"JXL": "JPEG XL", "JP2000": "JPEG 2000", "JPEG2000": "JPEG 2000", "WEBP": "WebP", "LERC": "LERC"}
# What GDAL 3.9 to 3.12 and libtiff say; a code is a number of the TIFF tag Compression.
_MISSING = (
    re.compile(r"missing codec(?: of code)? ([\w-]+)"),
    re.compile(r"([\w-]+) compression support is not configured"),
    re.compile(r"compression scheme (\d+).* not supported", re.IGNORECASE),
)
_TWELVE_BITS = re.compile(r"data precision 12|12.?bit JPEG|JPEG.{0,40}12.?bit|BITS_IN_SAMPLE=12", re.IGNORECASE)


def missing_codec(text: str) -> str | None:
    """The compression that an error text of GDAL says is not built in, None where it says something else."""
    if _TWELVE_BITS.search(text):
        return "12-bit JPEG"
    for pattern in _MISSING:
        if match := pattern.search(text):
            return _NAMES.get(match[1].upper(), match[1])
    return None
