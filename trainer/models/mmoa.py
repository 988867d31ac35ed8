"""Mixture of multi-scale adapters (MMoA): adapts a frozen block's features to the target domain.

Beside the frozen perceptron of a block, F_0 = MLP(X_n), run adapters on the grid of tokens: F_1 fine (dilations 1, 3,
5) and F_2 coarse (7, 9, 11). A gate weighs the Z streams for each token. Source: Shu et al., "Mask-CDKD", ISPRS J.
Photogramm. Remote Sens. 236 (2026); where its listing differs from its equations, the equations.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.models.masked_conv import MaskedConv, active_mean
from trainer.models.spectrum import FourierFusion

PAPER_GRID = 32
"""Side of the compact grid the paper's dilations are for: tiles of 1024 pixels, patches of 16, 75 % hidden."""


class MMoASettings(BaseModel):
    """Shape of the adapters of one block.

    Attributes:
        adapters: ``multi``: one fine, one coarse. ``single``: the single-scale ablation, one adapter with one
            convolution, of the first fine dilation, and no pooling branch. ``none``: the frozen block as it is.
        fine: dilations of the fine adapter; ``coarse`` those of the coarse one.
        grid: side in tokens of the compact grid that the dilations are scaled to, from the paper's 32 (at least 1,
            rounded to the nearest); None takes them as written. On a small grid dilations of 7 to 11 see only padding.
        fusion: ``gate`` weighs the streams; ``additive`` is the ablation, their plain sum; ``fourier`` the rival after
            4Ds, the frozen stream's phase with a mixture of amplitudes (trainer/models/spectrum.py).
        gate_init: ``random``: the weights start near 1/Z each, which scales the frozen stream by about a third.
            ``sam``: they start at (1, 0, ...) exactly and a learned share of the gate, from 0, is let in.
        pin_gate: hold the weights at (1, 0, ...): the block is the frozen one.
        bottleneck: the adapters work in 1/bottleneck of the width.
        squeeze: reduction of the squeeze-and-excitation: the paper's text says 4, its authors' code 16.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapters: Literal["multi", "single", "none"] = "multi"
    fine: tuple[int, ...] = Field(default=(1, 3, 5), min_length=1)
    coarse: tuple[int, ...] = Field(default=(7, 9, 11), min_length=1)
    grid: int | None = Field(default=None, ge=1)
    fusion: Literal["gate", "additive", "fourier"] = "gate"
    gate_init: Literal["random", "sam"] = "random"
    pin_gate: bool = False
    bottleneck: int = Field(default=4, ge=1)
    squeeze: int = Field(default=16, ge=1)

    def scaled(self, dilations: tuple[int, ...]) -> tuple[int, ...]:
        """``dilations`` on the grid told."""
        if self.grid is None:
            return dilations
        # Half up: Python's round would take 2.5 to 2 and 3.5 to 4.
        return tuple(max(1, math.floor(dilation * self.grid / PAPER_GRID + 0.5)) for dilation in dilations)


class SqueezeExcitation(nn.Module):
    """Channels weighed by the mean of the grid. Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, width // reduction)
        self.squeeze = nn.Linear(width, hidden)
        self.excite = nn.Linear(hidden, width)

    def forward(self, grid: Tensor, active: Tensor | None = None) -> Tensor:
        """(B, C, h, w) to the same shape; the mean is over active positions."""
        mean = active_mean(grid, active).flatten(1)
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))
        return grid * weight[:, :, None, None]


class Pyramid(nn.Module):
    """Dilated depthwise-separable 3x3 convolutions and the grid's mean, side by side, fused by 1x1 (ASPP).

    Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017. GELU after each
    convolution, none with a bias.
    """

    def __init__(self, width: int, dilations: tuple[int, ...], *, pool: bool) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(MaskedConv(width, width, 3, dilation=d, groups=width) for d in dilations)
        self.pointwise = nn.ModuleList(MaskedConv(width, width, 1) for _ in dilations)
        self.pool = MaskedConv(width, width, 1) if pool else None
        self.fuse = MaskedConv((len(dilations) + pool) * width, width, 1)

    def forward(self, grid: Tensor, active: Tensor | None = None) -> Tensor:
        """(B, C, h, w) to the same shape."""
        branches = [
            pointwise(depthwise(grid, active), active)
            for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True)
        ]
        if self.pool is not None:
            branches.append(self.pool(active_mean(grid, active)).expand_as(grid))
        return self.fuse(torch.cat(branches, dim=1), active)  # type: ignore[no-any-return]


class Adapter(nn.Module):
    """Down to a narrow width, over the grid at several scales, and back up."""

    def __init__(self, width: int, dilations: tuple[int, ...], settings: MMoASettings) -> None:
        super().__init__()
        narrow = max(1, width // settings.bottleneck)
        self.down = nn.Linear(width, narrow)
        self.pyramid = Pyramid(narrow, dilations, pool=settings.adapters == "multi")
        self.excitation = SqueezeExcitation(narrow, settings.squeeze)
        self.smooth = MaskedConv(narrow, narrow, 3, groups=narrow)
        self.up = nn.Linear(narrow, width)

    def forward(self, tokens: Tensor, active: Tensor | None = None) -> Tensor:
        """(B, h, w, D) to the same shape; values at inactive positions are undefined.

        ``active`` is (B, 1, h, w), 1 active and 0 not, or None: all are.
        """
        grid = F.gelu(self.down(tokens)).permute(0, 3, 1, 2)
        # `down` has a bias, so hidden positions are not zero after it.
        if active is not None:
            grid = grid * active
        grid = self.excitation(self.pyramid(grid, active), active)
        return self.up(self.smooth(grid, active).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class Gate(nn.Module):
    """Weights of the Z streams, for each token: q, k, v in R^Z; A = softmax(q k^T / sqrt(Z)); w = softmax(A v)."""

    def __init__(self, width: int, streams: int, init: Literal["random", "sam"]) -> None:
        super().__init__()
        self.streams = streams
        self.q = nn.Linear(width, streams, bias=False)
        self.k = nn.Linear(width, streams, bias=False)
        self.v = nn.Linear(width, streams, bias=False)
        # A softmax never reaches (1, 0, 0). Blended with a share of 0 the block starts as SAM's own, exactly.
        self.share = nn.Parameter(torch.zeros(())) if init == "sam" else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) to (..., Z); the weights of a token sum to 1."""
        q, k, v = self.q(tokens), self.k(tokens), self.v(tokens)
        # Z x Z for each token: streams attend to streams, tokens do not mix.
        attention = (q[..., :, None] * k[..., None, :] / math.sqrt(self.streams)).softmax(dim=-1)
        weight = (attention @ v[..., None]).squeeze(-1).softmax(dim=-1)
        if self.share is None:
            return weight  # type: ignore[no-any-return]
        frozen = _frozen_alone(self.streams, weight)
        return frozen + self.share * (weight - frozen)  # type: ignore[no-any-return]


class MMoA(nn.Module):
    """The adapters and the gate of one block."""

    def __init__(self, width: int, settings: MMoASettings) -> None:
        super().__init__()
        self.settings = settings
        scales: tuple[tuple[int, ...], ...] = ()
        if settings.adapters == "multi":
            scales = (settings.scaled(settings.fine), settings.scaled(settings.coarse))
        elif settings.adapters == "single":
            scales = (settings.scaled(settings.fine[:1]),)
        self.adapters = nn.ModuleList(Adapter(width, dilations, settings) for dilations in scales)
        # Without a gate there must be no gate's weights either: they would get no gradient.
        fusion = None if settings.pin_gate or not scales else settings.fusion
        self.gate = Gate(width, 1 + len(scales), settings.gate_init) if fusion == "gate" else None
        self.spectral = FourierFusion(1 + len(scales)) if fusion == "fourier" else None

    def forward(self, tokens: Tensor, frozen: Tensor, active: Tensor | None = None) -> Tensor:
        """The block's contribution to its residual path: the sum over j of w_j F_j, or the fusion of 4Ds.

        Args:
            tokens: X_n, (B, h, w, D): the normalised input of the frozen perceptron.
            frozen: F_0, (B, h, w, D): the frozen perceptron's output.
            active: (B, 1, h, w), 1 active and 0 not; None: all are, as on the compact grid.
        """
        streams = [frozen, *(adapter(tokens, active) for adapter in self.adapters)]
        if self.spectral is not None:
            return self.spectral(streams)  # type: ignore[no-any-return]
        weight = self.weights(tokens)
        return torch.stack([weight[..., j, None] * stream for j, stream in enumerate(streams)]).sum(dim=0)

    def weights(self, tokens: Tensor) -> Tensor:
        """Weights w_j of each token, (..., D) to (..., Z): the gate's; ones where additive; or pinned."""
        if self.gate is not None:
            return self.gate(tokens)  # type: ignore[no-any-return]
        streams = 1 + len(self.adapters)
        like = tokens[..., :1]
        if self.settings.pin_gate:
            return _frozen_alone(streams, like).expand(*tokens.shape[:-1], streams)
        return like.new_ones(streams).expand(*tokens.shape[:-1], streams)


def _frozen_alone(streams: int, like: Tensor) -> Tensor:
    """(1, 0, ...) of ``streams`` entries, with the type and device of ``like``."""
    return F.one_hot(torch.zeros((), dtype=torch.long, device=like.device), streams).to(like.dtype)
