"""The form of a network that flies: bytes in, bytes out, everything between inside the graph."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.segmenter import Segmenter
from trainer.models.tokens import static_sizes
from trainer.models.upernet import resized


class FlightSettings(BaseModel):
    """How logits become classes.

    A map is paid for by the length of its borders, and a network's borders fray where it is unsure. Two things mend
    that at no loss of accuracy (docs/decisions/0002 and 0003 have the figures): classes are chosen for cells of a few
    pixels, since the logits are no finer than stride 4, and each cell hears its neighbours first.

    Attributes:
        cell: pixels a side that share a class; divides the tile.
        prior: logits a neighbourhood of one class adds for that class; 0 leaves the logits alone.
        rounds: times that neighbours are heard.
        reach: cells a side of a neighbourhood, odd.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: int = Field(default=2, ge=1)
    prior: float = Field(default=4.0, ge=0)
    rounds: int = Field(default=2, ge=0)
    reach: int = Field(default=7, ge=1)


PLAIN_FLIGHT = FlightSettings(cell=1, prior=0, rounds=0)
"""Every pixel by its own logits, as the paper has it."""


class FlightSegmenter(nn.Module):
    """What is exported: uint8 tiles (N, 3, S, S) to ``classes`` and ``confidence``, both uint8 (N, S, S).

    Classes are codes 1..K; confidence is the network's probability of the class said x 255, at least 1: 0 is no data.
    """

    def __init__(self, segmenter: Segmenter, settings: FlightSettings | None = None) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.settings = settings or FlightSettings()

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise, segment, resize, hear the neighbours, choose: one byte a pixel crosses the bus.

        Raises:
            ValueError: the tile's sides are no multiples of the cell.
        """
        _, rows, columns = static_sizes(tiles)
        cell = self.settings.cell
        if rows % cell or columns % cell:
            raise ValueError(f"a tile of {rows} x {columns} pixels has no whole cells of {cell}")
        logits = resized(self.segmenter(tiles.float()), (rows // cell, columns // cell))
        probability = logits.softmax(dim=1)
        index = smoothed(logits, probability, self.settings).argmax(dim=1, keepdim=True)
        confidence = (255.0 * probability.gather(1, index)).round().clamp_min(1.0)
        both = F.interpolate(torch.cat([index.float() + 1.0, confidence], dim=1), scale_factor=float(cell))
        both = both.to(torch.uint8)
        return both[:, 0], both[:, 1]


def smoothed(logits: Tensor, probability: Tensor, settings: FlightSettings) -> Tensor:
    """Logits (B, K, h, w) after ``rounds`` of mean field with a Potts prior over a square neighbourhood.

    Source: Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011;
    here with a box for the Gaussian and no appearance term, so that a round is one average pooling.
    """
    field = logits
    for round_ in range(settings.rounds):
        said = probability if round_ == 0 else field.softmax(dim=1)
        heard = F.avg_pool2d(said, settings.reach, stride=1, padding=settings.reach // 2, count_include_pad=False)
        field = logits + settings.prior * heard
    return field
