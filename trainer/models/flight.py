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
        _, rows, columns = static_sizes(tiles)
        cell = self.settings.cell
        if rows % cell or columns % cell:
            raise ValueError(f"a tile of {rows} x {columns} pixels has no whole cells of {cell}")
        return resized(self.segmenter(tiles.float()), (rows // cell, columns // cell))

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Normalise, segment, resize, hear the neighbours, choose: one byte a pixel crosses the bus."""
        logits = self.logits(tiles)
        index = said(logits, self.settings)
        layers = [index.float() + 1.0]
        if self.settings.confidence:
            sure = picked(tempered(logits, self.settings.temperature), index)
            layers.append((255.0 * sure).round().clamp_min(1.0))
        layers_as_bytes = in_pixels(torch.cat(layers, dim=1), self.settings.cell).to(torch.uint8)
        return tuple(layer.squeeze(1) for layer in torch.split(layers_as_bytes, 1, dim=1))


class ProbabilitySegmenter(FlightSegmenter):
    """The twin for those who blend: uint8 tiles (N, 3, S, S) to tempered probabilities float32 (N, K, S, S).

    Of the network alone, no neighbour heard: overlapping tiles are averaged first, and :func:`smoothed` takes the
    logarithm of the mean x temperature for logits afterwards, so that blended and flown maps are made alike.
    """

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Normalise, segment, resize: K floats a pixel."""
        probability = tempered(self.logits(tiles), self.settings.temperature)
        return (in_pixels(probability, self.settings.cell),)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities (B, K, h, w) of logits / temperature.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    return (logits if temperature == 1 else logits / temperature).softmax(dim=1)


def picked(probability: Tensor, index: Tensor) -> Tensor:
    """(B, 1, h, w) of (B, K, h, w): the channel named at each place. A sum of one number and zeros, hence exact.

    Written without a gather, which engines run one element at a time.
    """
    channels = torch.arange(static_sizes(probability)[0], device=probability.device).reshape(1, -1, 1, 1)
    return torch.where(index == channels, probability, 0.0).sum(dim=1, keepdim=True)


def in_pixels(cells: Tensor, cell: int) -> Tensor:
    """(B, C, h, w) by cell to (B, C, h x cell, w x cell) by pixel."""
    return cells if cell == 1 else F.interpolate(cells, scale_factor=float(cell))


def said(logits: Tensor, settings: FlightSettings) -> Tensor:
    """Channel of the class chosen for each cell, int64 (B, 1, h, w), after the neighbours were heard."""
    return smoothed(logits, settings).argmax(dim=1, keepdim=True)


def smoothed(logits: Tensor, settings: FlightSettings) -> Tensor:
    """Logits (B, K, h, w) after ``rounds`` of mean field with a Potts prior over a square neighbourhood.

    Source: Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011;
    here with a box for the Gaussian and no appearance term, so that a round is one average pooling.
    """
    field = logits
    for _ in range(settings.rounds):
        heard = F.avg_pool2d(
            field.softmax(dim=1), settings.reach, stride=1, padding=settings.reach // 2, count_include_pad=False
        )
        field = logits + settings.prior * heard
    return field
