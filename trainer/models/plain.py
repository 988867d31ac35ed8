"""A plain convolutional encoder of dense 3x3 convolutions, the fastest kind on GPUs, matrix units and INT8.

No depthwise convolution, no attention, no squeeze-and-excitation: these move many bytes for few operations and run far
below a processor's peak (docs/decisions/0009). Residual blocks of two convolutions at strides 4 to 32.
Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, without its pooled stem.
"""

from __future__ import annotations

from collections.abc import Mapping
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


class NeckSettings(BaseModel):
    """The upper half of a feature pyramid as the encoder's last part, which all heads share.

    Capacity here costs once, however many heads fly, and the file of a head, which goes up the link, stays small.

    Attributes:
        widths: channels at the strides 32 and 16.
        blocks: residual blocks at these strides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: tuple[int, int] = (128, 96)
    blocks: tuple[int, int] = (4, 2)

    @model_validator(mode="after")
    def _positive(self) -> NeckSettings:
        if min(self.widths) < 1 or min(self.blocks) < 0:
            raise ValueError(f"widths {self.widths} must be at least 1 and blocks {self.blocks} at least 0")
        return self


class LiteSettings(BaseModel):
    """EfficientNet-Lite as the encoder, from ImageNet's weights where they are loaded.

    Attributes:
        stem: its size.
        fused: the first two blocks, which alone work at half the image's resolution, as dense convolutions: a third
            fewer bytes moved.
        neck: what joins its maps at the strides 32 and 16 to one at 16; None: heads read them themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lite"]
    stem: LiteName = "lite0"
    fused: bool = False
    neck: NeckSettings | None = None

    @property
    def grain(self) -> int:
        """Pixels that an image's sides must be multiples of."""
        return STRIDES[-1]

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the map at each stride that heads read."""
        channels = lite_channels(self.stem)
        if self.neck is None:
            return channels
        return {**{stride: channels[stride] for stride in STRIDES[:2]}, STRIDES[2]: self.neck.widths[1]}


class LiteEncoder(nn.Module):
    """Normalised images (B, 3, H, W), sides multiples of 32, to EfficientNet-Lite's maps at strides 4 to 32.

    With a neck to that of the neck at stride 16 and EfficientNet-Lite's at 8 and 4.
    """

    def __init__(self, settings: LiteSettings) -> None:
        super().__init__()
        self.settings = settings
        self.stem = LiteTrunk(settings.stem, MEAN, DEVIATION, fused=settings.fused)
        self.neck = None if settings.neck is None else _Neck(settings.neck, lite_channels(settings.stem))

    def forward(self, image: Tensor) -> StudentFeatures:
        """The deepest map, or the neck's, as the only level, the others as detail by stride."""
        maps = dict(self.stem(image))
        deepest = maps.pop(STRIDES[-1])
        if self.neck is not None:
            deepest = self.neck(deepest, maps.pop(STRIDES[-2]))
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
    residual blocks at each of these strides. A head that learns on a frozen encoder has its depth here. On an encoder
    with a neck a decoder begins at stride 16, with the neck's widths and no blocks at stride 32.
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
        widths, blocks = settings.widths, settings.blocks
        joined = isinstance(encoder, LiteSettings) and encoder.neck is not None
        self.top = (
            nn.Sequential(*(Residual(widths[1]) for _ in range(blocks[1])))
            if joined
            else _top(encoder.channels[STRIDES[-1]], widths[0], blocks[0])
        )
        self.steps = nn.ModuleDict()
        last = widths[1] if joined else widths[0]
        for stride, width, count in zip(reversed(STRIDES), widths, blocks, strict=True):
            # A neck has made the first step, from 32 to 16.
            if not settings.stride <= stride < (STRIDES[-2] if joined else STRIDES[-1]):
                continue
            self.steps[str(stride)] = _Step(last, encoder.channels[stride], width, count)
            last = width
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifier = nn.Conv2d(last, classes, 1)

    def forward(self, features: StudentFeatures) -> Tensor:
        """Logits (B, K, H/stride, W/stride) of the classes 1..K in channels 0..K-1."""
        grid = self.top(features.levels[-1])
        for stride, step in self.steps.items():
            grid = step(grid, features.detail[int(stride)])
        return self.classifier(self.dropout(grid))  # type: ignore[no-any-return]


class _Neck(nn.Module):
    """The maps at strides 32 and 16, (B, C, h, w) and (B, C', 2h, 2w), to one (B, width, 2h, 2w)."""

    def __init__(self, settings: NeckSettings, channels: Mapping[int, int]) -> None:
        super().__init__()
        (deep, wide), (first, second) = settings.widths, settings.blocks
        self.top = _top(channels[STRIDES[-1]], deep, first)
        self.step = _Step(deep, channels[STRIDES[-2]], wide, second)

    def forward(self, deepest: Tensor, lateral: Tensor) -> Tensor:
        return self.step(self.top(deepest), lateral)  # type: ignore[no-any-return]


def _top(inputs: int, width: int, blocks: int) -> nn.Sequential:
    """Where a pyramid begins: the deepest map at the pyramid's width."""
    layers = [nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, *(Residual(width) for _ in range(blocks)))


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
