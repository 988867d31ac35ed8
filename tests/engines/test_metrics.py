from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.metrics import Confusion

if TYPE_CHECKING:
    from torch import Tensor


def slow_iou(truth: NDArray[np.uint8], guess: NDArray[np.uint8], code: int) -> float:
    hit = miss = false = 0
    for wanted, given in zip(truth.ravel().tolist(), guess.ravel().tolist(), strict=True):
        if wanted == 0:
            continue
        hit += wanted == code and given == code
        miss += wanted == code and given != code
        false += wanted != code and given == code
    return hit / (hit + miss + false) if hit + miss + false else float("nan")


def test_figures_equal_a_slow_count_of_every_pixel() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, (2, 40, 30)).astype(np.uint8)
    confusion = Confusion(4)
    for row in range(40):  # in parts: one matrix over the set, not a mean over images
        confusion.add(truth[row], guess[row])
    scores = confusion.scores()
    expected = [slow_iou(truth, guess, code) for code in (1, 2, 3, 4)]
    assert scores.iou == pytest.approx(expected, nan_ok=True)
    assert np.isnan(scores.iou[3])  # in neither map: no part of the mean
    assert scores.miou == pytest.approx(np.nanmean(expected))
    labelled = truth > 0
    assert scores.overall_accuracy == pytest.approx((truth == guess)[labelled].mean())
    assert scores.mf1 == pytest.approx(np.nanmean([2 * iou / (1 + iou) for iou in expected]))
    assert scores.pixels == labelled.sum()


@pytest.fixture
def oracle() -> ModuleType:
    """Torchmetrics. What flies is tested where neither it nor torch is installed."""
    for name in ("torch", "torchmetrics"):
        pytest.importorskip(name, reason=f"{name} is not installed here, and it gives the figures to compare with")
    from torchmetrics.functional import classification

    return classification


def torchs(truth: NDArray[np.uint8], guess: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    import torch

    return torch.from_numpy(guess).long(), torch.from_numpy(truth).long()


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_torchmetrics(oracle: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 3, 5], (50, 60), p=[0.2, 0.4, 0.3, 0.05, 0.05]).astype(np.uint8)
    guess = np.where(rng.random((50, 60)) < 0.6, np.maximum(truth, 1), rng.integers(1, 4, (50, 60))).astype(np.uint8)
    confusion = Confusion(6)  # classes 4 and 6 are in neither map
    confusion.add(truth, guess)
    scores, pair = confusion.scores(), torchs(truth, guess)
    iou = oracle.multiclass_jaccard_index(*pair, num_classes=7, ignore_index=0, average="none")[1:]
    f1 = oracle.multiclass_f1_score(*pair, num_classes=7, ignore_index=0, average="none")[1:]
    assert np.nan_to_num(scores.iou) == pytest.approx(iou.numpy())
    assert np.nan_to_num(scores.f1) == pytest.approx(f1.numpy())
    assert scores.miou == pytest.approx(float(oracle.multiclass_jaccard_index(*pair, num_classes=7, ignore_index=0)))
    assert scores.mf1 == pytest.approx(
        float(oracle.multiclass_f1_score(*pair, num_classes=7, ignore_index=0, average="macro"))
    )
    accuracy = oracle.multiclass_accuracy(*pair, num_classes=7, ignore_index=0, average="micro")
    assert scores.overall_accuracy == pytest.approx(float(accuracy))


def test_no_data_in_the_map_counts_as_torchmetrics_counts_a_class_never_true(oracle: ModuleType) -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, (2, 50, 60)).astype(np.uint8)
    confusion = Confusion(3)
    confusion.add(truth, guess)
    expected = oracle.multiclass_jaccard_index(*torchs(truth, guess), num_classes=4, ignore_index=0, average="none")
    assert confusion.scores().iou == pytest.approx(expected[1:].numpy())


def test_unlabelled_pixels_count_nowhere() -> None:
    truth = np.array([[0, 0, 1, 2]], dtype=np.uint8)
    confusion = Confusion(2)
    confusion.add(truth, np.array([[1, 2, 1, 2]], dtype=np.uint8))
    assert confusion.scores().miou == 1.0


def test_no_data_over_a_labelled_pixel_is_a_miss() -> None:
    confusion = Confusion(2)
    confusion.add(np.array([1, 1, 2], dtype=np.uint8), np.array([1, 0, 2], dtype=np.uint8))
    scores = confusion.scores()
    assert scores.iou == pytest.approx([0.5, 1.0])
    assert scores.overall_accuracy == pytest.approx(2 / 3)


def test_pooling_adds_counts_not_figures() -> None:
    first, second = Confusion(2), Confusion(2)
    first.add(np.array([1, 1, 1, 2], dtype=np.uint8), np.array([1, 1, 1, 1], dtype=np.uint8))
    second.add(np.array([2], dtype=np.uint8), np.array([2], dtype=np.uint8))
    first.merge(second)
    assert first.scores().iou == pytest.approx([0.75, 0.5])


def test_codes_beyond_the_table_are_refused() -> None:
    with pytest.raises(ValueError, match="code 3 lies beyond"):
        Confusion(2).add(np.array([3], dtype=np.uint8), np.array([1], dtype=np.uint8))
    with pytest.raises(ValueError, match="differ in shape"):
        Confusion(2).add(np.zeros(2, np.uint8), np.zeros(3, np.uint8))
