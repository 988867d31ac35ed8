"""Student and decoder as one network."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from trainer.models.linear_probe import LinearProbe
from trainer.models.pixels import DEVIATION, MEAN
from trainer.models.student import PAPER_STUDENT, Student, StudentSettings
from trainer.models.upernet import PAPER_DECODER, DecoderSettings, UPerNet


class SegmenterSettings(BaseModel):
    """Shape of the whole network; ``classes`` counts K, without "no data"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: StudentSettings = StudentSettings()
    decoder: DecoderSettings = DecoderSettings()
    classes: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _detail_is_there(self) -> SegmenterSettings:
        decoder = self.decoder
        if decoder.kind == "upernet" and decoder.detail_widths is not None and self.student.detail_channels is None:
            raise ValueError(
                "decoder.detail_widths needs a convolutional stem, a linear one has no detail: set it to null"
            )
        return self


PAPER_SEGMENTER = SegmenterSettings(student=PAPER_STUDENT, decoder=PAPER_DECODER, classes=7)
"""29.66 M parameters without positions; 119.60 G multiply-adds a 1024x1024 tile without attention products."""


class Segmenter(nn.Module):
    """Pixels (B, 3, H, W) of 0..255, any float dtype, to logits (B, K, H/stride, W/stride)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: SegmenterSettings, encoder: nn.Module | None = None) -> None:
        """``encoder`` takes the student's place: normalised images in, features of the student's shape out."""
        super().__init__()
        self.settings = settings
        self.student = encoder or Student(settings.student)
        self.student_frozen = False
        self.decoder: UPerNet | LinearProbe = (
            LinearProbe(settings.student, settings.classes)
            if settings.decoder.kind == "linear"
            else UPerNet(settings.decoder, settings.student, settings.classes)
        )
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    def freeze_student(self) -> None:
        """From now on the student learns nothing and infers, whatever mode the rest is in."""
        self.student.requires_grad_(False).eval()
        self.student_frozen = True

    def train(self, mode: bool = True) -> Segmenter:
        """As torch has it, but a frozen student stays in eval mode."""
        super().train(mode)
        if self.student_frozen:
            self.student.eval()
        return self

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels of 0..255 to zero mean and unit deviation, by the constants above."""
        return (pixels - self.mean) / self.deviation

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits at the decoder's stride; the loss and the form that flies resize them."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.student_frozen):
            features = self.student(self.normalised(pixels))
        return self.decoder(features)  # type: ignore[no-any-return]
