"""What a narrower halo costs near the cuts between tiles, of any model: `python -m benchmarks.halo [MODEL]`.

Of each scene a square is taken that two by two tiles fill exactly, so that neighbours share two halos and no more. Its
map is compared with the map of the same square at a halo of a quarter of a tile. benchmarks.seams compares with an
average over many tiles, and needs a model of one graph.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from benchmarks.reference import NEAR_PX, Classes, Counts, Mask, block_counts, near_mask, shares
from engines.engine import Engine
from engines.open import open_engine
from onboard.scene.grid import Grid

HALOS = (8, 16, 24, 32, 48, 64)


def side_of(halo: int, tile: int) -> int:
    """Side of a square that two by two tiles of this halo fill exactly."""
    return 2 * (tile - halo)


def mapped(engine: Engine, pixels: NDArray[np.uint8], halo: int) -> tuple[Classes, Mask]:
    """Classes (H, W) of pixels (3, H, W) put together from cores, and which of them are near a cut."""
    _, height, width = pixels.shape
    classes = np.zeros((height, width), np.uint8)
    tiles = Grid(width, height, tile_size=engine.manifest.input.tile_size, halo=halo)
    for tile in tiles:
        seen = np.ascontiguousarray(pixels[np.newaxis, :, tile.source.rows, tile.source.cols])
        inside = (tile.core_in_tile.rows, tile.core_in_tile.cols)
        classes[tile.core.rows, tile.core.cols] = engine.infer(seen).classes[0][inside]
    rows, cols = (
        {edge for edge in edges if edge} for edges in zip(*((t.core.row, t.core.col) for t in tiles), strict=True)
    )
    return classes, near_mask(height, width, sorted(rows), sorted(cols))


def difference(engine: Engine, pixels: NDArray[np.uint8], halo: int) -> Counts:
    """Pixels of the top left square of a scene (3, H, W) that the wide halo maps otherwise, by blocks."""
    tile = engine.manifest.input.tile_size
    square = pixels[:, : side_of(halo, tile), : side_of(halo, tile)]
    classes, near = mapped(engine, square, halo)
    return block_counts(classes, mapped(engine, square, tile // 4)[0], near)


def _read(scene: Path) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # Dubai's scenes lie nowhere; that is known
        with rasterio.open(scene) as source:
            pixels: NDArray[np.uint8] = source.read((1, 2, 3))
    return pixels


def _line(counts: Counts) -> str:
    near, elsewhere = shares(counts)
    return f"within {NEAR_PX} pixels of a cut {near:.2%} unlike, elsewhere {elsewhere:.2%}"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each scene and halo, and for all scenes together."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.halo", description=__doc__)
    parser.add_argument("model", nargs="?", help="shipped name or folder (default: the shipped default)")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--halos", type=int, nargs="+", default=list(HALOS))
    data = Path(os.environ.get("SHARED_DATA", "../shared/data")) / "dubai" / "scenes"
    parser.add_argument(
        "--scenes", type=Path, nargs="+", default=[data / f"scene_{number}.tif" for number in (4, 7, 8)]
    )
    arguments = parser.parse_args(argv)
    totals: dict[int, list[Counts]] = {halo: [] for halo in arguments.halos}
    with open_engine(arguments.model, backend=arguments.backend) as engine:
        print(f"{engine.manifest.name} {engine.manifest.version}, {engine.backend} {engine.precision}")
        for scene in arguments.scenes:
            pixels = _read(scene)
            for halo, counts in totals.items():
                if min(pixels.shape[1:]) < side_of(halo, engine.manifest.input.tile_size):
                    print(f"{scene.name}, halo {halo}: the scene is too small, left out")
                    continue
                counts.append(difference(engine, pixels, halo))
                print(f"{scene.name}, halo {halo}: {_line(counts[-1])}", flush=True)
    for halo, counts in totals.items():
        if counts:
            print(f"all, halo {halo}: {_line(np.concatenate(counts))}")


if __name__ == "__main__":
    main()
