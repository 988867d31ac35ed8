"""Synthetic landscapes with their true class map: scenes for demo, tests and benchmarks without a download.

By rule, every pixel a pure function of seed and position: a terrain with creeks, shores and sand; districts with
streets, houses and their shadows; parks, trees and fields; then haze, blur and sensor noise. Any window equals the
same window of a bigger read, so a scene of any size is written in bounded memory. Colours follow desert cities at about
one metre; the imagery is no substitute for real scenes, and no accuracy on it counts.

Classes: 1 building, 2 road, 3 vegetation, 4 water, 5 bare land.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from trainer.data.noise import Field, Floats, hashed

BUILDING, ROAD, VEGETATION, WATER, BARE = 1, 2, 3, 4, 5
CLASS_NAMES = {BUILDING: "building", ROAD: "road", VEGETATION: "vegetation", WATER: "water", BARE: "bare land"}

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
# Every smooth field's scale divides this, and so must a period.
_UNIT = 2048
# Pixels that blur and shadows reach beyond a window.
_MARGIN = 12
_DISTRICT = 512
_LOT = 32


@dataclass(frozen=True)
class Landscape:
    """One made world.

    Attributes:
        seed: worlds of different seeds share nothing.
        period: pixels after which the world repeats, a multiple of 2,048; large scenes repeat a smaller world.
    """

    seed: int
    period: int = field(default=1 << 16)

    def __post_init__(self) -> None:
        if self.period < _UNIT or self.period % _UNIT:
            raise ValueError(f"period is {self.period}; give a multiple of {_UNIT}")

    def window(self, col: int, row: int, width: int, height: int) -> tuple[Pixels, Pixels]:
        """Imagery uint8 (3, height, width), red green blue, and its true classes uint8 (height, width), codes 1..5."""
        # With a margin, so that blur and shadows at a window's edge are those of a larger read.
        outer = Field(col - _MARGIN, row - _MARGIN, width + 2 * _MARGIN, height + 2 * _MARGIN, self.period, self.seed)
        ground = _Ground.of(outer)
        rgb = _blurred(_painted(outer, ground))
        inner = np.s_[..., _MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width]
        return rgb[inner], np.ascontiguousarray(ground.classes[inner])


@dataclass(frozen=True)
class _Ground:
    """What stands where, on the pixels of a field."""

    classes: Pixels
    roof: Floats
    shadow: Mask
    terrain: Floats
    lane: Mask

    @classmethod
    def of(cls, noise: Field) -> _Ground:
        terrain = noise.fractal(1024, 5, salt=1)
        # Where a smooth field crosses one value lies a line: a creek. Each
        # field has a salt of its own, or they would be one.
        creek = np.abs(noise.fractal(2048, 4, salt=20) - 0.5)
        water = (terrain < 0.33) | (creek < 0.018)
        shore = ~water & ((terrain < 0.36) | (creek < 0.026))
        urban = ~water & ~shore & (noise.smooth(1024, salt=40) > 0.36)
        streets, lane, lot, built = _city(noise)
        green = noise.fractal(512, 3, salt=60)
        # Main roads cross open land, streets do not.
        streets &= ~water & (urban | lane)
        built &= urban & ~streets & (green < 0.64)
        field_crop = ~urban & ~water & ~shore & (green > 0.6)
        garden = urban & ~streets & ~built & ((green > 0.56) | (noise.smooth(16, salt=70) > 0.62))
        trees = ~water & ~streets & ~built & (urban | shore) & (noise.smooth(8, salt=80) > 0.8)
        classes = np.full(terrain.shape, BARE, np.uint8)
        for code, mask in (
            (VEGETATION, field_crop | garden | trees),
            (WATER, water),
            (ROAD, streets),
            (BUILDING, built),
        ):
            classes[mask] = code
        # The sun stands in the south-west: shadows fall up and to the right.
        tall = built | trees
        shadow = np.zeros_like(built)
        for step in range(1, 6):
            # Five pixels long, within the margin of a window.
            shadow[:-step, step:] |= tall[step:, :-step]
        return cls(classes, lot, shadow & ~tall, terrain, lane)


def _city(noise: Field) -> tuple[Mask, Mask, Floats, Mask]:
    """Streets, main roads, a value for each lot, and which pixels of lots are built on.

    Each district turns its streets by an angle of its own; main roads run along (bent) district borders.
    """
    bend_x = (noise.smooth(512, salt=90) - 0.5) * 160
    bend_y = (noise.smooth(512, salt=91) - 0.5) * 160
    x = np.arange(noise.col, noise.col + noise.width, dtype=np.float32)[None, :] + bend_x
    y = np.arange(noise.row, noise.row + noise.height, dtype=np.float32)[:, None] + bend_y
    across, along = np.floor(x / _DISTRICT), np.floor(y / _DISTRICT)
    # Districts repeat with the world, else there would be a seam at each period.
    wrap = noise.period // _DISTRICT
    district = (across.astype(np.int64) % wrap, along.astype(np.int64) % wrap)
    seed = noise.seed * 131
    angle = hashed(*district, seed + 100) * np.float32(np.pi / 2)
    local_x, local_y = x - across * _DISTRICT, y - along * _DISTRICT
    edge = np.minimum(np.minimum(local_x, _DISTRICT - local_x), np.minimum(local_y, _DISTRICT - local_y))
    lane = edge < 9
    cosine, sine = np.cos(angle), np.sin(angle)
    u = local_x * cosine + local_y * sine
    v = local_y * cosine - local_x * sine
    block = 96 + np.float32(32) * np.floor(hashed(*district, seed + 101) * 3)
    street_u, street_v = u % block, v % (2 * _LOT + 10)
    streets = lane | (street_u < 8) | (street_v < 7)
    lot_x, lot_y = np.floor(u / _LOT).astype(np.int64) + 64, np.floor((v % 4096 - 7) / _LOT).astype(np.int64) + 64
    key_x, key_y = lot_x + 1000 * district[0], lot_y + 1000 * district[1]
    lot = hashed(key_x, key_y, seed + 102)
    inset = 3 + 5 * hashed(key_x, key_y, seed + 103)
    inside_u, inside_v = u % _LOT, (v % (2 * _LOT + 10) - 8) % _LOT
    roomy = np.minimum(np.minimum(inside_u, _LOT - inside_u), np.minimum(inside_v, _LOT - inside_v)) > inset
    # An L: one corner of most lots stays open.
    notch = (inside_u > _LOT * (0.45 + 0.4 * lot)) & (inside_v > _LOT * 0.55)
    return streets, lane, lot, roomy & ~notch & (lot > 0.12)


def _painted(noise: Field, ground: _Ground) -> Floats:
    """Radiance (3, h, w) in 0..255 before blur and noise."""
    sand = 150 + 90 * (noise.fractal(256, 4, salt=120) - 0.35) + 26 * (noise.smooth(4, salt=125) - 0.5)
    rgb = np.stack([sand, sand * 0.985, sand * 1.0])
    plants = 62 + 50 * (noise.smooth(8, salt=130) - 0.5) + 40 * (noise.smooth(2, salt=131) - 0.5)
    deep = 18 + 60 * np.clip(ground.terrain - 0.25, 0, 0.1) + 10 * noise.smooth(32, salt=140)
    road = 84 + 22 * (noise.smooth(64, salt=150) - 0.5) + 14 * (noise.smooth(2, salt=151) - 0.5)
    bright = np.where(ground.roof > 0.72, 215, 78 + 110 * ground.roof)
    roof = bright + 26 * (noise.smooth(4, salt=160) - 0.5)
    tint = {
        VEGETATION: (plants, (0.98, 1.1, 0.86)),
        WATER: (deep, (0.85, 1.0, 0.95)),
        ROAD: (road, (1.06, 0.97, 0.98)),
        BUILDING: (roof, (1.0, 0.985, 1.02)),
    }
    for code, (level, colour) in tint.items():
        mask = ground.classes == code
        for band, factor in enumerate(colour):
            rgb[band][mask] = level[mask] * np.float32(factor)
    # A few roofs are tiled.
    tiles = (ground.classes == BUILDING) & (ground.roof > 0.5) & (ground.roof < 0.56)
    for band, factor in enumerate((1.5, 0.95, 0.7)):
        rgb[band][tiles] *= np.float32(factor)
    rgb[:, ground.shadow] *= np.float32(0.45)
    grain = (noise.grain(salt=170) + noise.grain(salt=171) - 1) * 16
    painted: Floats = rgb.astype(np.float32) + grain
    return painted


def _blurred(rgb: Floats) -> Pixels:
    """A small optical blur (1 2 1 in both directions), rounded to uint8."""
    for axis in (1, 2):
        # A roll brings pixels of the other edge in. They stay in the margin, which is cut off.
        before, after = np.roll(rgb, 1, axis), np.roll(rgb, -1, axis)
        rgb = (before + after) * np.float32(0.25) + rgb * np.float32(0.5)
    rounded: Pixels = np.clip(rgb + 0.5, 0, 255).astype(np.uint8)
    return rounded


def write_landscape(
    path: Path,
    *,
    seed: int,
    width: int,
    height: int,
    classes_path: Path | None = None,
    period: int | None = None,
    gsd_m: float = 1.0,
    dtype: str = "uint8",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a georeferenced, tiled scene, and its true class map if asked for, strip by strip.

    Args:
        path: the scene; uint8 as JPEG (YCbCr, quality 90), uint16 as DEFLATE with 11 bits in use.
        seed: of the world.
        width: of the scene, pixels.
        height: of the scene, pixels.
        classes_path: where the true class map goes.
        period: pixels after which the world repeats (a multiple of 2,048): the repeated part is made once.
        gsd_m: metres a pixel.
        dtype: "uint8" or "uint16".
        progress: called with (finished rows, all rows).
    """
    world = Landscape(seed, period or 1 << 16)
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(gsd_m, 0, 330_000, 0, -gsd_m, 2_790_000)}
    layout = {"driver": "GTiff", "width": width, "height": height, "tiled": True, "blockxsize": 512, "blockysize": 512}
    codec = (
        {"compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": 90}
        if dtype == "uint8"
        else {"compress": "deflate"}
    )
    threads = {"NUM_THREADS": "ALL_CPUS", "BIGTIFF": "IF_SAFER"}
    with rasterio.open(
        path, "w", **layout, **place, **codec, **threads, count=3, dtype=dtype, interleave="pixel"
    ) as scene:
        truth = None
        if classes_path is not None:
            truth = rasterio.open(
                classes_path, "w", **layout, **place, **threads, count=1, dtype="uint8", nodata=0, compress="deflate"
            )
        # A row of the file's blocks at a time: whole blocks are
        # compressed once, and memory does not grow with the scene.
        for row in range(0, height, 512):
            rows = min(512, height - row)
            rgb, classes = _strip(world, row, rows, width)
            scene.write(rgb if dtype == "uint8" else rgb.astype(np.uint16) * 8, window=Window(0, row, width, rows))
            if truth is not None:
                truth.write(classes, 1, window=Window(0, row, width, rows))
            if progress:
                progress(row + rows, height)
        if truth is not None:
            truth.close()


def _strip(world: Landscape, row: int, rows: int, width: int) -> tuple[Pixels, Pixels]:
    """Full-width rows; the repeated part of a periodic world is made once and tiled."""
    made = [world.window(col, row, min(1024, min(width, world.period) - col), rows)
            for col in range(0, min(width, world.period), 1024)]  # fmt: skip
    rgb = np.concatenate([part[0] for part in made], axis=2)
    classes = np.concatenate([part[1] for part in made], axis=1)
    if width > world.period:
        repeats = -(-width // world.period)
        rgb, classes = np.tile(rgb, (1, 1, repeats))[..., :width], np.tile(classes, (1, repeats))[:, :width]
    return rgb, classes


def main() -> None:
    """Command line: writes one scene."""
    parser = argparse.ArgumentParser(prog="python -m trainer.data.landscape", description="Makes a landscape scene.")
    parser.add_argument("--out", type=Path, required=True, help="the scene, a GeoTIFF")
    parser.add_argument("--classes", type=Path, help="also write its true class map")
    parser.add_argument("--size", type=int, default=3072, help="pixels a side")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--period", type=int, help="pixels after which the world repeats, a multiple of 2048")
    parser.add_argument("--dtype", choices=["uint8", "uint16"], default="uint8")
    arguments = parser.parse_args()
    write_landscape(
        arguments.out, seed=arguments.seed, width=arguments.size, height=arguments.size,
        classes_path=arguments.classes, period=arguments.period, dtype=arguments.dtype,
    )  # fmt: skip


if __name__ == "__main__":
    main()
