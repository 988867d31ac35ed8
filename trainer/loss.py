"""The supervised loss: weighted cross-entropy and dice, both blind to unlabelled pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.data.labelled import IGNORE
from trainer.models.upernet import resized


def class_weights(shares: Tensor, power: float) -> Tensor:
    """Weights (K,) = share^-power, scaled so that the mean over labelled pixels is 1; absent classes weigh 0."""
    weights = torch.where(shares > 0, shares.clamp_min(1e-9) ** -power, torch.zeros_like(shares))
    return weights / (weights * shares).sum()


def segmentation_loss(logits: Tensor, labels: Tensor, *, weights: Tensor, dice: float) -> Tensor:
    """Scalar loss of logits (B, K, h, w) against labels int64 (B, H, W) with codes 0 (ignored) and 1..K.

    Logits are resized to the labels, as they are in flight. A batch without a labelled pixel has loss 0. The
    probability of the true class is gathered once for both parts: with one-hot labels, as dice is usually written,
    the loss took a third of a training step on two cores.
    """
    logits = resized(logits.float(), (labels.shape[-2], labels.shape[-1]))
    target = (labels - 1).clamp_min(0)  # ignored pixels borrow class 0 and are multiplied by 0 below
    labelled = (labels != IGNORE).float()
    log_probability = logits.log_softmax(dim=1)
    true_class = log_probability.gather(1, target[:, None])[:, 0]
    loss = -(true_class * weights[target] * labelled).sum() / labelled.sum().clamp_min(1)
    if dice > 0:
        loss = loss + dice * dice_loss(log_probability.exp(), true_class.exp() * labelled, target, labelled)
    return loss


def dice_loss(probability: Tensor, hit: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """1 - soft dice, over the whole batch, mean over the classes the batch shows.

    Args:
        probability: (B, K, H, W).
        hit: (B, H, W), probability of the true class, 0 where unlabelled.
        target: (B, H, W) int64, 0..K-1.
        labelled: (B, H, W), 1 where labelled, else 0.

    Source: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016 (linear denominator).
    """
    zeros = hit.new_zeros(probability.shape[1])
    both = zeros.index_add(0, target.flatten(), hit.flatten())
    truth = zeros.index_add(0, target.flatten(), labelled.flatten())
    guessed = torch.einsum("bkhw,bhw->k", probability, labelled)
    shown = truth > 0
    score = (2 * both + 1.0) / (guessed + truth + 1.0)
    return ((1 - score) * shown).sum() / shown.sum().clamp_min(1)
