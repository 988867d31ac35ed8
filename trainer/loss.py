"""The supervised loss: weighted cross-entropy and dice, both blind to unlabelled pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- the name the whole field uses

from trainer.data.labelled import IGNORE
from trainer.models.upernet import resized


def class_weights(shares: Tensor, power: float) -> Tensor:
    """Weights (K,) = share^-power, scaled so that the mean over labelled pixels is 1; absent classes weigh 0."""
    weights = torch.where(shares > 0, shares.clamp_min(1e-9) ** -power, torch.zeros_like(shares))
    return weights / (weights * shares).sum()


def segmentation_loss(logits: Tensor, labels: Tensor, *, weights: Tensor, dice: float) -> Tensor:
    """Scalar loss of logits (B, K, h, w) against labels int64 (B, H, W) with codes 0 (ignored) and 1..K.

    Logits are resized to the labels, as they are in flight. A batch without a labelled pixel has loss 0.
    """
    logits = resized(logits.float(), (labels.shape[-2], labels.shape[-1]))
    target = labels - 1  # ignored pixels become -1
    labelled = labels != IGNORE
    total = F.cross_entropy(logits, target, weight=weights, ignore_index=-1, reduction="sum")
    loss = total / labelled.sum().clamp_min(1)
    if dice > 0:
        loss = loss + dice * dice_loss(logits.softmax(dim=1), target, labelled)
    return loss


def dice_loss(probability: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """1 - soft dice, over the whole batch, mean over the classes the batch shows.

    Source: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016 (linear denominator).
    """
    classes = probability.shape[1]
    truth = F.one_hot(target.clamp_min(0), classes).permute(0, 3, 1, 2) * labelled[:, None]
    probability = probability * labelled[:, None]
    both = (probability * truth).sum(dim=(0, 2, 3))
    either = probability.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    shown = truth.sum(dim=(0, 2, 3)) > 0
    score = (2 * both + 1.0) / (either + 1.0)
    return ((1 - score) * shown).sum() / shown.sum().clamp_min(1)
