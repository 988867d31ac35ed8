"""Student and decoder as one network, and the form of it that flies: bytes in, bytes out."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from trainer.models.student import PAPER_STUDENT, Student, StudentSettings
from trainer.models.tokens import static_sizes
from trainer.models.upernet import PAPER_DECODER, DecoderSettings, UPerNet, resized

MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)
"""Per band, of pixels in 0..255. Source: Kirillov et al., "Segment Anything", 2023 (method.md takes SAM's)."""


class SegmenterSettings(BaseModel):
    """Shape of the whole network; ``classes`` counts K, without "no data"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student: StudentSettings = StudentSettings()
    decoder: DecoderSettings = DecoderSettings()
    classes: int = 5


PAPER_SEGMENTER = SegmenterSettings(student=PAPER_STUDENT, decoder=PAPER_DECODER, classes=7)
"""29.66 M parameters without positions; 119.60 G multiply-adds a 1024x1024 tile without attention products."""


class Segmenter(nn.Module):
    """Pixels (B, 3, H, W) of 0..255, any float dtype, to logits (B, K, H/stride, W/stride)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: SegmenterSettings) -> None:
        super().__init__()
        self.settings = settings
        self.student = Student(settings.student)
        self.decoder = UPerNet(settings.decoder, settings.student, settings.classes)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels of 0..255 to zero mean and unit deviation, by the constants above."""
        return (pixels - self.mean) / self.deviation

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits at the decoder's stride; the loss and the flight form resize them."""
        return self.decoder(self.student(self.normalised(pixels)))  # type: ignore[no-any-return]


class FlightSegmenter(nn.Module):
    """What is exported: uint8 tiles (N, 3, S, S) to ``classes`` and ``confidence``, both uint8 (N, S, S).

    Classes are codes 1..K; confidence is the largest class probability x 255.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise, segment, resize, choose: all inside the graph, so that one byte a pixel crosses the bus."""
        _, rows, columns = static_sizes(tiles)
        logits = resized(self.segmenter(tiles.float()), (rows, columns))
        best, index = logits.max(dim=1)
        confidence = 255.0 / (logits - best[:, None]).exp().sum(dim=1)
        return (index + 1).to(torch.uint8), confidence.round().to(torch.uint8)
