"""Draws one augmented crop with its labels."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from trainer.config import DataSettings
from trainer.data.augment import augmented, resized_crop
from trainer.data.labelled import CropSampler, MixedSampler


def draw_crop(
    sampler: CropSampler | MixedSampler, data: DataSettings, side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Pixels float (3, side, side) of 0..255 and labels uint8 (side, side), 0 = ignore."""
    return augmented(*resized_crop(sampler.draw(side, data.augment.scale, rng), side), data.augment, rng)
