"""Alignment loss between student and teacher features, and the share of the teacher's variance it explains.

Source: Mask-CDKD (Shu et al. 2026): mean squared error at each pair of depths, mean over the pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses


def alignment_loss(projected: Sequence[Tensor], followed: Sequence[Tensor]) -> Tensor:
    """Mean over pairs of the mean squared error of (B, N_v, D_t) features; gradients flow to both sides."""
    pairs = zip(projected, followed, strict=True)
    # In 32 bits under autocast too: differences of near features are what bfloat16 loses first.
    return torch.stack([F.mse_loss(student.float(), teacher.float()) for student, teacher in pairs]).mean()


@torch.no_grad()
def explained_variance(projected: Sequence[Tensor], followed: Sequence[Tensor]) -> Tensor:
    """R2 = 1 - MSE / Var(T), mean over pairs: 1 for a perfect prediction, 0 for the channels' means.

    Var is about each channel's own mean, over the images of all processes: so the mean of their R2 is the R2 of one
    process with the whole batch. The loss alone would also fall if the teacher's features collapsed.
    """
    shares = []
    for student, teacher in zip(projected, followed, strict=True):
        truth = teacher.float()
        variance = _over_processes((truth - _over_processes(truth.mean(dim=(0, 1)))).square().mean())
        shares.append(1.0 - F.mse_loss(student.float(), truth) / variance.clamp_min(1e-12))
    return torch.stack(shares).mean()


def _over_processes(mean: Tensor) -> Tensor:
    """Mean over all processes, which have equal numbers of images."""
    if not (dist.is_available() and dist.is_initialized()):
        return mean
    # Fabric is not known here, and torch's own reduction is the same.
    dist.all_reduce(mean)
    return mean / dist.get_world_size()
