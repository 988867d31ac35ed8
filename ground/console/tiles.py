"""Map tiles and single pixels of a map's rasters, in Web Mercator, by rio-tiler.

Only the GeoTIFF driver opens a file, and nothing beside it is read: a file that came over the link may not lead GDAL
to others. Maps with control points or rational polynomials alone are warped for display; rio-tiler 9.4.12 by itself
raises on their tiles or reads wrong pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rio_tiler.errors import NoOverviewWarning, RioTilerError
from rio_tiler.io import Reader

from ground.control_points import warp_options
from ground.turns import moved, turns_of

SIZE = 256
MOST_ZOOM = 24
_ENV = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_NUM_THREADS": "1", "GDAL_CACHEMAX": 64 << 20}
"""rasterio hands GDAL_CACHEMAX on as bytes, not as GDAL's own variable, which may mean megabytes."""
_MERCATOR, _DEGREES = CRS.from_epsg(3857), CRS.from_epsg(4326)
Palette = dict[int, tuple[int, int, int, int]]


class NoTile(Exception):
    """There is nothing to draw: no place, no pixel there, or a file that cannot be read."""


def without_warnings() -> None:
    """Maps without a place or overviews are nothing to warn of; for the process, since tiles are read in threads."""
    for category in (NotGeoreferencedWarning, NoOverviewWarning):
        warnings.filterwarnings("ignore", category=category)


@contextmanager
def displayed(path: Path) -> Iterator[Any]:
    """The raster with a transform: as it is, or warped by its control points or rational polynomials.

    Raises:
        NoTile: it has no place, or cannot be read.
    """
    try:
        with rasterio.Env(**_ENV), rasterio.open(path, driver="GTiff") as source:
            options = _warp_options(source)
            if options is None:
                yield source
            else:
                with WarpedVRT(source, crs=_MERCATOR, **options) as warped:
                    yield warped
    except (RasterioError, RioTilerError, ValueError) as error:
        raise NoTile(str(error)) from error


def _warp_options(source: Any) -> dict[str, Any] | None:
    """How to warp it; None where it lies on a grid of its own CRS.

    Raises:
        NoTile: it lies nowhere.
    """
    points, points_crs = source.gcps
    if source.crs is not None and not points:
        return None
    if points and points_crs is not None:
        return warp_options(source, _MERCATOR)
    if source.rpcs is not None:
        return {"src_crs": _DEGREES, "rpcs": source.rpcs}
    raise NoTile("it has no place on Earth")


def class_tile(path: Path, x: int, y: int, z: int) -> bytes:
    """PNG of 256 x 256 pixels, 8 bits, with the map's own palette; code 0 is transparent.

    Raises:
        NoTile: see :func:`displayed`.
    """
    with displayed(path) as raster:
        codes = _tile(raster, x, y, z, [1])[0]
    with rasterio.Env(**_ENV), rasterio.open(path, driver="GTiff") as source:
        palette = _palette(source)
    return _png(codes, palette)


def confidence_tile(path: Path, x: int, y: int, z: int) -> bytes:
    """PNG of a confidence raster (0 is no data), from dark violet (low) to yellow (high)."""
    with displayed(path) as raster:
        return _png(_tile(raster, x, y, z, [1])[0], CONFIDENCE_PALETTE)


def scene_tile(path: Path, x: int, y: int, z: int) -> bytes:
    """PNG of a scene: its first three bands, or one as grey; types other than uint8 by the scene's 2 to 98 percent."""
    with displayed(path) as raster:
        bands = [1, 2, 3] if raster.count >= 3 else [1]
        data = _tile(raster, x, y, z, bands, masked=True)
        colours = data[:-1].astype(np.float32)
        if raster.dtypes[0] != "uint8":
            facts = path.stat()
            low, high = _stretch(path, tuple(bands), (facts.st_size, facts.st_mtime_ns))
            colours = (colours - low[:, None, None]) * (255 / np.maximum(high - low, 1e-9))[:, None, None]
    rgb = np.clip(np.repeat(colours, 3 // len(bands), axis=0), 0, 255).astype(np.uint8)
    with MemoryFile() as memory:
        with memory.open(driver="PNG", width=SIZE, height=SIZE, count=4, dtype="uint8") as png:
            png.write(np.concatenate([rgb, data[-1:].astype(np.uint8)]))
        return bytes(memory.read())


def pixel(path: Path, longitude: float, latitude: float) -> int | None:
    """Value of the first band at a place; None beside the raster.

    Raises:
        NoTile: see :func:`displayed`.
    """
    # The page counts on beyond 180 where a map does.
    longitude = (longitude + 180) % 360 - 180
    with displayed(path) as raster:
        for degrees in turns_of(raster):
            with suppress(RioTilerError), moved(raster, degrees) as view, Reader(None, dataset=view) as reader:
                return int(reader.point(longitude, latitude, indexes=1).data[0])
    return None


def _tile(raster: Any, x: int, y: int, z: int, bands: list[int], *, masked: bool = False) -> NDArray[Any]:
    """(bands, 256, 256), with the mask as a last band where asked for."""
    drawn: NDArray[Any] | None = None
    beside: RioTilerError | None = None
    for degrees in turns_of(raster):
        try:
            with moved(raster, degrees) as view, Reader(None, dataset=view) as reader:
                # Nearest, for scenes as well: between two codes there is no class, and a scene shows its own pixels.
                image = reader.tile(x, y, z, tilesize=SIZE, indexes=bands, resampling_method="nearest")
        except RioTilerError as error:
            beside = error
            continue
        part = np.concatenate([np.ma.getdata(image.array).astype(np.float32), image.mask[None].astype(np.float32)])
        # Both sides of the antimeridian share tiles in low zooms; each has pixels where the other has none.
        drawn = part if drawn is None else np.where(drawn[-1:] > 0, drawn, part)
    if drawn is None:
        raise beside or NoTile("no part of it lies on Earth")
    # 0 is no data in maps and confidence, and transparent in both palettes.
    return drawn if masked else np.where(drawn[-1:] > 0, drawn[:-1], 0).astype(np.uint8)


@lru_cache(maxsize=64)
def _stretch(path: Path, bands: tuple[int, ...], _: object) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """2 and 98 percent of each band. It reads all of a scene without overviews, so once and not for each tile."""
    with rasterio.open(path, driver="GTiff") as source:
        # 256 pixels a side are enough for two percentiles, and overviews serve them where there are any.
        shape = (len(bands), min(256, source.height), min(256, source.width))
        sample = source.read(list(bands), out_shape=shape, masked=True).astype(np.float32).filled(np.nan)
    flat = sample.reshape(len(bands), -1)
    with warnings.catch_warnings():
        # A band without a valid pixel: nanpercentile warns and gives NaN, which nan_to_num takes away.
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanpercentile(flat, (2, 98), axis=1)
    return np.nan_to_num(low).astype(np.float32), np.nan_to_num(high, nan=1.0).astype(np.float32)


def _palette(source: Any) -> Palette:
    try:
        colours: Palette = dict(source.colormap(1))
    except ValueError:  # it has none
        # Any colours that differ: steps prime to 256 give each code another one.
        colours = {code: (code * 37 % 256, code * 91 % 256, code * 151 % 256, 255) for code in range(256)}
    return colours | {0: (0, 0, 0, 0)}


def _png(codes: NDArray[np.uint8], palette: Palette) -> bytes:
    with MemoryFile() as memory:
        with memory.open(driver="PNG", width=SIZE, height=SIZE, count=1, dtype="uint8", nodata=0) as png:
            png.write(codes, 1)
            png.write_colormap(1, palette)
        return bytes(memory.read())


def _ramp() -> Palette:
    """Violet, teal, yellow: equal steps of lightness, told apart with any colour vision."""
    stops = np.array([[68, 1, 84], [33, 145, 140], [253, 231, 37]], np.float64)
    at = np.linspace(0, 2, 255)
    rgb = np.stack([np.interp(at, [0, 1, 2], stops[:, band]) for band in range(3)], axis=1).round().astype(int)
    return {0: (0, 0, 0, 0)} | {code + 1: (int(r), int(g), int(b), 255) for code, (r, g, b) in enumerate(rgb)}


CONFIDENCE_PALETTE = _ramp()
