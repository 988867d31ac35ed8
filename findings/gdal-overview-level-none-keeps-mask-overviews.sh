#!/usr/bin/env bash
# GDAL 3.10.3 (rasterio 1.4.4): the open option OVERVIEW_LEVEL=NONE hides a GeoTIFF's overviews from decimated reads of its
# pixels, but a decimated read of its mask still comes from the mask's overviews. Who reads without overviews because they
# may be stale gets right pixels and a stale mask, without a warning.
# Seen: pixels and mask were rewritten after the overviews were built. Decimated pixels 50 (true 50; the stale overview says 113);
# decimated mask mean 191.2 to 192.8 (true 255).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rasterio==1.4.4 numpy==2.2.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import rasterio
from rasterio.enums import Resampling

SIDE = 1024
with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
    with rasterio.open("scene.tif", "w", driver="GTiff", width=SIDE, height=SIDE, count=1, dtype="uint8", tiled=True) as new:
        new.write(np.full((1, SIDE, SIDE), 113, np.uint8))
        mask = np.full((SIDE, SIDE), 255, np.uint8)
        mask[: SIDE // 4] = 0
        new.write_mask(mask)
    with rasterio.open("scene.tif", "r+") as again:
        again.build_overviews([2, 4, 8], Resampling.nearest)
    with rasterio.open("scene.tif", "r+") as again:
        again.write(np.full((1, SIDE, SIDE), 50, np.uint8))
        again.write_mask(np.full((SIDE, SIDE), 255, np.uint8))

shape = (SIDE // 8, SIDE // 8)
with rasterio.open("scene.tif") as usual:
    stale = float(usual.read(1, out_shape=shape).mean())
with rasterio.open("scene.tif", OVERVIEW_LEVEL="NONE") as scene:
    pixels = float(scene.read(1, out_shape=shape).mean())
    mask = float(scene.read_masks(1, out_shape=shape).mean())
    whole = float(scene.read_masks(1).mean())
print(f"GDAL {rasterio.__gdal_version__}: overview {stale}, without overviews {pixels}; mask {mask:.1f}, read whole {whole}")
assert (stale, pixels, whole) == (113.0, 50.0, 255.0)
assert mask < 200, "the mask is read without overviews too"
PY
