"""Imagery that a model should find unfamiliar: synthetic, or read from the shared data by name.

Clouds, snow and glint are procedural textures (fractal noise), not photographs: no imagery of them is at hand.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from trainer.data.rasters import read_pixels
from trainer.data.sets import open_set
from trainer.familiarity.corruptions import COARSER, bands_in_order, finer
from trainer.familiarity.imagery import Images, Pixels, tiles_of, tiles_of_images

GROSS = "gross"
DEGRADED = "known ground, spoilt"
ELSEWHERE = "other places and sensors"


@dataclass(frozen=True)
class Case:
    """Tiles of one kind, uint8 (3, S, S) each; `group` says what is expected of them."""

    name: str
    group: str
    tiles: tuple[Pixels, ...]


def made_cases(known: Sequence[Pixels]) -> Iterator[Case]:
    """Textures, and known tiles (3, S, S) with something done to them."""
    side = known[0].shape[1]
    # Seeded: figures of two models are of the same tiles.
    draw = np.random.default_rng(0)
    shape = (3, side, side)
    yield Case("uniform noise", GROSS, tuple(draw.integers(0, 256, shape, dtype=np.uint8) for _ in range(8)))
    spreads = (8, 15, 25, 40, 60, 80, 30, 50)
    yield Case("Gaussian noise", GROSS, tuple(_bytes(draw.normal(draw.integers(60, 190), s, shape)) for s in spreads))
    yield Case("sea glint (made)", GROSS, tuple(_glint(draw, side) for _ in range(8)))
    yield Case("snow (made)", GROSS, tuple(_snow(draw, side) for _ in range(8)))
    yield Case("cloud (made), over known ground", GROSS, tuple(_cloud(tile, draw, floor=0.12) for tile in known))
    yield Case("broken cloud (made)", DEGRADED, tuple(_cloud(tile, draw, floor=0.45) for tile in known))
    yield Case("red and blue exchanged", DEGRADED, tuple(bands_in_order(tile, (2, 1, 0)) for tile in known))
    for order in ((1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)):
        name = "".join("RGB"[band] for band in order)
        yield Case(f"bands in the order {name}", DEGRADED, tuple(bands_in_order(tile, order) for tile in known))
    yield Case("three times finer", DEGRADED, tuple(finer(tile) for tile in known))
    yield Case("blurred, sigma 4", DEGRADED, tuple(_edited(tile, ImageFilter.GaussianBlur(4)) for tile in known))
    yield Case("JPEG of quality 5", DEGRADED, tuple(_jpeg(tile, 5) for tile in known))
    yield Case("known ground, two fifths black", "known", tuple(_cut(tile) for tile in known))


def coarser(given: Sequence[Images], *, side: int, halo: int, most: int) -> Case:
    """Whole images at a third of their resolution."""
    tiles: list[Pixels] = []
    for images in given:
        labelled = open_set(images.set)
        for name in images.names:
            picture = Image.fromarray(read_pixels(labelled.image_path(name)).transpose(1, 2, 0))
            # BOX: the mean of the ground that a larger pixel sees.
            small = picture.resize((picture.width // COARSER, picture.height // COARSER), Image.Resampling.BOX)
            tiles += tiles_of(np.asarray(small).transpose(2, 0, 1), side=side, halo=halo)
    # Evenly over all images: the first of them would else be all.
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(most, len(tiles))).round().astype(int))
    return Case("three times coarser", DEGRADED, tuple(tiles[int(place)] for place in chosen))


def real_cases(shared: Path, *, side: int, halo: int, most: int) -> Iterator[Case]:
    """Of the shared data; what is not there is left out."""
    for name, group, pattern in (
        ("open sea (rio-glui)", GROSS, "rio-glui__*.tif"),
        ("NAIP, 5 m (opengeos)", ELSEWHERE, "opengeos__m_*.tif"),
        ("NAIP, 0.6 m (stactools)", ELSEWHERE, "stac-naip__*.tif"),
        ("WorldView, 11 bit (ramp)", ELSEWHERE, "ramp__*.tif"),
        ("forest from the air, 0.1 m (DeepForest)", ELSEWHERE, "deepforest__5b90*.tif"),
        ("Dutch canal and houses, 0.25 m (DeepForest)", ELSEWHERE, "deepforest__test_tiled.tif"),
        ("farmland, 1 to 3 m (rio-alpha)", ELSEWHERE, "rio-alpha__[12]*.tif"),
    ):
        paths = sorted((shared / "geotiffs").glob(pattern))
        tiles = [tile for path in paths for tile in tiles_of(read_pixels(path), side=side, halo=halo)]
        if tiles:
            yield Case(name, group, tuple(tiles[:: max(1, len(tiles) // most)][:most]))
    for name, images in (
        ("Tokyo, 0.5 m", "tokyo:*"),
        ("Thailand, Indonesia, India, 0.5 m (DeepGlobe)", "deepglobe-tiles:*0"),
        ("Boston, 1 m", "massachusetts-buildings:*"),
        ("American suburbs, 0.3 m (UC Merced)", "ucmerced:*"),
        ("Central European fields", "farm-fields:*"),
    ):
        cut_tiles = tuple(tiles_of_images(Images.parsed(images), side=side, halo=halo, most=most))
        yield Case(name, ELSEWHERE, cut_tiles)


def photographs(paths: Sequence[Path], side: int) -> Case | None:
    """Pictures of no ground at all: each enlarged to fill a tile, and two of its quarters."""
    tiles = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        width, height = picture.size
        for box in ((0, 0, width, height), (0, 0, width // 2, height // 2), (width // 2, height // 2, width, height)):
            part = picture.crop(box)
            edge = min(part.size)
            tiles.append(_planes(part.crop((0, 0, edge, edge)).resize((side, side), Image.Resampling.BICUBIC)))
    return Case("photographs taken indoors", GROSS, tuple(tiles)) if tiles else None


def own_photographs() -> list[Path]:
    """Of the packages at hand: matplotlib's portrait, taken indoors."""
    import matplotlib as mpl

    path = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return [path] if path.is_file() else []


def _bytes(values: NDArray[np.float64]) -> Pixels:
    return np.clip(values, 0, 255).astype(np.uint8)


def _fractal(draw: np.random.Generator, side: int, slope: float) -> NDArray[np.float64]:
    """Noise (side, side) whose power falls with the frequency to this power; 0..1."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    # The mean has no frequency. Any number but 0 will do: the result is scaled to 0..1.
    frequency[0, 0] = 1
    # Half the slope, as power is the square of amplitude.
    spectrum = np.fft.fft2(draw.standard_normal((side, side))) / frequency ** (slope / 2)
    values: NDArray[np.float64] = np.fft.ifft2(spectrum).real
    scaled: NDArray[np.float64] = (values - values.min()) / (values.max() - values.min())
    return scaled


def _cloud(tile: Pixels, draw: np.random.Generator, *, floor: float) -> Pixels:
    """`floor`: of the fractal, above which there is cloud."""
    side = tile.shape[1]
    cover = np.clip((_fractal(draw, side, 3) - floor) * 4, 0, 1)
    return _bytes(tile * (1 - cover) + (235 + 20 * _fractal(draw, side, 2.2)) * cover)


def _snow(draw: np.random.Generator, side: int) -> Pixels:
    ground = 235 + 20 * (_fractal(draw, side, 2.6) - 0.5)
    return _bytes(np.stack([ground - 4, ground - 1, ground + 3]) + draw.normal(0, 2, (3, side, side)))


def _glint(draw: np.random.Generator, side: int) -> Pixels:
    waves, bands = _fractal(draw, side, 1.2), _fractal(draw, side, 3)
    sparkle = np.clip((waves + 0.4 * bands - 0.62) * 6, 0, 1) ** 2
    return _bytes(np.array([40, 70, 95])[:, None, None] + 30 * (waves - 0.5) + 215 * sparkle)


def _picture(tile: Pixels) -> Image.Image:
    return Image.fromarray(tile.transpose(1, 2, 0))


def _planes(picture: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def _edited(tile: Pixels, done: ImageFilter.Filter) -> Pixels:
    return _planes(_picture(tile).filter(done))


def _jpeg(tile: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    _picture(tile).save(file, "JPEG", quality=quality)
    return _planes(Image.open(file))


def _cut(tile: Pixels) -> Pixels:
    """Black beyond a slanting line, as a rotated scene's collar: two fifths of the tile."""
    side = tile.shape[1]
    rows, columns = np.mgrid[:side, :side]
    return np.where(rows + 0.5 * columns < 0.65 * side, 0, tile).astype(np.uint8)
