"""Differences at tile borders and time by halo width, on real scenes: `python -m benchmarks.seams`.

For each halo, cores are cut out of tiles as they are when flying, and, for comparison, blended: probabilities of
neighbouring tiles averaged by linear ramps over the whole overlap, as tools that blend do. Both are compared with
probabilities averaged over tiles that overlap by three quarters.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from benchmarks.reference import Classes, near_mask, reference_classes
from benchmarks.twin import Twin
from engines.metrics import Confusion
from engines.open import manifest_path
from onboard.scene.grid import Grid, Tile, pad_to_tile

Weight = NDArray[np.float32]
HALOS = (0, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256)


@dataclass
class Row:
    """One halo, over all scenes.

    Attributes:
        pixels_a_tile: scene pixels mapped by one tile inside a large scene.
        near, elsewhere: shares of pixels unlike the reference.
        miou: over all scenes together; NaN without labels.
    """

    way: str
    halo: int
    pixels_a_tile: int
    near: float
    elsewhere: float
    miou: float


def main() -> None:
    """Measures, writes a JSON file and a picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seams", description=__doc__)
    parser.add_argument(
        "--model", default="dubai-lite",
        help="shipped name or folder of a model of one graph that ends in an ArgMax (default: dubai-lite)",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SHARED_DATA", "../shared/data")) / "dubai")
    parser.add_argument("--scenes", nargs="+", default=["scene_3", "scene_4", "scene_5", "scene_6"])
    parser.add_argument("--halos", type=int, nargs="+", default=list(HALOS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=Path("out/peers"), help="for the model's twin")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/seams.json"))
    arguments = parser.parse_args()
    twin = Twin(arguments.folder, manifest_path(arguments.model).parent, arguments.threads)
    rows = measure(twin, arguments.data, arguments.scenes, arguments.halos)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    document = {"model": f"{twin.manifest.name} {twin.manifest.version}", "scenes": arguments.scenes}
    arguments.out.write_text(json.dumps({**document, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    draw(rows, arguments.out.with_suffix(".png"), twin.size)


def measure(twin: Twin, data: Path, scenes: Sequence[str], halos: Sequence[int]) -> list[Row]:
    """One row a halo and way, pixels of all scenes pooled."""
    ways = [(way, halo) for halo in halos for way in ("cut", "blended")]
    counts = {key: np.zeros(4, np.int64) for key in ways}  # differing and all, near and elsewhere
    hits = {key: Confusion(twin.classes) for key in [*ways, ("reference", 0)]}
    for name in scenes:
        begin = time.monotonic()
        with rasterio.open(data / "scenes" / f"{name}.tif") as source:
            pixels = source.read((1, 2, 3))
        with rasterio.open(data / "labels" / f"{name}.tif") as source:
            labels = source.read(1)
        expected = reference_classes(twin, pixels)
        # Places count from 0, codes of labels from 1.
        hits["reference", 0].add(labels, expected + 1)
        for halo in halos:
            # The grid that flies, tiles spread evenly and all: other grids would have other seams.
            grid = Grid(pixels.shape[2], pixels.shape[1], tile_size=twin.size, halo=halo)
            mask = near_mask(pixels.shape[1], pixels.shape[2], *borders(grid))
            for way, classes in zip(("cut", "blended"), both(twin, pixels, grid), strict=True):
                unequal = classes != expected
                counts[way, halo] += [unequal[mask].sum(), mask.sum(), unequal[~mask].sum(), (~mask).sum()]
                hits[way, halo].add(labels, classes + 1)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    rows = [Row("reference", 0, (twin.size // 4) ** 2, 0.0, 0.0, hits["reference", 0].scores().miou)]
    for way, halo in ways:
        a, b, c, d = counts[way, halo].tolist()
        rows.append(
            Row(way, halo, (twin.size - 2 * halo) ** 2, a / max(b, 1), c / max(d, 1), hits[way, halo].scores().miou)
        )
    for row in rows:
        print(
            f"{row.way:<10}{row.halo:>4} px{row.pixels_a_tile / 1e6:7.2f} Mpx/tile   unlike the reference near borders "
            f"{row.near:7.3%}, elsewhere {row.elsewhere:7.3%}   mIoU {row.miou:.4f}"
        )
    return rows


def borders(grid: Grid) -> tuple[list[int], list[int]]:
    """First rows and first columns of all cores but the first."""
    rows = [grid[row * grid.columns].core.row for row in range(1, grid.rows)]
    return rows, [grid[column].core.col for column in range(1, grid.columns)]


def both(twin: Twin, pixels: np.ndarray, grid: Grid) -> tuple[Classes, Classes]:
    """Places of classes (H, W): cores cut, and overlaps blended by linear ramps."""
    cut = np.empty(pixels.shape[1:], np.uint8)
    total = np.zeros((twin.classes, *cut.shape), np.float32)
    for tile in grid:
        source = tile.source
        probability = twin(pad_to_tile(pixels[:, source.rows, source.cols], twin.size)[np.newaxis])[0]
        # Of a scene smaller than a tile the padding is cut away.
        probability = probability[:, : source.height, : source.width]
        cut[tile.core.rows, tile.core.cols] = probability[:, tile.core_in_tile.rows, tile.core_in_tile.cols].argmax(0)
        total[:, source.rows, source.cols] += probability * _weight(tile, grid)
    return cut, total.argmax(axis=0).astype(np.uint8)


def _weight(tile: Tile, grid: Grid) -> Weight:
    source = tile.source
    axes = ((source.row, source.height, grid.height), (source.col, source.width, grid.width))
    rows, cols = (_ramp(start, length, whole, 2 * grid.halo) for start, length, whole in axes)
    weight: Weight = rows[:, np.newaxis] * cols[np.newaxis]
    return weight


def _ramp(start: int, length: int, whole: int, overlap: int) -> Weight:
    """Rises over the overlap at edges that are not the scene's."""
    # Middles of pixels: the ramps of two neighbours mirror each other.
    places = np.arange(length, dtype=np.float32) + 0.5
    near_edge = np.full(length, np.inf, np.float32)
    if start > 0:
        near_edge = np.minimum(near_edge, places)
    if start + length < whole:
        near_edge = np.minimum(near_edge, length - places)
    # Never 0: where one tile alone reaches, its class has to win.
    weight: Weight = np.clip(near_edge / max(overlap, 1e-3), 1e-3, 1)
    return weight


def draw(rows: Sequence[Row], path: Path, size: int) -> None:
    """Seams and cost against halo, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for way, color in (("cut", "#0072b2"), ("blended", "#d55e00")):
        own = [row for row in rows if row.way == way]
        left.plot(
            [row.halo for row in own], [100 * row.near for row in own], "o-", color=color, label=f"{way}, near borders"
        )
        left.plot(
            [row.halo for row in own], [100 * row.elsewhere for row in own], ":", color=color, label=f"{way}, elsewhere"
        )
        right.plot([row.halo for row in own], [100 * row.miou for row in own], "o-", color=color, label=way)
    whole = next(row.miou for row in rows if row.way == "reference")
    right.axhline(100 * whole, color="0.5", linewidth=1, label="reference, 75 % overlap")
    left.set(xlabel="halo, pixels", ylabel="% of pixels unlike the reference", ylim=(0, None))
    right.set(xlabel="halo, pixels", ylabel="mIoU, %")
    cost = left.secondary_xaxis("top")
    shown = [row.halo for row in rows if row.way == "cut"][::2]
    cost.set_xticks(shown, [f"{(size / (size - 2 * halo)) ** 2:.2f}" for halo in shown])
    cost.set_xlabel("tiles, over those of halo 0")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
