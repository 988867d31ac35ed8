"""Directions in the features that tell imagery whose bands come in another order.

Exchanged bands move a cell's features less than places differ among themselves, so a distance from the training imagery
misses them. But anyone can make examples: the training tiles with their bands exchanged. A linear classifier on the
same features tells them from tiles in the right order, and its log odds are brought to the scale of the distances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.familiarity.statistics import BandOrders, Floats, rank_of_cells

Pixels = NDArray[np.uint8]
ORDERS: tuple[tuple[tuple[int, int, int], ...], ...] = (((2, 1, 0),), ((1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)))
"""Groups of orders, each with a direction of its own: red and blue exchanged, which happens most, and the other four.
One direction for all five told the first at an AUROC of 0.91 in place of 0.97."""
LEAST_AUROC = 0.75
"""On held-out tiles: a direction that tells less is left out."""
_RIDGE = 0.003
"""Times the sum of squared weights of standardised features. On Dubai 0.01 told less (AUROC 0.963 for 0.970)."""
_STEPS = 200
_ODDS, _DISTANCES = (0.5, 0.98), (0.5, 0.995)
"""Quantiles of the held-out tiles: log odds at the first count as the distances at the second. The two share the tiles
that may be told wrongly; the odds get most, for other imagery is far beyond these distances, exchanged bands not."""


@dataclass(frozen=True)
class ImageCells:
    """Cells of an image's tiles.

    Attributes:
        right: float32 (N, cells, D).
        exchanged: for each group of ``ORDERS``, the same with the tiles' bands in one of its orders.
    """

    right: Floats
    exchanged: tuple[Floats, ...]

    @classmethod
    def joined(cls, several: Sequence[ImageCells]) -> ImageCells:
        """All of them as one."""
        groups = zip(*(cells.exchanged for cells in several), strict=True)
        return cls(np.concatenate([cells.right for cells in several]), tuple(np.concatenate(group) for group in groups))


def exchanged(tiles: Iterable[Pixels], group: int) -> Iterator[Pixels]:
    """Tiles uint8 (3, S, S) with their bands in the orders of a group, one order after the other."""
    orders = ORDERS[group]
    for number, tile in enumerate(tiles):
        yield np.ascontiguousarray(tile[list(orders[number % len(orders)])])


def log_odds(sets: Sequence[ImageCells], group: int) -> tuple[Floats, float]:
    """A direction (D,) and a bias: cells @ direction + bias are the log odds that a cell's bands are exchanged.

    Each set counts alike, however many tiles it has.
    """
    cells, exchanged_cells, weights = [], [], []
    for given in sets:
        for values, label in ((given.right, 0.0), (given.exchanged[group], 1.0)):
            flat = values.reshape(-1, values.shape[-1])
            cells.append(flat)
            exchanged_cells.append(np.full(len(flat), label))
            weights.append(np.full(len(flat), 1 / len(flat)))
    features, labels, weight = (torch.from_numpy(np.concatenate(part)) for part in (cells, exchanged_cells, weights))
    features, weight = features.double(), weight / weight.sum()
    mean, deviation = features.mean(dim=0), features.std(dim=0) + 1e-6
    features = (features - mean) / deviation
    direction = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([direction, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        cost = F.binary_cross_entropy_with_logits(features @ direction + bias, labels, weight, reduction="sum")
        cost = cost + _RIDGE * direction.square().sum()
        cost.backward()  # type: ignore[no-untyped-call]
        return cost

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    in_features = direction.detach() / deviation
    return in_features.numpy().astype(np.float32), float(bias.detach() - (in_features * mean).sum())


@dataclass(frozen=True)
class HeldOut:
    """What held-out tiles gave, by statistics and directions that had not seen them.

    Attributes:
        distances: float32 (N, cells), of the cells from the training imagery.
        odds: float32 (N, cells, G), log odds by group of ``ORDERS``.
        exchanged_odds: the same of these tiles with exchanged bands: group G's by direction G.
    """

    distances: Floats
    odds: Floats
    exchanged_odds: Floats

    @classmethod
    def of(cls, cells: ImageCells, distances: Floats, directions: Sequence[tuple[Floats, float]]) -> HeldOut:
        """Of an image's tiles."""
        pairs = list(zip(directions, cells.exchanged, strict=True))
        return cls(
            distances,
            np.stack([cells.right @ direction + bias for direction, bias in directions], axis=-1),
            np.stack([values @ direction + bias for (direction, bias), values in pairs], axis=-1),
        )

    @classmethod
    def joined(cls, several: Sequence[HeldOut]) -> HeldOut:
        """All of them as one."""
        parts = ([getattr(item, name) for item in several] for name in ("distances", "odds", "exchanged_odds"))
        return cls(*(np.concatenate(part) for part in parts))

    def telling(self) -> list[tuple[int, float, float]]:
        """For each group that is told apart: its number, and slope and offset from log odds to distance."""
        found = []
        far = np.quantile(rank_of_cells(self.distances), _DISTANCES)
        for group in range(self.odds.shape[-1]):
            right, wrong = rank_of_cells(self.odds[..., group]), rank_of_cells(self.exchanged_odds[..., group])
            common, rare = np.quantile(right, _ODDS)
            if rare - common > 1e-6 and float((wrong[:, None] > right).mean()) >= LEAST_AUROC:
                slope = max(float(far[1] - far[0]), 1e-3) / float(rare - common)
                found.append((group, slope, float(far[0] - slope * common)))
        return found

    def tile_distances(self) -> Floats:
        """Of the tiles, float32 (N,), with what the directions say."""
        cells = self.distances
        for group, slope, offset in self.telling():
            cells = np.maximum(cells, self.odds[..., group] * slope + offset)
        return rank_of_cells(cells)


def band_orders(
    directions: Sequence[tuple[Floats, float]], telling: Sequence[tuple[int, float, float]]
) -> BandOrders | None:
    """The directions that tell, in units of distance; None where none does."""
    if not telling:
        return None
    chosen = [(directions[group], slope, offset) for group, slope, offset in telling]
    return BandOrders(
        np.stack([direction * slope for (direction, _), slope, _ in chosen], axis=1).astype(np.float32),
        np.array([bias * slope + offset for (_, bias), slope, offset in chosen], np.float32),
    )
