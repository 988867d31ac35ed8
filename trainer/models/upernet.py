"""UPerNet: pyramid pooling on the deepest level, a top-down path, one fusion and one classifier.

Source: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018. All levels of a ViT lie at stride
16; where the student has a convolutional stem, its features at strides 8 and 4 refine the fused map.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.features import StudentFeatures
from trainer.models.student import StudentSettings
from trainer.models.tokens import static_sizes

POOL_BINS = (1, 2, 3, 6)
"""Sides of the pooled maps. Source: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017."""


class DecoderSettings(BaseModel):
    """``width`` at stride 16; ``detail_widths`` at strides 8 and 4, or None: classify at stride 16.

    ``kind`` linear is the probe that studies compare encoders with (trainer/models/linear_probe.py); it has no widths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["upernet", "linear"] = "upernet"
    width: int = 128
    detail_widths: tuple[int, int] | None = (128, 64)
    dropout: float = Field(default=0.1, ge=0, lt=1)


PAPER_DECODER = DecoderSettings(width=256, detail_widths=None)
"""The decoder of the paper: width 256, four levels at stride 16, no detail."""


def conv_norm(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; same size out as in."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class PyramidPooling(nn.Module):
    """Context at four scales beside the map itself, fused by one 3x3 convolution."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        # Pooled first, projected after: the convolution then sees 1, 4, 9 or 36 places.
        self.scales = nn.ModuleList(conv_norm(inputs, width, 1) for _ in POOL_BINS)
        self.bottleneck = conv_norm(inputs + len(POOL_BINS) * width, width, 3)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, C, h, w) to (B, width, h, w)."""
        _, rows, columns = static_sizes(grid)
        context = [
            resized(scale(adaptive_mean(grid, bins)), (rows, columns))
            for bins, scale in zip(POOL_BINS, self.scales, strict=True)
        ]
        return self.bottleneck(torch.cat([grid, *context], dim=1))  # type: ignore[no-any-return]


class UPerNet(nn.Module):
    """Decoder from :class:`StudentFeatures` to logits (B, K, h, w) at stride 4 with detail, 16 without."""

    def __init__(self, settings: DecoderSettings, student: StudentSettings, classes: int) -> None:
        super().__init__()
        width, levels = settings.width, len(student.out_blocks)
        self.pooling = PyramidPooling(student.width, width)
        self.lateral = nn.ModuleList(conv_norm(student.width, width, 1) for _ in range(levels - 1))
        self.smooth = nn.ModuleList(conv_norm(width, width, 3) for _ in range(levels - 1))
        self.fusion = conv_norm(levels * width, width, 3)
        self.refine = nn.ModuleDict()
        last = width
        if settings.detail_widths is not None:
            if student.detail_channels is None:
                raise ValueError("detail_widths needs a convolutional stem: a linear one has no detail to give")
            for stride, inputs, outputs in zip((8, 4), student.detail_channels, settings.detail_widths, strict=True):
                self.refine[str(stride)] = Refine(last, inputs, outputs)
                last = outputs
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifier = nn.Conv2d(last, classes, 1)

    def forward(self, features: StudentFeatures) -> Tensor:
        """Logits of the classes 1..K in channels 0..K-1."""
        top = self.pooling(features.levels[-1])
        merged = [top]
        for grid, lateral, smooth in zip(
            reversed(features.levels[:-1]), reversed(self.lateral), reversed(self.smooth), strict=True
        ):
            top = lateral(grid) + top
            merged.append(smooth(top))
        fused = self.fusion(torch.cat(merged[::-1], dim=1))
        for stride, refine in self.refine.items():
            fused = refine(fused, features.detail[int(stride)])
        return self.classifier(self.dropout(fused))  # type: ignore[no-any-return]


class Refine(nn.Module):
    """Twice the resolution: coarse map and stem detail, each by 1x1 to one width, added, then 3x3."""

    def __init__(self, coarse: int, detail: int, width: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, width, 1, bias=False)  # before the resize: a quarter of the work after it
        self.detail = conv_norm(detail, width, 1)
        self.smooth = conv_norm(width, width, 3)

    def forward(self, grid: Tensor, detail: Tensor) -> Tensor:
        """(B, C, h, w) and (B, C', 2h, 2w) to (B, width, 2h, 2w)."""
        _, rows, columns = static_sizes(detail)
        return self.smooth(resized(self.coarse(grid), (rows, columns)) + self.detail(detail))  # type: ignore[no-any-return]


def resized(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize with pixel centres (``align_corners=False``)."""
    return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)


def adaptive_mean(grid: Tensor, bins: int) -> Tensor:
    """Mean over bins x bins cells, as ``adaptive_avg_pool2d``: (B, C, h, w) to (B, C, bins, bins).

    Two small matrix products, because ONNX has no adaptive pooling for sides that the bins do not divide.
    """
    _, rows, columns = static_sizes(grid)
    # Rows first, then columns. Both matrices are constants of the exported graph.
    return _cells(rows, bins).to(grid) @ grid @ _cells(columns, bins).to(grid).T


def _cells(side: int, bins: int) -> Tensor:
    """(bins, side) rows of averaging weights; cell i covers floor(i side / bins) to ceil((i + 1) side / bins)."""
    rows = []
    for index in range(bins):
        start, stop = index * side // bins, -(-(index + 1) * side // bins)
        rows.append([1.0 / (stop - start) if start <= place < stop else 0.0 for place in range(side)])
    return torch.tensor(rows)
