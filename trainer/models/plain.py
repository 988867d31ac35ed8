"""A plain convolutional encoder of dense 3x3 convolutions, the fastest kind on GPUs, matrix units and INT8.

No depthwise convolution, no attention, no squeeze-and-excitation: these move many bytes for few operations and run far
below a processor's peak (docs/decisions/0009). Residual blocks of two convolutions at strides 4 to 32.
Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, without its pooled stem.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.features import StudentFeatures
from trainer.models.lite_stem import LiteName, LiteTrunk, lite_channels
from trainer.models.normalisation import DEVIATION, MEAN

STRIDES = (4, 8, 16, 32)
"""At which the encoder gives a map each."""


class PlainSettings(BaseModel):
    """Shape of the plain encoder.

    Attributes:
        widths: channels at the strides 2, 4, 8, 16 and 32.
        blocks: residual blocks at the strides 4, 8, 16 and 32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["plain"]
    widths: tuple[int, int, int, int, int] = (24, 48, 80, 144, 256)
    blocks: tuple[int, int, int, int] = Field(default=(1, 2, 3, 2))

    @model_validator(mode="after")
    def _positive(self) -> PlainSettings:
        if min(self.widths) < 1 or min(self.blocks) < 0:
            raise ValueError(f"widths {self.widths} must be at least 1 and blocks {self.blocks} at least 0")
        return self

    @property
    def grain(self) -> int:
        """Pixels that an image's sides must be multiples of."""
        return STRIDES[-1]

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the map at each stride."""
        return dict(zip(STRIDES, self.widths[1:], strict=True))


class LiteSettings(BaseModel):
    """EfficientNet-Lite as the whole encoder, from ImageNet's weights where they are loaded.

    Attributes:
        stem: its size.
        fused: the first two blocks, which alone work at half the image's resolution, as dense convolutions: a third
            fewer bytes moved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lite"]
    stem: LiteName = "lite0"
    fused: bool = False

    @property
    def grain(self) -> int:
        """Pixels that an image's sides must be multiples of."""
        return STRIDES[-1]

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the map at each stride."""
        return lite_channels(self.stem)


class LiteEncoder(nn.Module):
    """Normalised images (B, 3, H, W), sides multiples of 32, to EfficientNet-Lite's maps at strides 4 to 32."""

    def __init__(self, settings: LiteSettings) -> None:
        super().__init__()
        self.settings = settings
        self.stem = LiteTrunk(settings.stem, MEAN, DEVIATION, fused=settings.fused)

    def forward(self, image: Tensor) -> StudentFeatures:
        """The deepest map as the only level, the others as detail by stride."""
        maps = dict(self.stem(image))
        deepest = maps.pop(STRIDES[-1])
        return StudentFeatures(levels=[deepest], detail=maps)


class PlainEncoder(nn.Module):
    """Normalised images (B, 3, H, W), sides multiples of 32, to maps at strides 4, 8, 16 and 32."""

    def __init__(self, settings: PlainSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = settings.widths
        self.stem = _conv_norm_relu(3, widths[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(_conv_norm_relu(before, width, stride=2), *(Residual(width) for _ in range(blocks)))
            # `strict=False`: there is one width more than there are steps between widths.
            for before, width, blocks in zip(widths, widths[1:], settings.blocks, strict=False)
        )

    def forward(self, image: Tensor) -> StudentFeatures:
        """The deepest map as the only level, the others as detail by stride."""
        grid, maps = self.stem(image), {}
        for stride, stage in zip(STRIDES, self.stages, strict=True):
            grid = stage(grid)
            maps[stride] = grid
        deepest = maps.pop(STRIDES[-1])
        return StudentFeatures(levels=[deepest], detail=maps)


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input is carried; the second norm starts at zero.

    Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017 (the zero start).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv_norm_relu(width, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        # Each block starts as the identity, so that depth costs nothing at first.
        nn.init.zeros_(self.norm.weight)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return F.relu(grid + self.norm(self.second(self.first(grid))))


def _conv_norm_relu(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class FpnSettings(BaseModel):
    """A top-down decoder: channels at the strides 32, 16, 8 and 4.

    ``stride`` at which it stops: 4, or 8 for labels that are coarse anyway, at a third of the cost. ``blocks``:
    residual blocks at each of these strides. A head that learns on a frozen encoder has its depth here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fpn"]
    widths: tuple[int, int, int, int] = (128, 96, 64, 48)
    stride: Literal[4, 8] = 4
    blocks: tuple[int, int, int, int] = (0, 0, 0, 0)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _counts(self) -> FpnSettings:
        if min(self.blocks) < 0:
            raise ValueError(f"blocks {self.blocks} must be at least 0")
        if self.stride > STRIDES[0] and self.blocks[-1]:
            raise ValueError(f"blocks {self.blocks}: a decoder that stops at stride {self.stride} has none at stride 4")
        return self


class Fpn(nn.Module):
    """Feature pyramid: from the deepest map down, each step by 1x1, doubled, the encoder's map added, then 3x3.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017; widths fall with the stride.
    """

    def __init__(self, settings: FpnSettings, encoder: PlainSettings | LiteSettings, classes: int) -> None:
        super().__init__()
        self.top = nn.Sequential(
            nn.Conv2d(encoder.channels[STRIDES[-1]], settings.widths[0], 1, bias=False),
            nn.BatchNorm2d(settings.widths[0]),
            nn.ReLU(),
            *(Residual(settings.widths[0]) for _ in range(settings.blocks[0])),
        )
        strides = [stride for stride in reversed(STRIDES[:-1]) if stride >= settings.stride]
        self.steps = nn.ModuleDict()
        last = settings.widths[0]
        for stride, width, blocks in zip(strides, settings.widths[1:], settings.blocks[1:], strict=False):
            self.steps[str(stride)] = _Step(last, encoder.channels[stride], width, blocks)
            last = width
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifier = nn.Conv2d(last, classes, 1)

    def forward(self, features: StudentFeatures) -> Tensor:
        """Logits (B, K, H/stride, W/stride) of the classes 1..K in channels 0..K-1."""
        grid = self.top(features.levels[-1])
        for stride, step in self.steps.items():
            grid = step(grid, features.detail[int(stride)])
        return self.classifier(self.dropout(grid))  # type: ignore[no-any-return]


class _Step(nn.Module):
    """(B, C, h, w) and the encoder's (B, C', 2h, 2w) to (B, width, 2h, 2w)."""

    def __init__(self, coarse: int, lateral: int, width: int, blocks: int = 0) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, width, 1, bias=False)  # before the resize: a quarter of the work after it
        self.lateral = nn.Conv2d(lateral, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.smooth = _conv_norm_relu(width, width)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(blocks)))

    def forward(self, grid: Tensor, lateral: Tensor) -> Tensor:
        # A constant factor and no size: the exporter then asks for no shape at run time.
        doubled = F.interpolate(self.coarse(grid), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.blocks(self.smooth(F.relu(self.norm(doubled + self.lateral(lateral)))))  # type: ignore[no-any-return]
