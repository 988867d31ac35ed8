#!/usr/bin/env bash
# GDAL (libtiff) hands each block of a ZSTD GeoTIFF to Zstandard as a stream of unknown length: the frames in the file state no
# decompressed size, and Zstandard takes the tables that it has for endless input. For class rasters of two pixels a byte
# (blocks of 512 x 512, NBITS=4: 131,072 bytes) a level is then not what its number says: at 15 and 17 the blocks are 25 % and 16 %
# longer than the very same bytes compressed at the same level in one call, at 9 and 19 as long.
# One would guess that ZSTD_LEVEL=17 gives what `zstd -17` gives of the block, give or take some bytes of header, and that sizes
# measured with the library choose the level for GDAL.
#
# Seen (Python 3.11, Linux x86-64, rasterio 1.4.4 with GDAL 3.10.3, Zstandard 1.5.7):
#   level  9: in the file 17069, in one call 17064 bytes, no size stated
#   level 15: in the file 16247, in one call 13038 bytes, no size stated
#   level 17: in the file 14746, in one call 12730 bytes, no size stated
#   level 19: in the file 12507, in one call 12522 bytes, no size stated
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6 backports-zstd==1.8.0
cd "$work"
cat > blocks.py <<'PY'
import warnings

import numpy as np
import rasterio
from backports import zstd

warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
SIDE = 1024


def field(seed):
    """Noise with more of it at long waves, as terrain has."""
    noise = np.fft.rfft2(np.random.default_rng(seed).normal(size=(SIDE, SIDE)))
    waves = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    waves[0, 0] = 1
    return np.fft.irfft2(noise * waves**-1.6, s=(SIDE, SIDE))


# Five classes in patches with ragged borders, one class for every 2 x 2 pixels.
codes = 1 + np.argmax([field(seed) for seed in range(5)], axis=0).astype("uint8")
codes = codes[::2, ::2].repeat(2, 0).repeat(2, 1)
profile = dict(
    driver="GTiff", width=SIDE, height=SIDE, count=1, dtype="uint8", nbits=4, compress="zstd",
    tiled=True, blockxsize=512, blockysize=512,
)
longer = {}
for level in (9, 15, 17, 19):
    with rasterio.open("map.tif", "w", zstd_level=level, **profile) as file:
        file.write(codes, 1)
    raw, stored, once = open("map.tif", "rb").read(), 0, 0
    with rasterio.open("map.tif") as file:
        assert (file.read(1) == codes).all()
        for row, column in np.ndindex(2, 2):
            offset, size = (
                int(file.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE")
            )
            block = raw[offset : offset + size]
            assert zstd.get_frame_info(block).decompressed_size is None, "the frame states its size now"
            packed = zstd.decompress(block)
            assert len(packed) == 512 * 512 // 2
            stored, once = stored + size, once + len(zstd.compress(packed, level=level))
    print(f"level {level:2}: in the file {stored}, in one call {once} bytes, no size stated")
    longer[level] = stored / once - 1
assert longer[15] > 0.15 and longer[17] > 0.1, "blocks are no longer than those of one call now"
assert abs(longer[9]) < 0.02 and abs(longer[19]) < 0.02, "levels 9 and 19 differ now"
PY
"$work/venv/bin/python" blocks.py
