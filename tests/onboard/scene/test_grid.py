from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboard.errors import OptionsRefused
from onboard.scene.grid import Grid, pad_to_tile, tile_shape

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


SIDES = (512, 768, 1024)
LENGTHS = (1, 511, 512, 513, 700, 768, 769, 1024, 1025, 1100, 1408, 1409, 2000, 3000, 5000, 12_000)


@pytest.mark.parametrize(
    ("length", "side"),
    [
        (1, 512), (511, 512), (512, 512), (513, 768), (600, 768), (768, 768), (769, 1024), (1024, 1024), (1025, 768),
        (1100, 768), (1408, 768), (1409, 1024), (2000, 768), (2048, 768), (2049, 1024), (5000, 1024),
    ],
)  # fmt: skip
def test_a_scene_takes_the_smallest_side_that_needs_no_more_tiles(length: int, side: int) -> None:
    assert tile_shape(length, 1, SIDES, halo=64) == (side, 512)
    assert tile_shape(1, length, SIDES, halo=64) == (512, side)
    assert tile_shape(length, length, (1024,), halo=64) == (1024, 1024)


@given(
    length=st.sampled_from(LENGTHS) | st.integers(1, 20_000), halo=st.sampled_from([0, 16, 60, 64, 128, 256, 400, 511])
)
def test_the_side_chosen_reaches_with_as_many_tiles_and_no_smaller_one_does(length: int, halo: int) -> None:
    side, _ = tile_shape(length, 1, SIDES, halo=halo)
    count = Grid(length, 1, tile_size=(side, 1024), halo=halo).columns
    assert count == Grid(length, 1, tile_size=1024, halo=halo).columns
    assert count * side - (count - 1) * 2 * halo >= length
    for smaller in (one for one in SIDES if one < side):
        assert smaller <= 2 * halo or count * smaller - (count - 1) * 2 * halo < length


@given(
    width=st.sampled_from(LENGTHS) | st.integers(1, 4000), height=st.sampled_from(LENGTHS) | st.integers(1, 4000),
    halo=st.sampled_from([0, 60, 64, 128]),
)  # fmt: skip
def test_rectangles_partition_a_scene_and_keep_their_halos(width: int, height: int, halo: int) -> None:
    shape = tile_shape(width, height, SIDES, halo=halo)
    grid = Grid(width, height, tile_size=shape, halo=halo)
    assert grid.computed_pixels == len(grid) * shape[0] * shape[1]
    across = [tile for tile in grid if tile.core.row == 0]
    down = [tile for tile in grid if tile.core.col == 0]
    assert [tile.core.col for tile in across] == [0, *np.cumsum([tile.core.width for tile in across])[:-1]]
    assert [tile.core.row for tile in down] == [0, *np.cumsum([tile.core.height for tile in down])[:-1]]
    assert sum(tile.core.width * tile.core.height for tile in grid) == width * height
    for tile in grid:
        inside = tile.core_in_tile
        assert (tile.source.width, tile.source.height) == (min(shape[0], width), min(shape[1], height))
        assert inside.col >= halo or tile.core.col == 0
        assert inside.row >= halo or tile.core.row == 0
        assert inside.col + inside.width <= shape[0] - halo or tile.core.col + tile.core.width == width
        assert inside.row + inside.height <= shape[1] - halo or tile.core.row + tile.core.height == height
    for axis, starts in (("col", across[:-1]), ("row", down[:-1])):
        phase = 8 if halo == 60 else 32
        assert all(getattr(tile.source, axis) % phase == 0 for tile in starts)


def test_with_finer_steps_between_sides_less_is_computed() -> None:
    fine = tuple(range(512, 1025, 64))
    assert [tile_shape(length, 1, fine, halo=64)[0] for length in (600, 1025, 1100, 1500, 2000, 3000)] == [
        640, 640, 640, 832, 768, 896,
    ]  # fmt: skip


def test_a_scene_just_wider_than_a_tile_costs_little_more_than_its_pixels() -> None:
    def computed(side: int, sides: tuple[int, ...]) -> int:
        return Grid(side, side, tile_size=tile_shape(side, side, sides, halo=64), halo=64).computed_pixels

    assert computed(2000, SIDES) / computed(2000, (1024,)) == 0.5625
    assert computed(600, SIDES) == 768**2
    assert computed(1025, SIDES) == 4 * 768**2
    assert computed(12_000, SIDES) == computed(12_000, (1024,))


@pytest.mark.parametrize("halo", [512, 600])
def test_a_halo_that_leaves_no_core_of_the_largest_side_is_refused_by_it(halo: int) -> None:
    shape = tile_shape(3000, 10, SIDES, halo=halo)
    with pytest.raises(OptionsRefused, match="leaves nothing of a tile of 1024"):
        Grid(3000, 10, tile_size=shape, halo=halo)


def test_padding_fills_a_rectangle() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 20, 30), dtype=np.uint8)
    expected = np.pad(pixels, ((0, 0), (0, 12), (0, 34)), mode="reflect")
    assert np.array_equal(pad_to_tile(pixels, (64, 32)), expected)
    with pytest.raises(ValueError, match="30 x 20 pixels do not fit a tile of 64 x 16"):
        pad_to_tile(pixels, (64, 16))
