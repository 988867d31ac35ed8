"""What the comparison with other tools stands on: the twin, the reference, the seam mask, the report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers.judge import tile_lines
from benchmarks.peers.report import write_report
from benchmarks.reference import block_counts, difference, near_mask, reference_classes, shares, starts
from benchmarks.twin import Twin
from engines.open import SHIPPED, open_engine
from engines.verify import golden_tiles
from onboard.scene.grid import Grid, Window


class TinyTwin:
    """Probabilities that depend on the tile alone: its mean brightness, and the pixel's own."""

    size, classes = 16, 3

    def __call__(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        own = tiles[:, 0].astype(np.float32) / 255
        around = np.broadcast_to(own.mean(axis=(1, 2), keepdims=True), own.shape)
        return np.stack([own, 1 - own, around], axis=1)


def by_pixel(pixels: NDArray[np.uint8], twin: TinyTwin, step: int) -> NDArray[np.uint8]:
    """The reference again, slowly: each pixel asks every tile that has it."""
    _, height, width = pixels.shape
    total = np.zeros((twin.classes, height, width))
    for row in starts(height, 16, step):
        for col in starts(width, 16, step):
            said = twin(pixels[None, :, row : row + 16, col : col + 16])[0]
            for y in range(16):
                for x in range(16):
                    total[:, row + y, col + x] += said[:, y, x]
    classes: NDArray[np.uint8] = total.argmax(axis=0).astype(np.uint8)
    return classes


@pytest.mark.parametrize("step", [None, 3])
def test_the_reference_is_the_mean_of_all_tiles_that_see_a_pixel(step: int | None) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 37, 42), dtype=np.uint8)
    twin: Any = TinyTwin()
    expected = by_pixel(pixels, twin, step or 4)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(reference_classes(twin, pixels, step=step), expected)
    part = Window(col=9, row=5, width=20, height=11)
    found = reference_classes(twin, pixels, part, step=step)
    np.testing.assert_array_equal(found, expected[part.rows, part.cols])


def test_near_is_32_pixels_on_both_sides() -> None:
    mask = near_mask(200, 300, [100], [])
    assert int(mask[:, 0].argmax()) == 68
    assert int(mask[:, 0].sum()) == 64
    found, expected = np.zeros((200, 300), np.uint8), np.zeros((200, 300), np.uint8)
    found[68], found[0] = 1, 1
    assert shares(block_counts(found, expected, mask)) == (1 / 64, 1 / 136)
    assert np.isnan(shares(block_counts(found, expected, np.zeros_like(mask)))[0])


def test_counts_are_of_blocks_of_256_pixels_and_what_is_left() -> None:
    rng = np.random.default_rng(3)
    found, expected = (rng.integers(0, 2, (300, 520), dtype=np.uint8) for _ in range(2))
    mask = rng.integers(0, 2, (300, 520)).astype(bool)
    counts = block_counts(found, expected, mask)
    places = [(row, col) for row in (0, 256) for col in (0, 256, 512)]
    assert len(counts) == len(places)
    for (row, col), (wrong, near, wrong_elsewhere, elsewhere) in zip(places, counts.tolist(), strict=True):
        block = (slice(row, row + 256), slice(col, col + 256))
        unequal, inside = (found != expected)[block], mask[block]
        assert (wrong, near) == (unequal[inside].sum(), inside.sum())
        assert (wrong_elsewhere, elsewhere) == (unequal[~inside].sum(), (~inside).sum())


def test_what_both_find_hard_is_no_difference_and_what_one_finds_hard_is() -> None:
    rng = np.random.default_rng(5)
    hard = rng.integers(0, 2000, 100)
    ours = np.stack([hard, np.full(100, 10_000), hard, np.full(100, 50_000)], axis=1)
    theirs = ours + np.array([100, 0, 0, 0])
    assert difference(ours, ours)["near"] == [0, 0, 0]
    found = difference(ours, theirs)
    # Every block alike: the spread between blocks, some 6 points, is in none of the intervals.
    assert found["near"] == pytest.approx([-1, -1, -1])
    assert found["seam"] == pytest.approx([-1, -1, -1])
    noisy = theirs - np.stack([rng.integers(0, 200, 100), *[np.zeros(100, np.int64)] * 3], axis=1)
    value, low, high = difference(ours, noisy)["near"]
    assert low < value < high
    assert -0.3 < low < 0 < high < 0.3


@pytest.mark.parametrize(("tool", "halo"), [("onboard", 128), ("onboard-default", 64), ("onboard-wide", 192)])
def test_lines_of_ours_are_those_of_the_grid_that_the_row_runs_with(tool: str, halo: int) -> None:
    twin: Any = SimpleNamespace(size=1024, halo=64)
    rows, columns = tile_lines(tool, twin, (3000, 2000))
    grid = Grid(2000, 3000, tile_size=1024, halo=halo)
    tiles = list(grid)
    for lines, places in (
        (rows, {(tile.source.row, tile.core.row) for tile in tiles}),
        (columns, {(tile.source.col, tile.core.col) for tile in tiles}),
    ):
        assert set(lines) == {line for start, cut in places for line in (start, start + 1024, cut)}


def test_lines_of_the_others_are_where_their_tiles_begin_end_and_meet() -> None:
    twin: Any = SimpleNamespace(size=1024, halo=64)
    assert tile_lines("monai", twin, (1500, 2000)) == [[768, 896, 1024], [768, 896, 1024, 1536, 1664, 1792]]
    assert set(tile_lines("monai-fastest", twin, (1500, 900))[0]) == {1024}
    assert tile_lines("monai-fastest", twin, (1500, 900))[1] == []


def test_the_twin_says_what_the_model_says(tmp_path: Path) -> None:
    twin = Twin(tmp_path, SHIPPED / "dubai-lite", threads=1)
    with open_engine("dubai-lite", backend="onnxruntime", threads=1, check_golden=False) as engine:
        tiles = golden_tiles(engine, 1)
        classes = engine.infer(tiles).classes
    probabilities = twin(tiles)
    assert probabilities.shape == (1, twin.classes, twin.size, twin.size)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    codes = np.asarray([item.code for item in twin.manifest.classes])
    assert len(np.unique(classes)) > 2
    np.testing.assert_array_equal(codes[probabilities.argmax(axis=1)], classes)


def test_the_report_names_what_failed_and_who_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.report.draw", lambda *_: None)
    run = {
        "seconds": 10.0, "model_s": 9.0, "tiles": 9, "peak_mib": 500.0, "written_bytes": 2e6, "map_bytes": 4e4,
        "version": "1", "round": 0,
    }  # fmt: skip
    results = {
        "machine": {"processor": "P", "threads": 2, "python": "3", "date": "d", "model": "m", "tile": 1024,
                    "overlap": 256, "default_halo": 64},
        "scenes": {"one": {"title": "One", "tools": {
            "tiler": {"title": "gone", "runs": [], "failed": "killed"},
            "monai": {"title": "slow, blended", "runs": [run | {"seconds": 15.0}, run | {"seconds": 60.0, "round": 1}]},
            "onboard": {"title": "onboard", "runs": [run, run | {"seconds": 30.0, "round": 1}],
                        "quality": {"near": 0.01, "elsewhere": 0.005}},
        }, "differences": {"onboard": {"monai": {"near": [-0.1, -0.2, 0.05], "seam": [0.1, -0.04, 0.2]}}}}},
    }  # fmt: skip
    write_report(results, tmp_path / "benchmarks")
    told = (tmp_path / "benchmarks.md").read_text()
    assert "| onboard | 20.0 (10.0 to 30.0) | 1.00 | 9 | 45% | 500 | 2.0 | 40 | 1.00% | 0.50% | +0.50 |" in told
    assert "| slow, blended | 37.5 (15.0 to 60.0) | 1.75 |" in told  # 1.5 in one round and 2 in the other
    assert "| slow, blended | 1.75 | -0.10 (-0.20 to +0.05) | +0.10 (-0.04 to +0.20) |" in told
    assert told.index("| onboard |") < told.index("| slow, blended |")
    assert "| gone | failed: killed |" in told
