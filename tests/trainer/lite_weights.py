"""Weights in the published form of EfficientNet-Lite, drawn by chance."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.models.lite_stem import LiteName, lite_stages

Weights = dict[str, Tensor]


def published(name: LiteName) -> Weights:
    """Random weights under the keys of efficientnet_lite_pytorch, head included, as its own model writes them."""
    chance = torch.Generator().manual_seed(0)
    found: Weights = {}

    def conv(key: str, outputs: int, inputs: int, kernel: int) -> None:
        fan = inputs * kernel**2
        found[f"{key}.weight"] = torch.randn((outputs, inputs, kernel, kernel), generator=chance) * (2 / fan) ** 0.5

    def norm(key: str, width: int) -> None:
        found[f"{key}.weight"] = 0.5 + torch.rand(width, generator=chance)
        found[f"{key}.bias"] = torch.randn(width, generator=chance) * 0.1
        found[f"{key}.running_mean"] = torch.randn(width, generator=chance) * 0.1
        found[f"{key}.running_var"] = 0.5 + torch.rand(width, generator=chance)
        found[f"{key}.num_batches_tracked"] = torch.tensor(1)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    inputs, number = 32, 0
    for stage in lite_stages(name):
        for _ in range(stage.repeats):
            block, hidden = f"_blocks.{number}", inputs * stage.expand
            if stage.expand > 1:
                conv(f"{block}._expand_conv", hidden, inputs, 1)
                norm(f"{block}._bn0", hidden)
            conv(f"{block}._depthwise_conv", hidden, 1, stage.kernel)
            norm(f"{block}._bn1", hidden)
            conv(f"{block}._project_conv", stage.channels, hidden, 1)
            norm(f"{block}._bn2", stage.channels)
            inputs, number = stage.channels, number + 1
    conv("_conv_head", 1280, inputs, 1)
    norm("_bn1", 1280)
    found["_fc.weight"], found["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return found
