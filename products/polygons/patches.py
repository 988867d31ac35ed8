"""Patches of a raster of classes: pixels of one class that touch at their sides, found tile by tile.

A first pass over the tiles labels the patches of each, joins those that continue over a seam, and counts. What it
keeps is a few numbers a patch and the labels along the tiles' edges, so memory follows the number of patches and not
of pixels. A second pass labels a tile again, in the same way, and looks up which patch of the raster each label is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from products.polygons.outlines import Flags, Labels, SeamVertices
from products.polygons.tiles import Codes, Floats, Tile, TileData, Tiles

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Edges:
    """Labels along the four edges of a tile, numbered through all tiles."""

    top: Numbers
    bottom: Numbers
    left: Numbers
    right: Numbers


@dataclass(frozen=True)
class Borders:
    """Borders between labels of two classes.

    Attributes:
        labels: (2, borders).
        lengths: sides of pixels, (borders,).
    """

    labels: Numbers
    lengths: Numbers


@dataclass(frozen=True)
class Patches:
    """All patches of a raster, those of no data (code 0) among them.

    Attributes:
        codes: class of each patch, (patches,).
        pixels: how many each has.
        areas: square metres of each; None where the raster has no place.
        confidence: mean of each, 0 to 1; None where there is none.
        first_tile: number of the first tile in which each has pixels; last_tile: of the last.
        of_label: patch of each label.
        first_label: of each tile; the labels of a tile follow those of the tile before.
        edges: of each tile.
    """

    codes: Numbers
    pixels: Numbers
    areas: Floats | None
    confidence: Floats | None
    first_tile: Numbers
    last_tile: Numbers
    of_label: Numbers
    first_label: Numbers
    edges: tuple[Edges, ...]

    def in_tile(self, tile: Tile, codes: Codes) -> Labels:
        """Patch of each pixel of a tile, (height, width), from the tile's own codes."""
        labels, count = label(codes)
        first = int(self.first_label[tile.number])
        # Labels are numbered alike each time, since the codes are the same: the first pass's table holds.
        patches: Labels = self.of_label[first : first + count].astype(np.int32)[labels]
        return patches

    def seams(self, tiles: Tiles, tile: Tile) -> SeamVertices:
        """Where patches of the tiles beside this one meet at its frame."""
        across, column = tiles.columns, tile.number % tiles.columns
        above, below = self._edges_of(tile.number - across), self._edges_of(tile.number + across)
        before = self._edges_of(tile.number - 1) if column else None
        after = self._edges_of(tile.number + 1) if column + 1 < across else None
        return SeamVertices(
            top=self._meetings(above, "bottom", tile.width),
            bottom=self._meetings(below, "top", tile.width),
            left=self._meetings(before, "right", tile.height),
            right=self._meetings(after, "left", tile.height),
        )

    def _edges_of(self, number: int) -> Edges | None:
        return self.edges[number] if 0 <= number < len(self.edges) else None

    def regrouped(self, groups: Numbers, codes: Numbers) -> Patches:
        """The patches joined to groups.

        Args:
            groups: 0 to n - 1 of each patch, (patches,).
            codes: class of each group, (n,).
        """
        count = len(codes)
        pixels = np.bincount(groups, self.pixels, count).astype(np.int64)
        areas = None if self.areas is None else np.bincount(groups, self.areas, count).astype(np.float64)
        confidence = None
        if self.confidence is not None:
            # Means are weighted by pixels, as if they were taken over the group at once.
            confidence = np.bincount(groups, self.confidence * self.pixels, count) / pixels
        first, last = np.full(count, len(self.edges)), np.full(count, -1)
        np.minimum.at(first, groups, self.first_tile)
        np.maximum.at(last, groups, self.last_tile)
        return replace(
            self, codes=codes, pixels=pixels, areas=areas, confidence=confidence, first_tile=first, last_tile=last,
            of_label=groups[self.of_label],
        )  # fmt: skip

    def joined(self, pairs: Numbers) -> Patches:
        """The patches joined that are named as pairs, (2, pairs); both of a pair have one class."""
        groups, count = components(len(self.codes), *pairs)
        codes = np.empty(count, np.int64)
        codes[groups] = self.codes
        return self.regrouped(groups, codes)

    def _meetings(self, neighbour: Edges | None, edge: str, length: int) -> Flags:
        vertices = np.zeros(length + 1, dtype=bool)
        # The corners of a tile are vertices of every tile around them.
        vertices[[0, -1]] = True
        if neighbour is not None:
            patches = self.of_label[getattr(neighbour, edge)]
            vertices[1:-1] = patches[1:] != patches[:-1]
        return vertices


def label(values: NDArray[Any]) -> tuple[Labels, int]:
    """Numbers 0 to n - 1 of 4-connected pixels of equal value, (height, width), and n.

    Runs of rows are the nodes of a graph. Source: L. He, Y. Chao, K. Suzuki, "A run-based two-scan labeling
    algorithm", IEEE Transactions on Image Processing 17, 2008.
    """
    # Runs of a row and not pixels are the graph's nodes: a class map has far fewer of them.
    begins = np.ones(values.shape, dtype=bool)
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    runs = np.cumsum(begins, dtype=np.int32).reshape(values.shape) - 1
    # Two runs that touch are named once: where the later of them begins.
    touch = values[1:] == values[:-1]
    touch[:, 1:] &= begins[1:, 1:] | begins[:-1, 1:]
    of_run, count = components(int(runs[-1, -1]) + 1, runs[:-1][touch], runs[1:][touch])
    return of_run.astype(np.int32)[runs], count


def components(nodes: int, sources: NDArray[Any], targets: NDArray[Any]) -> tuple[Numbers, int]:
    """Number 0 to n - 1 of the connected part of a graph that each node is in, and n."""
    graph = coo_array((np.ones(len(sources), np.int8), (sources, targets)), shape=(nodes, nodes))
    count, of_node = connected_components(graph, directed=False)
    return of_node.astype(np.int64), int(count)


def find_patches(
    tiles: Tiles, read: Callable[[Tile], TileData], *, with_borders: bool = False
) -> tuple[Patches, Borders | None]:
    """Labels, joins and counts the patches of a raster; lengths of the borders between labels where asked for."""
    columns: dict[str, list[NDArray[Any]]] = {}
    edges: list[Edges] = []
    first = [0]
    borders: list[Numbers] = []
    for tile in tiles:
        data = read(tile)
        labels, count = label(data.codes)
        for name, values in _counted(tile, data, labels, count).items():
            columns.setdefault(name, []).append(values)
        edges.append(_edges(labels, first[-1]))
        if with_borders:
            borders.append(_borders_within(labels, first[-1]))
        first.append(first[-1] + count)
    table = {name: np.concatenate(parts) for name, parts in columns.items()}
    confidence = table["confidence"] / table["pixels"] if "confidence" in table else None
    labelled = Patches(
        codes=table["codes"], pixels=table["pixels"], areas=table.get("areas"), confidence=confidence,
        first_tile=table["tile"], last_tile=table["tile"], of_label=np.arange(first[-1]),
        first_label=np.array(first), edges=tuple(edges),
    )  # fmt: skip
    # Within a tile labels are whole; what is left to join lies on either side of a seam.
    seams = _seams(tiles, edges)
    is_same = labelled.codes[seams[0]] == labelled.codes[seams[1]]
    if with_borders:
        over_seams = seams[:, ~is_same]
        borders.append(np.concatenate([over_seams, np.ones((1, over_seams.shape[1]), np.int64)]))
    gathered = np.concatenate(borders, axis=1) if with_borders else None
    return labelled.joined(seams[:, is_same]), None if gathered is None else Borders(gathered[:2], gathered[2])


def _seams(tiles: Tiles, edges: list[Edges]) -> Numbers:
    """Labels on the two sides of each pixel's border over a seam, (2, borders)."""
    pairs = [np.zeros((2, 0), np.int64)]
    for number, edge in enumerate(edges):
        if number % tiles.columns:
            pairs.append(np.stack([edges[number - 1].right, edge.left]))
        if number >= tiles.columns:
            pairs.append(np.stack([edges[number - tiles.columns].bottom, edge.top]))
    return np.concatenate(pairs, axis=1)


def _counted(tile: Tile, data: TileData, labels: Labels, count: int) -> dict[str, NDArray[Any]]:
    flat = labels.ravel()
    codes = np.empty(count, np.int64)
    codes[flat] = data.codes.ravel()
    columns = {"codes": codes, "pixels": np.bincount(flat, minlength=count), "tile": np.full(count, tile.number)}
    if data.areas is not None:
        columns["areas"] = np.bincount(flat, data.areas.ravel(), count)
    if data.confidence is not None:
        # A sum here: `find_patches` divides by the pixels at the end.
        columns["confidence"] = np.bincount(flat, data.confidence.ravel(), count)
    return columns


def _edges(labels: Labels, first: int) -> Edges:
    lines = labels[0], labels[-1], labels[:, 0], labels[:, -1]
    return Edges(*(line.astype(np.int64) + first for line in lines))


def _borders_within(labels: Labels, first: int) -> Numbers:
    """Labels of two sides and the length of each border in a tile, (3, borders)."""
    pairs = []
    for before, after in ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])):
        differs = before != after
        # int64: a pair's number below is up to the square of the number of labels.
        pairs.append(np.stack([before[differs], after[differs]]).astype(np.int64))
    ordered = np.sort(np.concatenate(pairs, axis=1), axis=0)
    span = int(labels.max()) + 1
    keys, lengths = np.unique(ordered[0] * span + ordered[1], return_counts=True)
    return np.stack([keys // span + first, keys % span + first, lengths])
