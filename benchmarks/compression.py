"""Size of maps of real scenes, compared with other formats and options for the same array."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from engines.open import open_engine
from onboard.mapping.run import MapRequest, map_scene
from products.cog import Tag
from products.gdal_copy import COG_OPTIONS
from products.map_blocks import BLOCK, ZSTANDARD, bits_of, encode_blocks, overview_factors
from products.map_file import MapBands
from trainer.data.landscape import write_landscape

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

POWERS_OF_TWO = [2, 4, 8, 16]
# name, overview factors (None: ours), options beside ours
VARIANTS: tuple[tuple[str, list[int] | None, Mapping[str, str]], ...] = (
    ("by GDAL's COG driver", None, {}),
    ("8 bits a pixel", None, {"NBITS": "8"}),
    ("overviews 2, 4, 8, 16", POWERS_OF_TWO, {}),
    ("overviews 4, 16", [4, 16], {}),
    ("DEFLATE 12", None, {"COMPRESS": "DEFLATE", "LEVEL": "12"}),
    ("LERC_ZSTD, 8 bits", None, {"COMPRESS": "LERC_ZSTD", "MAX_Z_ERROR": "0", "NBITS": "8"}),
    ("LZMA", None, {"COMPRESS": "LZMA", "LEVEL": "6"}),
    ("ZSTD 9", None, {"LEVEL": "9"}),
    ("ZSTD 19", None, {"LEVEL": "19"}),
    ("blocks of 1024", None, {"BLOCKSIZE": "1024"}),
)


def map_sizes(folder: Path, *, quick: bool) -> None:
    """Bytes of each map beside raw RGB, DEFLATE GeoTIFF and PNG; then one map under every option tried."""
    scenes = _scenes(folder, quick=quick)
    print(
        f"{'scene':<12} {'map.tif':>9} {'raw RGB / map':>13} {'DEFLATE GTiff':>13} {'PNG':>9}   (wanted: 150 or more)"
    )
    largest = (0.0, np.zeros((1, 1), np.uint8))
    with open_engine(None) as engine, tempfile.TemporaryDirectory(dir=folder) as work:
        classes = tuple(engine.manifest.classes)
        for scene in scenes:
            summary = map_scene(MapRequest(scene, Path(work)), engine)
            with _unlocated(), rasterio.open(summary.map_path) as source:
                codes: NDArray[np.uint8] = source.read(1)
            ratio = 3 * codes.size / summary.map_bytes
            others = _deflate(codes, Path(work)), _png(codes, Path(work))
            print(f"{scene.stem:<12} {summary.map_bytes:9,} {ratio:13.0f} {others[0]:13,} {others[1]:9,}", flush=True)
            # Options are compared on the hardest map: by bytes a pixel, since scenes differ in size.
            largest = max(largest, (summary.map_bytes / codes.size, codes), key=lambda pair: pair[0])
        codes = largest[1]
        print(f"\nthe map with the most bytes a pixel, {codes.shape[1]} x {codes.shape[0]}, under other options:")
        largest_code = max(item.code for item in classes)
        size, seconds = _as_flown(codes, Path(work), largest_code)
        print(f"{'as flown':<24} {size:9,} bytes  1/{3 * codes.size / size:<5.0f} {seconds:6.2f} s", flush=True)
        for name, levels, changes in VARIANTS:
            size, seconds = _cog(
                codes, Path(work), levels, {**COG_OPTIONS, "NBITS": str(bits_of(largest_code)), **changes}
            )
            print(f"{name:<24} {size:9,} bytes  1/{3 * codes.size / size:<5.0f} {seconds:6.2f} s", flush=True)
        _settings(codes, bits_of(largest_code))


def _settings(codes: NDArray[np.uint8], bits: int) -> None:
    """Prints what Zstandard makes of a map's blocks, by its levels and as we call it."""
    parameter = zstd.CompressionParameter
    settings: dict[str, Mapping[int, int]] = {
        **{f"level {level}": {parameter.compression_level: level} for level in (15, 17, 19)},
        "as flown": ZSTANDARD,
        "as flown, but btopt": {**ZSTANDARD, parameter.strategy: zstd.Strategy.btopt},
    }
    rows = [codes[row : row + BLOCK] for row in range(0, len(codes), BLOCK)]
    print("\nits blocks alone, in one call each, one thread:")
    for name, options in settings.items():
        begin = time.perf_counter()
        size = sum(len(block) for row in rows for block in encode_blocks(row, bits, options))
        seconds = time.perf_counter() - begin
        print(f"{name:<24} {size:9,} bytes  {1e9 * seconds / codes.size:6.0f} ns a pixel", flush=True)


def _scenes(folder: Path, *, quick: bool) -> list[Path]:
    data = Path(os.environ.get("SHARED_DATA", "../shared/data")) / "dubai" / "scenes"
    scenes = sorted(data.glob("scene_*.tif"))
    if not scenes:
        print(f"no real scenes in {data}: a made landscape instead")
        made = folder / "landscape_2048.tif"
        write_landscape(made, seed=7, width=2048, height=2048)
        scenes = [made]
    return scenes[:1] if quick else scenes


def _deflate(codes: NDArray[np.uint8], folder: Path) -> int:
    """GDAL's defaults for DEFLATE, without overviews."""
    path = folder / "plain.tif"
    profile = {"width": codes.shape[1], "height": codes.shape[0], "count": 1, "dtype": "uint8"}
    with _unlocated(), rasterio.open(path, "w", driver="GTiff", compress="deflate", **profile) as target:
        target.write(codes, 1)
    return path.stat().st_size


def _png(codes: NDArray[np.uint8], folder: Path) -> int:
    path = folder / "plain.png"
    Image.fromarray(codes).save(path, optimize=True)
    return path.stat().st_size


def _as_flown(codes: NDArray[np.uint8], folder: Path, largest_code: int) -> tuple[int, float]:
    """Bytes of a map and its overviews as products.map_file writes them, and the seconds of one thread."""
    begin = time.perf_counter()
    bands = MapBands(codes.shape[1], codes.shape[0], largest_code, folder)
    try:
        bands.complete(lambda row, count: codes[row : row + count], 1)
        bands.write(folder / "flown.tif", {258: Tag(3, 1, bytes((bits_of(largest_code), 0)))})
    finally:
        bands.close()
    return (folder / "flown.tif").stat().st_size, time.perf_counter() - begin


def _cog(
    codes: NDArray[np.uint8], folder: Path, levels: list[int] | None, options: Mapping[str, str]
) -> tuple[int, float]:
    """Bytes and seconds of a COG of an array."""
    height, width = codes.shape
    source = folder / "source.tif"
    profile = {"width": width, "height": height, "count": 1, "dtype": "uint8", "nodata": 0}
    with _unlocated():
        with rasterio.open(source, "w", driver="GTiff", **profile) as target:
            target.write(codes, 1)
            target.write_colormap(1, {code: (40 * code, 0, 0) for code in range(6)})
        # Before the clock starts: the COG driver takes overviews that are there, so seconds are those of compression.
        with rasterio.open(source, "r+") as target:
            target.build_overviews(overview_factors(width, height) if levels is None else levels, Resampling.mode)
        begin = time.perf_counter()
        rasterio.shutil.copy(source, folder / "cog.tif", driver="COG", **options)
    return (folder / "cog.tif").stat().st_size, time.perf_counter() - begin


@contextmanager
def _unlocated() -> Iterator[None]:
    """The dubai scenes lie nowhere; that is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
