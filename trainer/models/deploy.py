"""The exported form of a network: uint8 pixels in, class codes and confidence out, all steps inside the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.errors import SettingsRefused
from trainer.models.cells import box_means, in_phases, phases_in_pixels
from trainer.models.plain import FpnSettings, LiteSettings, PlainSettings
from trainer.models.segmenter import Segmenter
from trainer.models.tokens import static_sizes
from trainer.models.upernet import resized

MOST_PHASES = 4
"""Largest number of cells along a side of a logit for smoothing on the logits' own grid."""


class DeploySettings(BaseModel):
    """How logits become classes.

    The size of a compressed map grows with the length of its borders, and borders are ragged where the network is
    uncertain. Two steps smooth them without loss of accuracy (figures in docs/decisions/0002 and 0003): classes are
    chosen for cells of a few pixels, since the logits are no finer than stride 4, and logits are smoothed over
    neighbouring cells first (mean field, see `smoothed`).

    Attributes:
        cell: side of a square of pixels with one class, in pixels; divides the tile.
        prior: logits that a neighbourhood of one class adds for that class; 0 switches the smoothing off.
        rounds: of smoothing.
        reach: side of a neighbourhood in cells, odd. With up to four cells along a logit, smoothing runs on the grid of
            the logits, with the mean effect of their cells.
        temperature: divisor of the logits for the probabilities in the output, fitted by
            trainer/export/calibration.py. It changes no class, since the smoothing uses the untempered probabilities.
        confidence: whether the exported network has a confidence output.
        bias: logits added for a class, by its name, before all other steps: under 0 for a class whose false alarms cost
            more than what of it is missed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: int = Field(default=2, ge=1)
    prior: float = Field(default=4.0, ge=0)
    rounds: int = Field(default=2, ge=0)
    reach: int = Field(default=7, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    confidence: bool = True
    bias: dict[str, float] = Field(default_factory=dict)

    @property
    def smooths(self) -> bool:
        """Whether neighbours count."""
        return self.rounds > 0 and self.prior > 0


PLAIN_DEPLOY = DeploySettings(cell=1, prior=0, rounds=0)
"""A class for every pixel from its own logits, as in the paper."""


def with_bias(
    segmenter: Segmenter, bias: Mapping[str, float], classes: Sequence[str], head: str | None = None
) -> Segmenter:
    """The same network, whose last layer has a bias added for some classes; it costs nothing when it runs.

    Args:
        segmenter: it is changed.
        bias: logits by name of the class.
        classes: names of the head's classes in the order of its channels.
        head: one of the further heads; None for the first.

    Raises:
        SettingsRefused: no class has such a name.
    """
    layer = (segmenter.decoder if head is None else segmenter.heads[head]).classifier
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None  # noqa: S101 -- of every decoder here
    for name, logits in bias.items():
        if name not in classes:
            raise SettingsRefused("--bias", f"no class {name!r}; there are {', '.join(classes)}")
        with torch.no_grad():
            layer.bias[list(classes).index(name)] += logits
    return segmenter


class DeploySegmenter(nn.Module):
    """The exported network: uint8 tiles (N, 3, S, S) to ``classes`` and ``confidence``, both uint8 (N, S, S).

    Classes are codes 1..K. Confidence (optional) is the tempered probability of the chosen class x 255, at least 1,
    since 0 means no data. Where smoothing overrules the network, its probability of the chosen class is low, and so is
    the confidence, as intended.
    """

    def __init__(self, segmenter: Segmenter, settings: DeploySettings | None = None) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.settings = settings or DeploySettings()

    @property
    def takes_any_side(self) -> bool:
        """Whether the exported graph is right for tiles of any side that the strides divide.

        Convolutions, resizes by a constant factor and slices are. Not so attention and pyramid pooling, a resize of the
        logits to the cells of one tile, and smoothing, whose matrices have the size of a tile's logits.
        """
        network, settings = self.segmenter.settings, self.settings
        if not isinstance(network.student, PlainSettings | LiteSettings) or not isinstance(
            network.decoder, FpnSettings
        ):
            return False
        side, rest = divmod(network.decoder.stride, settings.cell)
        return not settings.smooths and rest == 0 and 1 <= side <= MOST_PHASES

    def logits(self, tiles: Tensor) -> Tensor:
        """Float32 (N, K, S/cell, S/cell) of uint8 tiles.

        Raises:
            ValueError: the tile's sides are not multiples of the cell.
        """
        sides = _cells_of(tiles, self.settings.cell)
        return resized(self.segmenter(tiles.float()), sides)

    def cells(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """By cell: logits float32 (N, K, S/cell, S/cell), and the channel of the class chosen, int64 (N, 1, ...).

        Raises:
            ValueError: the tile's sides are not multiples of the cell.
        """
        grid, side = self._grid(tiles)
        # No probability is asked for: calibration needs the logits, not yet tempered.
        codes, _ = chosen(in_phases(smoothed(grid, self.settings, side), side), None, side)
        return F.pixel_shuffle(in_phases(grid, side), side), F.pixel_shuffle(codes, side).long() - 1

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Normalises, segments, smooths, chooses classes and expands them to pixels: one byte per pixel and output."""
        grid, side = self._grid(tiles)
        settings = self.settings
        any_size = self.takes_any_side
        field = in_phases(smoothed(grid, settings, side), side, any_size=any_size)
        # The smoothing above gets the untempered logits: fitting a temperature must change no class.
        tempered = None
        if settings.confidence:
            tempered = in_phases(_tempered(grid, settings.temperature), side, any_size=any_size)
        codes, sure = chosen(field, tempered, side)
        layers = [codes] if sure is None else [codes, (255.0 * sure).round().clamp_min(1.0)]
        return tuple(phases_in_pixels(layer, side, settings.cell, any_size=any_size) for layer in layers)

    def _grid(self, tiles: Tensor) -> tuple[Tensor, int]:
        """Logits and the number of cells along a side of one: as the network gives them, or resized to cells (1)."""
        rows, columns = _cells_of(tiles, self.settings.cell)
        grid = self.segmenter(tiles.float())
        _, own_rows, own_columns = static_sizes(grid)
        side = rows // own_rows
        # Phases need a whole number of cells along a logit.
        whole = side >= 1 and (rows, columns) == (side * own_rows, side * own_columns)
        # A neighbourhood that is no larger than a logit would smooth nothing on the logits' grid.
        if whole and side <= MOST_PHASES and (self.settings.reach > side or not self.settings.smooths):
            return grid, side
        return resized(grid, (rows, columns)), 1


class ProbabilitySegmenter(DeploySegmenter):
    """The network for blending of tiles: uint8 tiles (N, 3, S, S) to tempered probabilities float32 (N, K, S, S).

    Its graph is for tiles of one size: blending takes the usual ones.

    No smoothing: overlapping tiles are averaged first. Afterwards :func:`smoothed` can take the logarithm of the mean
    x temperature as logits, so that blended maps and onboard maps are made in the same way.
    """

    takes_any_side = False

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Normalises, segments and resizes: K floats per pixel."""
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

    Computed channel by channel with sums and products of whole planes, which engines fuse or vectorise. Argmax and
    comparison are five times slower, and ONNX Runtime's Where takes six times as long as a product.

    Args:
        field: (B, K x side^2, h, w), as :func:`in_phases` gives it.
        logits: tempered ones, of the same shape; None for no probability.
        side: number of cells along a logit.

    Returns:
        Codes 1..K as floats and probabilities 0..1, both (B, side^2, h, w). The first of equal classes is chosen.
    """
    fields = torch.split(field, side**2, dim=1)
    planes = fields if logits is None else torch.split(logits, side**2, dim=1)
    best, chosen_logit = fields[0], planes[0]
    codes: Tensor | None = None  # as good as ones, but ones_like would ask for a size at run time
    for code, (rival, plane) in enumerate(zip(fields[1:], planes[1:], strict=True), start=2):
        ahead = (rival > best).to(field.dtype)
        codes = 1.0 + ahead if codes is None else codes + ahead * (code - codes)
        if logits is not None:
            chosen_logit = chosen_logit + ahead * (plane - chosen_logit)
        best = torch.maximum(best, rival)
    codes = torch.ones_like(best) if codes is None else codes
    if logits is None:
        return codes, None
    # Relative to the class said, and not to the largest: it needs no maximum, and where the sum overflows, the
    # probability is 0, as it should be.
    total = (planes[0] - chosen_logit).exp()
    for plane in planes[1:]:
        total = total + (plane - chosen_logit).exp()
    return codes, total.reciprocal()


def smoothed(logits: Tensor, settings: DeploySettings, side: int = 1) -> Tensor:
    """Logits (B, K, h, w) after ``rounds`` of mean field with a Potts prior over a square neighbourhood.

    ``side``: number of cells along a side of a logit; the size of the neighbourhood is in cells.

    Source: Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011;
    here with a box for the Gaussian and no appearance term, so that a round is two small matrix products.
    """
    if not settings.smooths:
        return logits
    _, rows, columns = static_sizes(logits)
    # The prior goes into one of the two constant matrices: no product at run time.
    down = (settings.prior * box_means(rows, side, settings.reach)).to(logits)
    across = box_means(columns, side, settings.reach).T.contiguous().to(logits)
    field = logits
    for _ in range(settings.rounds):
        # A softmax in its parts: over channels, ONNX Runtime's takes 30 times as long.
        odds = (field - field.amax(dim=1, keepdim=True)).exp()
        # The logits stay the evidence in every round; only what the neighbours say is taken anew.
        field = logits + down @ (odds / odds.sum(dim=1, keepdim=True)) @ across
    return field
