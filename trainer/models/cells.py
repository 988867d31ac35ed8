"""Class decisions for cells smaller than a logit: logits are kept as phases of the finer grid.

A grid of side x h rows and side x w columns is stored as side^2 channels of h x w ("phases"): channel i x side + j is
the cell in row i and column j of each logit. Sums and products of such planes are fast in every engine; a resize and
operations on the finer grid are not. ``pixel_shuffle(phases, side)`` gives the finer grid.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.tokens import static_sizes


def box_means(count: int, side: int, reach: int) -> Tensor:
    """Smoothing weights (count, count) along one axis: row i averages the logits around logit i.

    They are the mean, over the ``side`` cells of a logit, of a box filter of ``reach`` cells that is cut at the edges;
    each cell has the value of its logit.
    """
    # Cell by cell and in 64 bits: the matrix is made once, at export, and is a constant of the graph.
    places = np.arange(count * side)
    # Cells beyond the edge are left out of the mean rather than counted as another class.
    near = (np.abs(places[:, None] - places) <= reach // 2).astype(np.float64)
    means = near / near.sum(axis=1, keepdims=True)
    return torch.from_numpy(means.reshape(count, side, count, side).sum(axis=3).mean(axis=1).astype(np.float32))


def in_phases(grid: Tensor, side: int, *, any_size: bool = False) -> Tensor:
    """(B, C, h, w) resized to ``side`` times its sides, bilinearly between centres, as phases (B, C x side^2, h, w).

    One small convolution: a cell's value depends on three logits a side at most. ``any_size``: the exported graph has
    no size of this grid in it.
    """
    if side == 1:
        return grid
    channels, *_ = static_sizes(grid)
    # A resize in phases has the same weights at every logit, which is what a convolution is.
    kernel = _phase_kernel(channels, side).to(grid)
    twice = _with_edges_sliced if any_size else _with_edges_twice
    return F.conv2d(twice(twice(grid, 2), 3), kernel)


def _with_edges_twice(grid: Tensor, axis: int) -> Tensor:
    """Replicates both edges of an axis by one. Torch's own padding is exported with sizes computed at run time."""
    count = static_sizes(grid)[axis - 1]
    parts = torch.split(grid, [1] * count if count < 3 else [1, count - 2, 1], dim=axis)
    return torch.cat([parts[0], *parts, parts[-1]], dim=axis)


def _with_edges_sliced(grid: Tensor, axis: int) -> Tensor:
    """The same by slices, which no size stands in; splits stay where a graph is for one size anyway."""
    first, last = (grid[:, :, :1], grid[:, :, -1:]) if axis == 2 else (grid[..., :1], grid[..., -1:])
    return torch.cat([first, grid, last], dim=axis)


def _phase_kernel(channels: int, side: int) -> Tensor:
    """Interpolation weights (C x side^2, C, 3, 3) that do not mix channels."""
    # Centres of the cells, from the centre of their logit, in logits.
    offsets = (np.arange(side) + 0.5) / side - 0.5
    line = np.stack([np.maximum(-offsets, 0), 1 - np.abs(offsets), np.maximum(offsets, 0)], axis=1)
    plane = np.einsum("ip,jq->ijpq", line, line).reshape(side**2, 3, 3)
    kernel = np.einsum("kc,apq->kacpq", np.eye(channels), plane)
    return torch.from_numpy(kernel.reshape(channels * side**2, channels, 3, 3).astype(np.float32))


def phases_in_pixels(phases: Tensor, side: int, cell: int, *, any_size: bool = False) -> Tensor:
    """(B, side^2, h, w), whole numbers 0..255 for each cell, to pixels uint8 (B, h x side x cell, w x side x cell).

    The cast to uint8 comes last: TensorRT supports it only for inputs and outputs.

    Args:
        phases: of one map.
        side: number of cells along a logit.
        cell: number of pixels along a cell.
        any_size: the exported graph has no size of this grid in it. For networks of convolutions alone: of others the
            exporter does not know that there is one channel, and would write a branch for the case of several.
    """
    if cell > 1:
        # Each cell's plane is repeated for all of its pixels, so that one shuffle makes cells and pixels at once.
        planes = torch.split(phases, 1, dim=1)
        places = range(side * cell)
        phases = torch.cat([planes[i // cell * side + j // cell] for i in places for j in places], dim=1)
    pixels = F.pixel_shuffle(phases, side * cell) if side * cell > 1 else phases
    if any_size:
        return pixels.squeeze(1).to(torch.uint8)
    _, rows, columns = static_sizes(pixels)
    return pixels.reshape(-1, rows, columns).to(torch.uint8)
