"""Which decoders turn a scene's file into pixels here: they are part of what a map depends on.

Two builds of GDAL with JPEG libraries of different versions decode a JPEG of 4:2:0 subsampling to pixels that differ:
rasterio 1.4.4 and 1.5.2 do, and 0.3 to 0.5 % of a map's classes change. GDAL does not say which JPEG library it was
built with, so a small picture is decoded and its pixels are digested.
"""

from __future__ import annotations

import base64
import hashlib
import warnings
from functools import lru_cache

import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

# A JPEG of 16 x 16 pixels with 4:2:0 subsampling and strong colours, where decoders differ the most.
_PICTURE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAoHBwgHBgoICAgLCgoLDhgQDg0NDh0VFhEYIx8lJCIfIiEmKzcvJik0KSEiMEExNDk7Pj4+JS5ESUM8"
    "SDc9Pjv/2wBDAQoLCw4NDhwQEBw7KCIoOzs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozv/wAARCAAQABAD"
    "ASIAAhEBAxEB/8QAFgABAQEAAAAAAAAAAAAAAAAABAUH/8QAIBAAAgEDBAMAAAAAAAAAAAAAAQIDAAQFETRysSE1c//EABUBAQEAAAAAAAAAAAAA"
    "AAAAAAQF/8QAHBEAAgICAwAAAAAAAAAAAAAAAQIDBQAhBBJC/9oADAMBAAIRAxEAPwCXit03A9igXWGyst5NJHjLx0eRmVlgYggnwQdKfit03A9i"
    "tJsPX23yXoVJ493JUMXRA3bW8VaQiW4kBPlc/9k="
)


@lru_cache(maxsize=1)
def decoder_versions() -> dict[str, str]:
    """Version of rasterio and GDAL, and a digest of what the JPEG decoder makes of a fixed picture; JSON-able."""
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), warnings.catch_warnings(), MemoryFile(_PICTURE) as file:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open(driver="JPEG") as source:
            pixels = source.read()
    return {
        "rasterio": rasterio.__version__,
        "gdal": rasterio.__gdal_version__,
        "jpeg": hashlib.sha256(pixels.tobytes()).hexdigest()[:16],
    }
