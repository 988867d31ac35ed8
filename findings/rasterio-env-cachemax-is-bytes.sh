#!/usr/bin/env bash
# rasterio 1.4.4 (GDAL 3.10.3): GDAL_CACHEMAX has two units. In the process's environment GDAL reads 64 as megabytes; in
# rasterio.Env(GDAL_CACHEMAX=64) the same number is bytes, and text such as "64MB", which GDAL's environment takes, is a
# TypeError. An Env of 64 leaves the reader without a block cache: nothing warns, pixels are right, and each window decodes its
# blocks again.
# Seen: environment 64: 67108864 bytes; Env 64: 64 bytes; "64MB": TypeError.
#       64 reads of one row out of a row of blocks: 1 read of each block's bytes with 64 MB, 64 with 64.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rasterio==1.4.4 numpy==2.2.6
cd "$work"
cat > look.py <<'PY'
import io
import warnings

import numpy as np
import rasterio
from rasterio._env import get_gdal_config
from rasterio.windows import Window

warnings.simplefilter("ignore")
SIDE, BLOCK = 512, 256
with rasterio.open("scene.tif", "w", driver="GTiff", width=SIDE, height=SIDE, count=1, dtype="uint8", tiled=True,
                   blockxsize=BLOCK, blockysize=BLOCK, compress="deflate") as new:
    new.write(np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE), dtype=np.uint8))
    new_size = SIDE * BLOCK


class Counted(io.FileIO):
    """A file that counts the bytes read from it."""

    read_bytes = 0

    def read(self, size=-1):
        data = super().read(size)
        Counted.read_bytes += len(data)
        return data


def times_read(cache):
    """How many times the first row of blocks is read from the file for 64 windows of one row each."""
    with rasterio.Env(GDAL_CACHEMAX=cache):
        with rasterio.open("scene.tif", opener=lambda path, mode="rb", **_: Counted(path, "rb")) as scene:
            Counted.read_bytes = 0
            for row in range(64):
                scene.read(1, window=Window(0, row, SIDE, 1))
    return round(Counted.read_bytes / new_size)


with rasterio.Env(GDAL_CACHEMAX=64):
    inside = get_gdal_config("GDAL_CACHEMAX")
try:
    with rasterio.Env(GDAL_CACHEMAX="64MB"):
        text = "taken"
except TypeError:
    text = "TypeError"
print(f"Env 64: {inside} bytes; \"64MB\": {text}; read with 64 MB: {times_read(64 << 20)}, with 64: {times_read(64)}")
assert (inside, text) == (64, "TypeError")
assert times_read(64 << 20) <= 1 < 32 <= times_read(64)
PY
GDAL_CACHEMAX=64 "$work/venv/bin/python" - <<'PY'
import rasterio
from rasterio._env import get_gdal_config

with rasterio.Env():
    size = get_gdal_config("GDAL_CACHEMAX")
print(f"environment 64: {size} bytes")
assert size == 64 << 20
PY
"$work/venv/bin/python" look.py
