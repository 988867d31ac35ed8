"""A teacher as the encoder under a decoder, to measure what its features tell about the classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.features import StudentFeatures
from trainer.models.normalisation import DEVIATION, MEAN
from trainer.models.teachers.teacher import Teacher


class TeacherEncoder(nn.Module):
    """Normalised images (B, 3, H, W) to a map of each of the teacher's levels, (B, D_t, H/patch, W/patch)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> StudentFeatures:
        """All tokens are seen."""
        rows, columns = (side // self.teacher.patch for side in image.shape[-2:])
        # A teacher takes pixels and normalises them by its backbone's own constants, which may not be ours.
        features = self.teacher(image * self.deviation + self.mean, None)
        levels = [level.transpose(1, 2).unflatten(2, (rows, columns)) for level in features.levels]
        return StudentFeatures(levels=levels)
