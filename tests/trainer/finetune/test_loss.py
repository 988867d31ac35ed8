from __future__ import annotations

import pytest
import torch

from trainer.finetune.loss import class_weights, segmentation_loss


def test_unlabelled_pixels_change_neither_loss_nor_gradient() -> None:
    labels = torch.tensor([[[1, 2], [0, 0]]])
    weights = torch.ones(2)
    gradients, losses = [], []
    for guess in (0.0, 7.0):
        logits = torch.tensor([[[[1.0, 0.0], [guess, 0.0]], [[0.0, 0.5], [0.0, -guess]]]], requires_grad=True)
        loss = segmentation_loss(logits, labels, weights=weights, dice=1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        gradients.append(logits.grad[:, :, 0])
        losses.append(float(loss.detach()))
        assert (logits.grad[:, :, 1] == 0).all()
    assert losses[0] == losses[1]
    assert torch.equal(gradients[0], gradients[1])


def test_the_right_answer_costs_nothing_and_the_wrong_one_much() -> None:
    labels = torch.randint(1, 3, (2, 8, 8))
    right = 30.0 * torch.nn.functional.one_hot(labels - 1, 2).permute(0, 3, 1, 2).float()
    assert segmentation_loss(right, labels, weights=torch.ones(2), dice=1.0) < 1e-4
    assert segmentation_loss(-right, labels, weights=torch.ones(2), dice=1.0) > 10


def test_a_batch_without_labels_teaches_nothing() -> None:
    logits = torch.rand(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.zeros(1, 4, 4, dtype=torch.int64), weights=torch.ones(3), dice=1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_logits_are_resized_to_the_labels() -> None:
    labels = torch.ones(1, 16, 16, dtype=torch.int64)
    assert torch.isfinite(segmentation_loss(torch.rand(1, 3, 4, 4), labels, weights=torch.ones(3), dice=0.0))


def test_rare_classes_weigh_more_and_absent_ones_nothing() -> None:
    shares = torch.tensor([0.81, 0.19, 0.0])
    weights = class_weights(shares, 0.5)
    assert weights[1] > weights[0] > 0
    assert weights[2] == 0
    assert (weights * shares).sum() == pytest.approx(1.0)
