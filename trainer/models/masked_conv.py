"""Convolutions that know which positions are visible: hidden ones are set to zero after every layer.

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling" (SparK), ICLR
2023. There is no batch norm here, so nothing of a mask can reach visible positions by way of batch statistics; the
student's stem, which has batch norms, holds them still while masked (trainer/models/stem.py).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses


class MaskedConv(nn.Conv2d):
    """Convolution without bias, of the same size out as in, then GELU; inactive positions are zero on the way out."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 * dilation
        super().__init__(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)

    def forward(self, grid: Tensor, active: Tensor | None = None) -> Tensor:
        """(B, C, h, w) to (B, C', h, w).

        ``active`` is (B, 1, h, w), 1 active and 0 not, or None: all are. Inactive positions of ``grid`` must be zero
        already, as every layer here leaves them.
        """
        grid = F.gelu(super().forward(grid))
        return grid if active is None else grid * active


def active_mean(grid: Tensor, active: Tensor | None = None) -> Tensor:
    """Mean over the active positions, (B, C, h, w) to (B, C, 1, 1); zero where none is active."""
    if active is None:
        return grid.mean(dim=(2, 3), keepdim=True)
    # A plain mean would count the zeros of hidden positions, and so tell every position how many are hidden.
    total = (grid * active).sum(dim=(2, 3), keepdim=True)
    return total / active.sum(dim=(2, 3), keepdim=True).clamp_min(1.0)
