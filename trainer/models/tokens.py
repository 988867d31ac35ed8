"""Tokens of a grid in window-major order: one permutation on entry, one on exit; a window is a reshape."""

from __future__ import annotations

from torch import Tensor

PATCH = 16
"""Pixels a side that one token covers, unless the settings say otherwise (method.md: ViT-S/16)."""


def static_sizes(tensor: Tensor) -> tuple[int, ...]:
    """All sizes but the first, as plain integers: the tracer then keeps only the batch open, and folds the rest."""
    return tuple(int(size) for size in tensor.shape[1:])


def tokens_from_grid(grid: Tensor, window: int | None) -> Tensor:
    """(B, D, h, w) to (B, h*w, D), window after window; row-major where ``window`` is None.

    Raises:
        ValueError: h or w is not a multiple of the window.
    """
    width, rows, columns = static_sizes(grid)
    if window is None:
        return grid.flatten(2).transpose(1, 2)
    if rows % window or columns % window:
        raise ValueError(f"a grid of {rows}x{columns} tokens is not made of {window}x{window} windows")
    windows = grid.reshape(-1, width, rows // window, window, columns // window, window)
    return windows.permute(0, 2, 4, 3, 5, 1).reshape(-1, rows * columns, width)


def grid_from_tokens(tokens: Tensor, window: int | None, rows: int, columns: int) -> Tensor:
    """The inverse of :func:`tokens_from_grid`."""
    _, width = static_sizes(tokens)
    if window is None:
        return tokens.transpose(1, 2).reshape(-1, width, rows, columns)
    windows = tokens.reshape(-1, rows // window, columns // window, window, window, width)
    return windows.permute(0, 5, 1, 3, 2, 4).reshape(-1, width, rows, columns)


def pool_tokens(tokens: Tensor, window: int, pool: int) -> Tensor:
    """Mean of pool x pool neighbours inside each window: (B, N, D) to (B, N / pool^2, D)."""
    count, width = static_sizes(tokens)
    side = window // pool
    # One axis of a 4-D view after the other: OpenVINO runs a mean over two axes of a 6-D one by its reference kernel,
    # 40 ms for 4096 tokens of 192 on one thread, and these two in 0.6 ms.
    rows = count // (window * pool)
    flat = tokens.reshape(-1, rows, pool, window * width).mean(dim=2)
    return flat.reshape(-1, rows * side, pool, width).mean(dim=2).reshape(-1, rows * side, width)
