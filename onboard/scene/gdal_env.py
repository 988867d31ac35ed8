"""GDAL options under which every file is opened, here and in mapping."""

from __future__ import annotations

from typing import Final

CACHE_BYTES: Final = 128 << 20

GDAL_ENV: Final[dict[str, str | int | bool]] = {
    # Blocks of a row of tiles stay decoded between neighbouring tiles; GDAL's default is 5 % of all memory. In bytes:
    # GDAL itself takes small numbers for megabytes, rasterio hands them on as bytes, and 128 bytes are no cache.
    "GDAL_CACHEMAX": CACHE_BYTES,
    # Listing a folder of thousands of scenes takes longer than reading one; TRUE still finds a mask (.msk) by name,
    # which EMPTY_DIR would not.
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    # Write no .aux.xml files beside scenes or maps. Those of scenes are read: see SCENE_ENV.
    "GDAL_PAM_ENABLED": "NO",
    # No file ending is allowed to be fetched: a path inside a file cannot make us ask the network.
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".never",
    "GDAL_HTTP_MAX_RETRY": 0,
    "GDAL_HTTP_TIMEOUT": 1,
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    # A damaged block is an error, not a warning and zeros.
    "GTIFF_IGNORE_READ_ERRORS": "NO",
}

WRITE_ENV: Final[dict[str, str | int | bool]] = GDAL_ENV | {"GDAL_CACHEMAX": 32 << 20}
"""To write a map: its blocks are written once, and the scene's are needed no more. Entering it frees those at once."""

SCENE_ENV: Final[dict[str, str | int | bool]] = GDAL_ENV | {"GDAL_PAM_ENABLED": "YES"}
"""To open a scene: CRS, control points, polynomials and no-data values in its .aux.xml count, as for all GDAL readers.
GDAL decides at opening; it writes such a file only for what a program sets or has computed, which we never do."""
