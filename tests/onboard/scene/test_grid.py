from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboard.errors import OptionsRefused
from onboard.scene.grid import Grid, pad_to_tile

sizes = st.integers(1, 300)


@given(width=sizes, height=sizes, tile=st.integers(4, 128), share=st.floats(0, 0.49))
def test_cores_partition_any_scene(width: int, height: int, tile: int, share: float) -> None:
    seen = np.zeros((height, width), np.uint8)
    for item in Grid(width, height, tile_size=tile, halo=int(tile * share)):
        seen[item.core.rows, item.core.cols] += 1
    assert (seen == 1).all()


@given(width=sizes, height=sizes, tile=st.integers(4, 128), share=st.floats(0, 0.49))
def test_tiles_see_real_pixels_and_cores_keep_their_halo(width: int, height: int, tile: int, share: float) -> None:
    halo = int(tile * share)
    grid = Grid(width, height, tile_size=tile, halo=halo)
    for number, item in enumerate(grid):
        source, core, inside = item.source, item.core, item.core_in_tile
        assert item.index == number
        assert 0 <= source.col <= source.col + source.width <= width
        assert (source.width, source.height) == (min(tile, width), min(tile, height))
        assert (source.col + inside.col, source.row + inside.row) == (core.col, core.row)
        assert (inside.width, inside.height) == (core.width, core.height)
        # A side is closer to the tile's edge than the halo only where the scene ends.
        assert inside.col >= halo or core.col == 0
        assert inside.col + inside.width <= tile - halo or core.col + core.width == width
        assert inside.row >= halo or core.row == 0
        assert inside.row + inside.height <= tile - halo or core.row + core.height == height


def test_indexing_and_slicing() -> None:
    grid = Grid(100, 100, tile_size=32, halo=4)
    assert grid[-1] == grid[len(grid) - 1]
    assert grid[1:3] == [grid[1], grid[2]]
    with pytest.raises(IndexError):
        grid[len(grid)]


@pytest.mark.parametrize("halo", [-1, 32, 40])
def test_a_halo_that_leaves_no_core_is_refused(halo: int) -> None:
    with pytest.raises(OptionsRefused, match="leaves nothing"):
        Grid(100, 100, tile_size=64, halo=halo)


@given(width=st.integers(1, 40), height=st.integers(1, 40))
def test_padding_reflects_as_numpy_does(width: int, height: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 255, (3, height, width), dtype=np.uint8)
    padded = pad_to_tile(pixels, 40)
    expected = np.pad(pixels, ((0, 0), (0, 40 - height), (0, 40 - width)), mode="reflect")
    assert np.array_equal(padded, expected)


@given(length=st.integers(1, 5000), tile=st.sampled_from([256, 512, 1024]), halo=st.integers(0, 100))
def test_no_tile_is_too_many(length: int, tile: int, halo: int) -> None:
    count = Grid(length, tile, tile_size=tile, halo=halo).columns
    assert count == 1 or 2 * halo + (count - 1) * (tile - 2 * halo) < length


def test_what_is_over_widens_all_halos_alike() -> None:
    """12,000 pixels: 14 tiles whose halo, were all but the last one tight, would be 64, 64, ... and 352 at the end."""
    columns = list(Grid(12_000, 1024, tile_size=1024, halo=64))
    halos = [tile.core_in_tile.col for tile in columns[1:]]
    assert len(columns) == 14
    assert min(halos) >= 64 + 8
    assert max(halos) <= 64 + 48


@given(length=st.integers(1025, 9000), halo=st.sampled_from([0, 16, 64, 128, 60]))
def test_all_tiles_but_the_last_begin_where_a_networks_patches_do(length: int, halo: int) -> None:
    columns = list(Grid(length, 1024, tile_size=1024, halo=halo))
    phase = 8 if halo == 60 else 32
    assert all(tile.source.col % phase == 0 for tile in columns[:-1])
