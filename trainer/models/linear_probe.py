"""The simplest decoder, one linear layer: its accuracy measures what the encoder's features contain.

A convolutional decoder learns much of the task itself, so that encoders can hardly be compared (docs/study.md).

Source of the shape, batch norm without parameters before one linear layer: He et al., "Masked Autoencoders Are Scalable
Vision Learners", CVPR 2022, appendix A.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.features import StudentFeatures
from trainer.models.student import StudentSettings


class LinearProbe(nn.Module):
    """One linear layer over all levels of a token side by side: :class:`StudentFeatures` to logits (B, K, h, w)."""

    def __init__(self, student: StudentSettings, classes: int) -> None:
        super().__init__()
        inputs = student.width * len(student.out_blocks)
        # Without parameters the probe stays linear: the norm could be folded into the layer behind it.
        self.norm = nn.BatchNorm2d(inputs, affine=False)
        self.classifier = nn.Conv2d(inputs, classes, 1)

    def forward(self, features: StudentFeatures) -> Tensor:
        """Logits of the classes 1..K in channels 0..K-1, at the stride of the tokens."""
        return self.classifier(self.norm(torch.cat(features.levels, dim=1)))  # type: ignore[no-any-return]
