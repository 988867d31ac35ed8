#!/usr/bin/env bash
# async-geotiff 0.5.1 (async-tiff 0.7.2) opens a GeoTIFF of 4-bit samples, as GDAL writes it with NBITS=4, without a word: shape and
# georeferencing are right, only `dtype` is None. Reading it then fails with an internal error that speaks of half the bytes
# (two samples a byte), not of the sample size. The same raster with 8 bits is read right, and GDAL reads both.
# One would guess that a reader refuses at the opening what it cannot decode, or unpacks what is baseline TIFF.
#
# Seen (Python 3.11, Linux x86-64, rasterio 1.4.4, obstore 0.12.1):
#   8 bits: dtype uint8, read: equal
#   4 bits: dtype None, read: ValueError: ... Got data length 32768, expected 65536
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    async-geotiff==0.5.1 async-tiff==0.7.2 obstore==0.12.1 rasterio==1.4.4
cd "$work"
cat > read.py <<'PY'
import asyncio

import numpy as np
import rasterio
from async_geotiff import GeoTIFF, Window
from obstore.store import LocalStore

codes = (np.indices((512, 512)).sum(axis=0) // 40 % 6).astype("uint8")
profile = dict(
    driver="GTiff", width=512, height=512, count=1, dtype="uint8", crs="EPSG:32640", compress="deflate",
    transform=rasterio.Affine(1, 0, 3e5, 0, -1, 2.8e6), tiled=True, blockxsize=256, blockysize=256,
)
for bits in (8, 4):
    with rasterio.open(f"{bits}.tif", "w", nbits=bits, **profile) as file:
        file.write(codes, 1)
    with rasterio.open(f"{bits}.tif") as file:
        assert (file.read(1) == codes).all(), "GDAL reads what it wrote"


async def main() -> list[str]:
    seen = []
    for bits in (8, 4):
        tiff = await GeoTIFF.open(f"{bits}.tif", store=LocalStore("."))
        assert tiff.shape == (512, 512)
        try:
            window = await tiff.read(window=Window(0, 0, 512, 512))
            read = "equal" if np.array_equal(np.asarray(window.data)[0], codes) else "different"
        except ValueError as error:
            read = f"ValueError: ... {str(error).split('. ')[-1]}"
        seen.append(f"{bits} bits: dtype {tiff.dtype}, read: {read}")
    return seen


lines = asyncio.run(main())
print("\n".join(lines))
assert lines == [
    "8 bits: dtype uint8, read: equal",
    "4 bits: dtype None, read: ValueError: ... Got data length 32768, expected 65536",
], "it behaves otherwise now"
PY
"$work/venv/bin/python" read.py
