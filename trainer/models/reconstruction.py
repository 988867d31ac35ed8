"""Masked reconstruction: predicts hidden patches from visible ones, without labels.

Sources: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022; the head's shape is that of
Mask-CDKD (docs: method).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.errors import SettingsRefused
from trainer.models.masking import Visible
from trainer.models.normalisation import DEVIATION, MEAN
from trainer.models.student import sincos_positions

Target = Literal["normalised", "raw"]


class HeadSettings(BaseModel):
    """Shape of a reconstruction head; it is as wide as its encoder. Defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=8, ge=1)
    mlp_ratio: float = 4.0


class ReconstructionHead(nn.Module):
    """Features of visible tokens to the pixels of hidden patches.

    Linear embedding, a learned token at every hidden place, learned positions, transformer blocks over the whole grid,
    and a linear layer to patch * patch * 3 values, band after band.
    """

    def __init__(self, settings: HeadSettings, *, width: int, patch: int, side: int) -> None:
        """``side`` is that of the grid of learned positions; other grids get it interpolated."""
        super().__init__()
        if width % settings.heads:
            raise SettingsRefused("head.heads", f"{settings.heads} does not divide the width of an encoder, {width}")
        self.embed = nn.Linear(width, width)
        self.hidden_token = nn.Parameter(torch.zeros(1, 1, width))
        # The tokens of hidden places have been through no encoder: they get their positions here.
        self.positions = nn.Parameter(sincos_positions(width, side))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, settings.heads, int(settings.mlp_ratio * width),
                dropout=0.0, activation="gelu", batch_first=True, norm_first=True,
            )
            for _ in range(settings.depth)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width)
        self.to_pixels = nn.Linear(width, patch * patch * 3)
        nn.init.trunc_normal_(self.hidden_token, std=0.02)

    def forward(self, features: Tensor, visible: Visible) -> Tensor:
        """(B, N_v, D) to the guess for the hidden patches (B, N - N_v, 3 * patch^2), in the order of their numbers."""
        batch, _, width = features.shape
        count = visible.rows * visible.columns
        tokens = self.hidden_token.to(features.dtype).expand(batch, count, width)
        place = visible.index[..., None].expand(-1, -1, width)
        # Autocast may give `embed` another type than the features have, and scatter wants one.
        tokens = tokens.scatter(1, place, self.embed(features).to(features.dtype))
        tokens = tokens + self._positions(visible.rows, visible.columns)
        for block in self.blocks:
            tokens = block(tokens)
        hidden = visible.hidden_index()[..., None].expand(-1, -1, width)
        return self.to_pixels(self.norm(tokens.gather(1, hidden)))  # type: ignore[no-any-return]

    def _positions(self, rows: int, columns: int) -> Tensor:
        table: Tensor = self.positions
        if table.shape[-2:] != (rows, columns):
            table = F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)
        return table.flatten(2).transpose(1, 2)


def patches_of(image: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) to (B, N, 3 * patch^2): row-major patches, each band after band, row after row."""
    return F.unfold(image, patch, stride=patch).transpose(1, 2)


def image_of(patches: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """The inverse of :func:`patches_of`."""
    return F.fold(patches.transpose(1, 2), (rows * patch, columns * patch), patch, stride=patch)


def target_of(pixels: Tensor, target: Target) -> Tensor:
    """What is to be guessed, of pixels (B, 3, H, W) in 0..255.

    "normalised" takes SAM's mean and deviation out; "raw" is the pixels, as the authors' code has it, whose loss is
    thousands of times the alignment's.
    """
    if target == "raw":
        return pixels
    mean, deviation = (pixels.new_tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def pixels_of(guess: Tensor, target: Target) -> Tensor:
    """The inverse of :func:`target_of`."""
    if target == "raw":
        return guess
    mean, deviation = (guess.new_tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return guess * deviation + mean


def reconstruction_loss(guess: Tensor, image: Tensor, visible: Visible, patch: int) -> Tensor:
    """Mean squared error over the hidden patches only.

    Args:
        guess: (B, N - N_v, 3 * patch^2), as :class:`ReconstructionHead` gives it.
        image: (B, 3, H, W), as :func:`target_of` gives it.
        visible: which patches are not hidden.
        patch: pixels a side.
    """
    truth = patches_of(image, patch)
    hidden = visible.hidden_index()[..., None].expand(-1, -1, truth.shape[-1])
    # Hidden patches alone: the visible ones could be copied.
    return F.mse_loss(guess.float(), truth.gather(1, hidden).float())
