from __future__ import annotations

import rasterio
from rasterio._env import get_gdal_config

from onboard.scene.gdal_env import CACHE_BYTES, GDAL_ENV


def test_the_block_cache_is_megabytes_not_bytes() -> None:
    # rasterio hands GDAL_CACHEMAX on as bytes; what GDAL takes for megabytes would leave it without a cache.
    with rasterio.Env(**GDAL_ENV):
        assert get_gdal_config("GDAL_CACHEMAX") == CACHE_BYTES
    assert 64 << 20 <= CACHE_BYTES <= 256 << 20
