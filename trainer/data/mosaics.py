"""Joins tiles that were cut from the same scenes to larger images, for crops that are larger than a tile.

Tiles of 320 pixels at 0.5 m show 160 m of ground. Which land use a field has often shows only beside it: with its true
neighbours around a tile the six classes of DeepGlobe gain a point of mIoU (docs/decisions/0010).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from trainer.data.description import LabelValues, SetDescription, Split
from trainer.data.sets import LabelledSet
from trainer.errors import DataRefused

AHEAD: Final = 8
"""Tiles ahead in the order of names that are tried as neighbours: a column of 2,448 pixels has seven."""
LARGEST_STEP: Final = 1.7
"""Change of brightness across the border of two tiles, as a multiple of the change just inside them. Measured on 3,296
pairs of DeepGlobe's tiles whose numbers follow one another: half are neighbours, under 1.4, half are not, over 1.7; 15
lie between."""
LEAST_CORRELATION: Final = 0.3
"""Of the two rows of pixels at a border; at least five deviations of what noise gives, 5 / sqrt(pixels)."""
FLAT: Final = 1.5
"""Grey levels added to the change inside: two calm waters meet without a step wherever they lie."""

Place = tuple[int, int]
"""Row and column of a tile in a mosaic."""
Grid = dict[Place, str]
"""Names of tiles by place."""
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class MosaicReport:
    """What was joined.

    Attributes:
        mosaics: images written.
        tiles: different tiles in them.
        fillers: places that hold a tile from elsewhere, since the neighbour is not in the set.
    """

    mosaics: int
    tiles: int
    fillers: int

    def summary(self) -> str:
        """One line for people."""
        return f"{self.mosaics} mosaics of {self.tiles} tiles; {self.fillers} places hold a tile from elsewhere"


def write_mosaics(
    labelled: LabelledSet, names: Sequence[str], out: Path, *, ahead: int = AHEAD, seed: int = 1
) -> MosaicReport:
    """Writes mosaics with their labels, and NAME.yaml, a description of them as a set.

    The set keeps its name, so that heads know its classes.

    Args:
        labelled: a set of square tiles of one size, whose names sort in the order in which they were cut.
        names: tiles to take, of one split.
        out: an empty or new folder.
        ahead: how far apart in that order neighbours may be.
        seed: of the choice of fillers.

    Raises:
        DataMissing: the set has no labels.
        DataRefused: the tiles differ in size, or the folder holds something.
    """
    for name in names:
        labelled.label_path(name)  # mosaics are for labelled crops: the description would have no classes
    if out.exists() and any(out.iterdir()):
        raise DataRefused(out, "the folder is not empty", "give a new one")
    side = _side_of(labelled, names)
    grids = grids_of(neighbours(labelled, names, ahead=ahead), np.random.default_rng(seed))
    images, labels = out / "images", out / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    for file, grid in _files_of(grids).items():
        _write(labelled, grid, side, images / file, labels / file)
    description = _described(labelled.description)
    path = out / f"{labelled.name}.yaml"
    path.write_text(yaml.safe_dump(description.model_dump(mode="json", exclude_defaults=True), sort_keys=False))
    places = sum(len(grid) for grid in grids)
    different = len({name for grid in grids for name in grid.values()})
    return MosaicReport(len(grids), different, places - different)


def neighbours(labelled: LabelledSet, names: Sequence[str], *, ahead: int = AHEAD) -> list[Grid]:
    """Tiles that continue one another, by place, with holes; each tile is in one grid, perhaps alone."""
    edges = {name: _Edges.of(labelled.read(name).pixels) for name in names}
    return _components(sorted(names), edges, ahead)


def grids_of(components: Iterable[Grid], rng: np.random.Generator) -> list[Grid]:
    """Full rectangles of tiles, at least two by two: true neighbours where known, tiles from elsewhere between.

    Pairs of one direction are joined by twos. Single tiles fill holes; the rest of them get rectangles of their own.
    """
    components = sorted(components, key=lambda grid: (-len(grid), min(grid.values())))
    everything = [name for grid in components for name in grid.values()]
    singles = [name for grid in components if len(grid) == 1 for name in grid.values()]
    rng.shuffle(singles)
    pairs: dict[Place, list[Grid]] = {}
    large: list[Grid] = []
    for grid in components:
        if len(grid) == 2:
            pairs.setdefault(max(grid), []).append(grid)
        elif len(grid) > 2:
            large.append(grid)
    for direction, alike in pairs.items():
        large += [_beside(alike[at : at + 2], direction) for at in range(0, len(alike), 2)]
    while len(singles) > sum(_holes(grid) for grid in large):
        large.append({(0, 0): singles.pop()})
    return [_filled(grid, singles, everything, rng) for grid in large]


def _beside(pairs: Sequence[Grid], direction: Place) -> Grid:
    down, right = direction[1], direction[0]  # across the pair's own direction
    return {
        (row + number * down, column + number * right): name
        for number, pair in enumerate(pairs)
        for (row, column), name in pair.items()
    }


def _shape(grid: Grid) -> Place:
    return max(2, 1 + max(row for row, _ in grid)), max(2, 1 + max(column for _, column in grid))


def _holes(grid: Grid) -> int:
    rows, columns = _shape(grid)
    return rows * columns - len(grid)


def _filled(grid: Grid, singles: list[str], everything: Sequence[str], rng: np.random.Generator) -> Grid:
    rows, columns = _shape(grid)
    full = dict(grid)  # own tiles stay first: the file has the name of the first
    for place in ((row, column) for row in range(rows) for column in range(columns)):
        if place not in full:
            full[place] = singles.pop() if singles else everything[int(rng.integers(len(everything)))]
    return full


@dataclass(frozen=True)
class _Edges:
    """The outermost two rows and columns of a tile, int16 (2, S, 3), the outermost first."""

    top: NDArray[np.int16]
    bottom: NDArray[np.int16]
    left: NDArray[np.int16]
    right: NDArray[np.int16]

    @classmethod
    def of(cls, pixels: Pixels) -> _Edges:
        wide = np.moveaxis(pixels, 0, -1).astype(np.int16)
        across = wide.transpose(1, 0, 2)
        # Copies: a view of two rows would keep the whole tile in memory, and there are thousands of them.
        return cls(wide[:2].copy(), wide[:-3:-1].copy(), across[:2].copy(), across[:-3:-1].copy())


def _components(names: Sequence[str], edges: Mapping[str, _Edges], ahead: int) -> list[Grid]:
    """Tiles that continue one another, by place."""
    links: dict[str, list[tuple[str, Place]]] = {name: [] for name in names}
    for at, name in enumerate(names):
        others = names[at + 1 : at + 1 + ahead]
        below = _best(edges[name].bottom, {other: edges[other].top for other in others})
        beside = _best(edges[name].right, {other: edges[other].left for other in others})
        for other, (down, right) in ((below, (1, 0)), (beside, (0, 1))):
            if other is not None:
                links[name].append((other, (down, right)))
                links[other].append((name, (-down, -right)))
    seen: set[str] = set()
    return [_around(name, links, seen) for name in names if name not in seen]


def _around(name: str, links: Mapping[str, Sequence[tuple[str, Place]]], seen: set[str]) -> Grid:
    """All tiles that hang together with one; where two claim a place, the second becomes another component."""
    grid, places, waiting = {(0, 0): name}, {name: (0, 0)}, [name]
    seen.add(name)
    while waiting:
        here = waiting.pop(0)
        row, column = places[here]
        for other, (down, right) in links[here]:
            place = (row + down, column + right)
            if other not in seen and place not in grid:
                seen.add(other)
                grid[place], places[other] = other, place
                waiting.append(other)
    top, left = min(row for row, _ in grid), min(column for _, column in grid)
    return {(row - top, column - left): tile for (row, column), tile in grid.items()}


def _best(edge: NDArray[np.int16], others: Mapping[str, NDArray[np.int16]]) -> str | None:
    """The tile whose edge continues this one best; None where none does."""
    found, best = None, max(LEAST_CORRELATION, 5 / math.sqrt(edge.shape[1]))
    for name, other in others.items():
        inside = (np.abs(edge[0] - edge[1]).mean() + np.abs(other[0] - other[1]).mean()) / 2
        if np.abs(edge[0] - other[0]).mean() > LARGEST_STEP * (inside + FLAT):
            continue
        if (correlation := _correlation(edge[0].mean(axis=1), other[0].mean(axis=1))) > best:
            found, best = name, correlation
    return found


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum()) / scale if scale > 0 else 0.0


def _side_of(labelled: LabelledSet, names: Sequence[str]) -> int:
    sizes = {labelled.size(name): name for name in names}
    (height, width), name = next(iter(sizes.items()))
    if len(sizes) > 1 or height != width:
        raise DataRefused(
            labelled.image_path(name), f"tiles of {sorted(sizes)} pixels cannot be joined",
            "give a set of square tiles of one size",
        )  # fmt: skip
    return height


def _files_of(grids: Iterable[Grid]) -> dict[str, Grid]:
    """Grids by the name of their file, each another one."""
    # By the first tile of its own, which lies in no other grid's own part. A filler may lie in several grids: named by
    # the least of all tiles, one mosaic would replace another. Slashes stand for folders.
    named: dict[str, Grid] = {}
    for grid in grids:
        name = next(iter(grid.values())).replace("/", "--")
        # "a/b" and "a--b" would be one file.
        named[f"{name if f'{name}.png' not in named else f'{name}-{len(named)}'}.png"] = grid
    return named


def _write(labelled: LabelledSet, grid: Grid, side: int, image: Path, label: Path) -> None:
    rows, columns = _shape(grid)
    pixels = np.zeros((rows * side, columns * side, 3), dtype=np.uint8)
    codes = np.zeros((rows * side, columns * side), dtype=np.uint8)
    for (row, column), name in grid.items():
        tile = labelled.read(name)
        place = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        pixels[place] = np.moveaxis(tile.pixels, 0, -1)
        codes[place] = tile.labels
    # PNG: a second compression with loss would show the network what no camera makes.
    Image.fromarray(pixels).save(image, compress_level=1)
    Image.fromarray(codes).save(label)


def _described(before: SetDescription) -> SetDescription:
    return before.model_copy(
        update={
            "title": f"{before.title}, joined",
            "folder": Path(),
            "images": "images/{mosaic}.png",
            "labels": "labels/{mosaic}.png",
            "image_name": "",
            "threshold": None,
            "classes": tuple(item.model_copy(update={"codes": (item.code,), "colours": ()}) for item in before.classes),
            "ignore": LabelValues(codes=(0,)),
            "splits": {"train": Split(names=("*",))},
        }
    )
