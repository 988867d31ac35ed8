from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.metrics import Confusion


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
