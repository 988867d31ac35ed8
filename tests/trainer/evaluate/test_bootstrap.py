from __future__ import annotations

import numpy as np
import pytest

from engines.metrics import Confusion
from trainer.evaluate.bootstrap import block_bootstrap


def blocks_of(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1000, (count, 4, 4)).astype(np.int64)


def test_intervals_equal_a_slow_resampling_of_blocks() -> None:
    """Blocks drawn one by one and scored one by one, with draws enough that luck moves the ends little."""
    blocks = blocks_of(15)
    rng = np.random.default_rng(7)
    mious, roads = [], []
    for _ in range(3000):
        confusion = Confusion(3)
        for index in rng.integers(15, size=15):
            confusion.merge(Confusion(3, blocks[index]))
        scores = confusion.scores()
        mious.append(scores.miou)
        roads.append(scores.iou[1])
    found = block_bootstrap(blocks, draws=3000, seed=1)
    spread = float(np.std(mious))
    assert [found.miou.low, found.miou.high] == pytest.approx(np.percentile(mious, [2.5, 97.5]), abs=0.15 * spread)
    assert [found.iou[1].low, found.iou[1].high] == pytest.approx(
        np.percentile(roads, [2.5, 97.5]), abs=0.15 * float(np.std(roads))
    )
    assert found.blocks == 15


def test_the_same_seed_gives_the_same_intervals_and_another_gives_others() -> None:
    blocks = blocks_of(10)
    first, again, other = (block_bootstrap(blocks, draws=300, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.miou != other.miou


def test_blocks_that_are_all_alike_leave_nothing_open() -> None:
    alike = np.repeat(blocks_of(1), 9, axis=0)
    found = block_bootstrap(alike, draws=50)
    miou = Confusion(3, alike[0]).scores().miou
    assert [found.miou.low, found.miou.high] == pytest.approx([miou, miou])


def test_a_class_in_no_block_has_no_interval_and_no_part_in_the_mean() -> None:
    blocks = blocks_of(10)
    blocks[:, 3, :] = 0
    blocks[:, :, 3] = 0
    found = block_bootstrap(blocks, draws=100)
    assert np.isnan(found.iou[2].low)
    assert np.isnan(found.iou[2].high)
    assert found.iou[0].low < found.miou.high
    assert not np.isnan(found.miou.low)


def test_nothing_evaluated_has_no_interval() -> None:
    assert np.isnan(block_bootstrap(np.zeros((0, 4, 4), np.int64), draws=10).miou.low)
