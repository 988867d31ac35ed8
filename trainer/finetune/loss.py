"""Supervised losses that ignore unlabelled pixels: for single classes, sets of allowed classes, soft labels."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.data.labelled import IGNORE
from trainer.models.upernet import resized


def class_weights(shares: Tensor, power: float) -> Tensor:
    """Weights (K,) = share^-power, scaled so that the mean over labelled pixels is 1; absent classes weigh 0."""
    # Scaled to a mean of 1, so that another power does not act like another learning rate.
    weights = torch.where(shares > 0, shares.clamp_min(1e-9) ** -power, torch.zeros_like(shares))
    return weights / (weights * shares).sum()


def segmentation_loss(logits: Tensor, labels: Tensor, *, weights: Tensor, dice: float) -> Tensor:
    """Scalar loss of logits (B, K, h, w) against labels int64 (B, H, W) with codes 0 (ignored) and 1..K.

    Logits are resized to the labels, as in the exported network. A batch without a labelled pixel has loss 0. The
    probability of the true class is gathered once for cross-entropy and dice: with one-hot labels, the usual form of
    dice, the loss took a third of a training step on two cores.
    """
    logits = resized(logits.float(), (labels.shape[-2], labels.shape[-1]))
    target = (labels - 1).clamp_min(0)  # ignored pixels borrow class 0 and are multiplied by 0 below
    labelled = (labels != IGNORE).float()
    log_probability = logits.log_softmax(dim=1)
    true_class = log_probability.gather(1, target[:, None])[:, 0]
    # Divided by the labelled pixels of the batch, so that the loss has one size however many there are.
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
    # 1 on both sides: a class of few pixels cannot make the quotient jump.
    score = (2 * both + 1.0) / (guessed + truth + 1.0)
    return ((1 - score) * shown).sum() / shown.sum().clamp_min(1)


def allowed_loss(logits: Tensor, codes: Tensor, *, allowed: Tensor, weights: Tensor, dice: float) -> Tensor:
    """Scalar loss of logits against labels of which some allow several classes.

    For a single class the loss is that of :func:`segmentation_loss`. For a set of classes it is -log(sum of w_k p_k)
    over its classes k: zero, once all probability lies on classes of weight 1. Dice uses only pixels of a single class.

    Args:
        logits: (B, K, h, w).
        codes: int64 (B, H, W), rows of ``allowed``; 0 is ignored, 1..K are single classes.
        allowed: (codes, K), weight of each class by code, 0..1.
        weights: (codes,), weight of each code's pixels.
        dice: weight of dice.

    Source of the sum over allowed classes: Cour, Sapp, Taskar, "Learning from Partial Labels", JMLR 2011.
    """
    classes = logits.shape[1]
    logits = resized(logits.float(), (codes.shape[-2], codes.shape[-1]))
    log_probability = logits.log_softmax(dim=1)
    labelled = (codes > 0).float()
    single = ((codes > 0) & (codes <= classes)).float()
    target = (codes - 1).clamp(0, classes - 1)
    # For a single class the log-softmax is used as it is: the logarithm of a summed probability would lose small ones.
    true_class = log_probability.gather(1, target[:, None])[:, 0]
    likelihood = torch.einsum("bkhw,bhwk->bhw", log_probability.exp(), allowed[codes])
    # Where the network is sure of a forbidden class the sum is 0; the floor keeps logarithm and gradient finite.
    several = likelihood.clamp_min(1e-6).log()
    cost = -torch.where(single > 0, true_class, several) * weights[codes]
    loss = (cost * labelled).sum() / labelled.sum().clamp_min(1)
    if dice > 0:
        loss = loss + dice * _dice_where(log_probability.exp(), true_class.exp() * single, target, single)
    return loss


def _dice_where(probability: Tensor, hit: Tensor, target: Tensor, single: Tensor) -> Tensor:
    # hit.sum() * 0 and not a plain 0: the result stays part of the graph.
    return dice_loss(probability, hit, target, single) if bool(single.any()) else hit.sum() * 0


def soft_loss(logits: Tensor, probability: Tensor) -> Tensor:
    """Cross-entropy (scalar) of logits (B, K, h, w) against a teacher's probabilities (B, K, H, W).

    Pixels whose probabilities sum to 0 have no soft label and count nowhere. Source: Hinton, Vinyals, Dean,
    "Distilling the Knowledge in a Neural Network", 2015, at temperature 1.
    """
    logits = resized(logits.float(), (probability.shape[-2], probability.shape[-1]))
    # Half: where soft labels end, resizing blends them with the zeros beside them.
    has_label = (probability.sum(dim=1) > 0.5).float()
    cost = -(probability * logits.log_softmax(dim=1)).sum(dim=1)
    return (cost * has_label).sum() / has_label.sum().clamp_min(1)
