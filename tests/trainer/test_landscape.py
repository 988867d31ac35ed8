from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.landscape import CLASS_NAMES, Landscape, write_landscape


@settings(max_examples=15, deadline=None)
@given(col=st.integers(0, 300), row=st.integers(0, 300), width=st.integers(1, 120), height=st.integers(1, 120))
def test_a_window_equals_the_same_window_of_a_bigger_read(col: int, row: int, width: int, height: int) -> None:
    world = Landscape(5)
    rgb, classes = world.window(1000, 500, 420, 420)
    part, part_classes = world.window(1000 + col, 500 + row, width, height)
    assert np.array_equal(part, rgb[:, row : row + height, col : col + width])
    assert np.array_equal(part_classes, classes[row : row + height, col : col + width])


def test_a_periodic_world_repeats_without_a_seam() -> None:
    world = Landscape(5, period=2048)
    first, classes = world.window(2000, 2010, 96, 64)
    for got, whole in zip(world.window(2000 + 2048, 2010 - 2048, 96, 64), (first, classes), strict=True):
        assert np.array_equal(got, whole)
    # Across the seam neighbours differ no more than elsewhere.
    rgb, _ = Landscape(5, period=2048).window(2048 - 256, 0, 512, 256)
    steps = np.abs(np.diff(rgb.astype(int), axis=2)).mean(axis=(0, 1))
    assert steps[255] < 2 * np.median(steps)


def test_seeds_differ_and_all_classes_are_there() -> None:
    one, classes = Landscape(1).window(0, 0, 1024, 1024)
    other, _ = Landscape(2).window(0, 0, 1024, 1024)
    assert not np.array_equal(one, other)
    seen = set(np.unique(classes)) | set(np.unique(Landscape(2).window(0, 0, 1024, 1024)[1]))
    assert seen == set(CLASS_NAMES)


@pytest.mark.parametrize("period", [None, 2048])
def test_a_written_scene_is_georeferenced_and_its_truth_lies_on_the_same_grid(
    tmp_path: Path, period: int | None
) -> None:
    scene, truth = tmp_path / "scene.tif", tmp_path / "truth.tif"
    write_landscape(scene, seed=3, width=2100, height=600, classes_path=truth, period=period)
    with rasterio.open(scene) as source, rasterio.open(truth) as labels:
        assert (source.shape, source.count, source.crs, source.transform) == (
            labels.shape,
            3,
            labels.crs,
            labels.transform,
        )
        assert source.crs.to_epsg() == 32640
        expected = Landscape(3, period or 1 << 16).window(0, 0, 2100, 600)
        assert np.array_equal(labels.read(1), expected[1])
        # JPEG: near, not equal.
        assert np.abs(source.read().astype(int) - expected[0]).mean() < 8


def test_uint16_scenes_are_written_too(tmp_path: Path) -> None:
    write_landscape(tmp_path / "scene.tif", seed=3, width=200, height=100, dtype="uint16")
    with rasterio.open(tmp_path / "scene.tif") as source:
        assert source.dtypes == ("uint16",) * 3
        assert source.read().max() > 255


def test_a_period_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 2048"):
        Landscape(1, period=1000)


def test_it_needs_no_torch() -> None:
    code = "import sys, trainer.data.landscape; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
