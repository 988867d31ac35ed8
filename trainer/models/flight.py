"""The form of a network that flies: bytes in, bytes out, everything between inside the graph."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.cells import box_means, in_phases, phases_in_pixels
from trainer.models.segmenter import Segmenter
from trainer.models.tokens import static_sizes
from trainer.models.upernet import resized

MOST_PHASES = 4
"""Cells along a side of a logit up to which the neighbours are heard on the logits' own grid."""


class FlightSettings(BaseModel):
    """How logits become classes.

    A map is paid for by the length of its borders, and a network's borders fray where it is unsure. Two things mend
    that at no loss of accuracy (docs/decisions/0002 and 0003 have the figures): classes are chosen for cells of a few
    pixels, since the logits are no finer than stride 4, and each cell hears its neighbours first.

    Attributes:
        cell: pixels a side that share a class; divides the tile.
        prior: logits a neighbourhood of one class adds for that class; 0 leaves the logits alone.
        rounds: times that neighbours are heard.
        reach: cells a side of a neighbourhood, odd. Where up to four cells lie along a logit, neighbours are heard on
            the logits' own grid, each logit by what its cells would hear in the mean.
        temperature: what logits are divided by before they count as probabilities outside; trainer/calibration.py
            fits it. It changes no class: the prior was chosen for the network's own probabilities, which stay inside.
        confidence: whether the form that flies gives one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: int = Field(default=2, ge=1)
    prior: float = Field(default=4.0, ge=0)
    rounds: int = Field(default=2, ge=0)
    reach: int = Field(default=7, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    confidence: bool = True


PLAIN_FLIGHT = FlightSettings(cell=1, prior=0, rounds=0)
"""Every pixel by its own logits, as the paper has it."""


class FlightSegmenter(nn.Module):
    """What is exported: uint8 tiles (N, 3, S, S) to ``classes`` and ``confidence``, both uint8 (N, S, S).

    Classes are codes 1..K; confidence, left out where the settings say so, is the tempered probability of the class
    said x 255, at least 1: 0 is no data. The class said is the one the neighbours were heard on; where they overruled
    the network, its probability of that class is low, and that is what confidence should say there.
    """

    def __init__(self, segmenter: Segmenter, settings: FlightSettings | None = None) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.settings = settings or FlightSettings()

    def logits(self, tiles: Tensor) -> Tensor:
        """Float32 (N, K, S/cell, S/cell) of uint8 tiles.

        Raises:
            ValueError: the tile's sides are no multiples of the cell.
        """
        sides = _cells_of(tiles, self.settings.cell)
        return resized(self.segmenter(tiles.float()), sides)

    def cells(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """By cell: logits float32 (N, K, S/cell, S/cell), and the channel of the class chosen, int64 (N, 1, ...).

        Raises:
            ValueError: the tile's sides are no multiples of the cell.
        """
        grid, side = self._grid(tiles)
        codes, _ = chosen(in_phases(smoothed(grid, self.settings, side), side), None, side)
        return F.pixel_shuffle(in_phases(grid, side), side), F.pixel_shuffle(codes, side).long() - 1

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Normalise, segment, hear the neighbours, choose, spread over pixels: one byte a pixel crosses the bus."""
        grid, side = self._grid(tiles)
        settings = self.settings
        field = in_phases(smoothed(grid, settings, side), side)
        tempered = in_phases(_tempered(grid, settings.temperature), side) if settings.confidence else None
        codes, sure = chosen(field, tempered, side)
        layers = [codes] if sure is None else [codes, (255.0 * sure).round().clamp_min(1.0)]
        return tuple(phases_in_pixels(layer, side, settings.cell) for layer in layers)

    def _grid(self, tiles: Tensor) -> tuple[Tensor, int]:
        """Logits, and how many cells lie along a side of one: as the network gives them, or resized to cells, 1."""
        rows, columns = _cells_of(tiles, self.settings.cell)
        grid = self.segmenter(tiles.float())
        _, own_rows, own_columns = static_sizes(grid)
        side = rows // own_rows
        whole = side >= 1 and (rows, columns) == (side * own_rows, side * own_columns)
        heard = self.settings.rounds > 0 and self.settings.prior > 0
        if whole and side <= MOST_PHASES and (self.settings.reach > side or not heard):
            return grid, side
        return resized(grid, (rows, columns)), 1


class ProbabilitySegmenter(FlightSegmenter):
    """The twin for those who blend: uint8 tiles (N, 3, S, S) to tempered probabilities float32 (N, K, S, S).

    Of the network alone, no neighbour heard: overlapping tiles are averaged first, and :func:`smoothed` takes the
    logarithm of the mean x temperature for logits afterwards, so that blended and flown maps are made alike.
    """

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Normalise, segment, resize: K floats a pixel."""
        probability = _tempered(self.logits(tiles), self.settings.temperature).softmax(dim=1)
        cell = self.settings.cell
        return (probability if cell == 1 else F.interpolate(probability, scale_factor=float(cell)),)


def _cells_of(tiles: Tensor, cell: int) -> tuple[int, int]:
    _, rows, columns = static_sizes(tiles)
    if rows % cell or columns % cell:
        raise ValueError(f"a tile of {rows} x {columns} pixels has no whole cells of {cell}")
    return rows // cell, columns // cell


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""
    return logits if temperature == 1 else logits / temperature


def chosen(field: Tensor, logits: Tensor | None, side: int) -> tuple[Tensor, Tensor | None]:
    """The class with the largest field at each place, and its probability.

    Channel by channel, in sums and products of whole planes: engines fuse or at least vectorise these. They choose by
    argmax and pick by comparison five times as slowly, and ONNX Runtime's Where takes six times a product.

    Args:
        field: (B, K x side^2, h, w), as :func:`in_phases` gives it.
        logits: tempered ones, of the same shape; None: no probability is wanted.
        side: cells along a logit.

    Returns:
        Codes 1..K as floats and probabilities 0..1, both (B, side^2, h, w). The first of equals is chosen.
    """
    fields = field.split(side**2, dim=1)
    planes = fields if logits is None else logits.split(side**2, dim=1)
    best, said = fields[0], planes[0]
    codes: Tensor | None = None  # as good as ones, but ones_like would ask for a size at run time
    for code, (rival, plane) in enumerate(zip(fields[1:], planes[1:], strict=True), start=2):
        ahead = (rival > best).to(field.dtype)
        codes = 1.0 + ahead if codes is None else codes + ahead * (code - codes)
        if logits is not None:
            said = said + ahead * (plane - said)
        best = torch.maximum(best, rival)
    codes = torch.ones_like(best) if codes is None else codes
    if logits is None:
        return codes, None
    # Relative to the class said, and not to the largest: it needs no maximum, and where the sum overflows, the
    # probability is 0, as it should be.
    total = (planes[0] - said).exp()
    for plane in planes[1:]:
        total = total + (plane - said).exp()
    return codes, total.reciprocal()


def smoothed(logits: Tensor, settings: FlightSettings, side: int = 1) -> Tensor:
    """Logits (B, K, h, w) after ``rounds`` of mean field with a Potts prior over a square neighbourhood.

    ``side`` is how many cells lie along a side of a logit: the neighbourhood counts cells.

    Source: Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011;
    here with a box for the Gaussian and no appearance term, so that a round is two small matrix products.
    """
    if settings.rounds == 0 or settings.prior == 0:
        return logits
    _, rows, columns = static_sizes(logits)
    down = (settings.prior * box_means(rows, side, settings.reach)).to(logits)
    across = box_means(columns, side, settings.reach).T.contiguous().to(logits)
    field = logits
    for _ in range(settings.rounds):
        # A softmax in its parts: over channels, ONNX Runtime's takes 30 times as long.
        odds = (field - field.amax(dim=1, keepdim=True)).exp()
        field = logits + down @ (odds / odds.sum(dim=1, keepdim=True)) @ across
    return field
