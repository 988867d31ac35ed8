"""Masked reconstruction: guess the hidden patches from the visible ones, with no label.

Sources: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022; Xie et al., "SimMIM", CVPR 2022,
whose one-layer head is taken; Tian et al., "Designing BERT for Convolutional Networks", ICLR 2023, for the stem.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.segmenter import DEVIATION, MEAN
from trainer.models.student import Student, StudentSettings
from trainer.models.tokens import PATCH


def drawn_visibility(side: int, *, hidden: float, cell: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which tokens of a side x side grid are seen, bool (side, side): whole cells are hidden, ``hidden`` of them.

    Raises:
        ValueError: the side is not a multiple of the cell.
    """
    if side % cell:
        raise ValueError(f"a grid of {side} tokens is not made of cells of {cell}")
    cells = (side // cell) ** 2
    seen = np.ones(cells, dtype=bool)
    seen[rng.permutation(cells)[: round(hidden * cells)]] = False
    return seen.reshape(side // cell, -1).repeat(cell, axis=0).repeat(cell, axis=1)


class Reconstruction(nn.Module):
    """A student, and one linear layer from its tokens back to 16 x 16 x 3 pixels."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: StudentSettings) -> None:
        super().__init__()
        self.student = Student(settings)
        self.hidden_token = nn.Parameter(torch.zeros(1, settings.width, 1, 1))
        self.head = nn.Conv2d(settings.width, PATCH * PATCH * 3, 1)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Guess and truth of every patch, both normalised (B, 768, H/16, W/16); ``visible`` is (B, 1, H/16, W/16)."""
        image = (pixels - self.mean) / self.deviation
        features = self.student(image, visible, self.hidden_token)
        return self.head(features.levels[-1]), F.pixel_unshuffle(image, PATCH)

    @torch.no_grad()
    def settle_norms(self, pixels: Tensor) -> None:
        """Set the stem's running statistics from one batch seen whole: while masked they stand still."""
        norms = [module for module in self.student.stem.modules() if isinstance(module, nn.BatchNorm2d)]
        momentum = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        training = self.training
        self.train()
        self.student.stem((pixels - self.mean) / self.deviation)
        self.train(training)
        for norm, kept in zip(norms, momentum, strict=True):
            norm.momentum = kept


def reconstruction_loss(guess: Tensor, truth: Tensor, visible: Tensor) -> Tensor:
    """Mean squared error over the hidden patches only; shapes as :meth:`Reconstruction.forward` gives them."""
    hidden = 1.0 - visible
    error = ((guess.float() - truth.float()) ** 2).mean(dim=1, keepdim=True)
    return (error * hidden).sum() / hidden.sum().clamp_min(1)
