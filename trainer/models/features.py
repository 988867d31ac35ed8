"""The features that an encoder passes to a decoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class StudentFeatures:
    """The features that a decoder reads.

    Attributes:
        levels: one map per block of ``out_blocks``, each (B, width, H/patch, W/patch); of the visible tokens alone,
            on their compact grid, where the image was masked.
        detail: maps of the convolutional stem by stride, (B, C, H/stride, W/stride); empty with a linear stem.
    """

    levels: list[Tensor]
    detail: dict[int, Tensor] = field(default_factory=dict)
