"""Polygons of rasters of classes: held to the pixels, to GDAL's polygons and to shapely's idea of a coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from products.polygons.coverage import polygons
from products.polygons.merging import Minimum, without_small
from products.polygons.outlines import outlines
from products.polygons.patches import Patches, find_patches, label
from products.polygons.tiles import Tile, TileData, Tiles

Codes = NDArray[np.uint8]


@st.composite
def rasters(draw: st.DrawFn) -> Codes:
    """Blocks of a few pixels, so that patches are larger than one and touch at corners."""
    shape = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    seed, block = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 5))
    codes = np.random.default_rng(seed).integers(0, draw(st.integers(2, 4)), shape, dtype=np.uint8)
    raster: Codes = np.kron(codes, np.ones((block, block), np.uint8))
    return raster


def made(
    codes: Codes, side: int, tolerance: float = 0.0, minimum: float | None = None
) -> tuple[Patches, NDArray[np.int64], NDArray[Any]]:
    """Patches, and their numbers and polygons as they come out."""
    tiles = Tiles(codes.shape[0], codes.shape[1], side)

    def read(tile: Tile) -> Codes:
        return codes[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]

    patches, borders = find_patches(tiles, lambda tile: TileData(read(tile)), with_borders=minimum is not None)
    if minimum is not None and borders is not None:
        patches = without_small(patches, borders, Minimum(minimum, in_pixels=True))
    batches = list(polygons(tiles, patches, read, tolerance=tolerance))
    return patches, np.concatenate([b.patches for b in batches]), np.concatenate([b.polygons for b in batches])


def burnt(shape: tuple[int, int], shapes: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Polygons as pixels again, by GDAL."""
    pairs = [(shape, int(value)) for shape, value in zip(shapes, values, strict=True)]
    if not pairs:
        return np.zeros(shape, np.int32)
    flipped = rasterio.Affine(1, 0, 0, 0, -1, 0)
    return np.asarray(rasterio.features.rasterize(pairs, shape, transform=flipped, dtype="int32"))


@settings(max_examples=50)
@given(rasters(), st.integers(3, 80))
def test_without_simplifying_polygons_are_the_pixels(codes: Codes, side: int) -> None:
    patches, numbers, shapes = made(codes, side)
    assert np.array_equal(burnt(codes.shape, shapes, patches.codes[numbers]), codes)
    assert np.array_equal(shapely.area(shapes), patches.pixels[numbers])
    _, count = label(codes)
    assert len(patches.codes) == count  # no patch ends at a seam
    theirs = [shape for shape, code in rasterio.features.shapes(codes, connectivity=4) if code]
    shells = [shapely.Polygon(shape["coordinates"][0]).area for shape in theirs]
    assert sorted(shells) == sorted(shapely.area(shapely.polygons(shapely.get_exterior_ring(shapes))))


@settings(max_examples=50)
@given(rasters(), st.integers(3, 80), st.sampled_from([0.0, 1.5, 3.0, 8.0]))
def test_neighbours_have_neither_gaps_nor_overlaps(codes: Codes, side: int, tolerance: float) -> None:
    patches, numbers, shapes = made(codes, side, tolerance)
    assert sorted(numbers) == sorted(np.nonzero(patches.codes)[0])  # each patch once, none of no data
    assert np.all(shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON)
    assert np.all(shapely.is_valid(shapes))
    assert shapely.coverage_is_valid(shapes)
    if codes.all():  # what one patch loses another gains
        assert shapely.area(shapes).sum() == pytest.approx(codes.size)
        assert shapely.coverage_union_all(shapes).equals(shapely.box(0, -codes.shape[0], codes.shape[1], 0))


def test_a_hole_that_touches_its_shell_across_a_seam_is_a_hole() -> None:
    """GEOS before 3.14 joins the pieces to a shell that touches itself, which is no valid polygon."""
    codes: Codes = np.array([[1, 1, 1], [1, 2, 1], [1, 1, 2]], np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    patches, numbers, shapes = made(codes, 3)
    assert np.all(shapely.is_valid(shapes))
    (ring,) = shapes[patches.codes[numbers] == 1]
    assert (len(ring.interiors), ring.area) == (1, 28)
    assert shapely.coverage_is_valid(shapes)


def test_simplifying_straightens_stairs_and_keeps_what_is_larger() -> None:
    rows, columns = np.mgrid[:200, :300]
    codes = np.where(rows * 3 > columns * 2, 1, 2).astype(np.uint8)
    (_, _, stairs), (_, _, straight) = made(codes, 64), made(codes, 64, 3.0)
    assert shapely.get_num_coordinates(stairs).sum() > 600
    assert shapely.get_num_coordinates(straight).sum() < 80  # the line, and where it crosses seams
    assert np.all(np.abs(shapely.area(straight) - shapely.area(stairs)) < 300)


@settings(max_examples=50)
@given(rasters(), st.integers(3, 80), st.integers(2, 60))
def test_small_patches_go_to_neighbours(codes: Codes, side: int, minimum: int) -> None:
    patches, numbers, shapes = made(codes, side, minimum=minimum)
    left = burnt(codes.shape, shapes, patches.codes[numbers])
    assert not np.any(left[codes == 0])
    assert np.all(shapely.area(shapes) >= minimum)
    assert np.array_equal(shapely.area(shapes), patches.pixels[numbers])
    labels, _ = label((codes != 0).astype(np.uint8))  # land amid no data
    sizes = np.bincount(labels.ravel())
    assert np.all(sizes[labels[(left == 0) & (codes != 0)]] < minimum)  # only what is too small as a whole
    # Patches of one class beside each other are one.
    assert len(numbers) == len(np.unique(label(left)[0][left != 0]))


def test_a_small_patch_goes_where_its_border_is_longest() -> None:
    codes = np.full((20, 20), 1, np.uint8)
    codes[:, 10:] = 2
    codes[8:12, 9:12] = 3  # 2 pixels wide in class 2, 1 in class 1
    patches, numbers, shapes = made(codes, 7, minimum=13)
    left = burnt(codes.shape, shapes, patches.codes[numbers])
    assert set(left[8:12, 9:12].ravel()) == {2}
    assert len(numbers) == 2


def test_confidence_and_areas_are_of_the_whole_patch() -> None:
    rng = np.random.default_rng(3)
    codes = np.kron(rng.integers(0, 3, (12, 12), dtype=np.uint8), np.ones((4, 4), np.uint8))
    areas, confidence = rng.random(codes.shape), rng.random(codes.shape)
    tiles = Tiles(codes.shape[0], codes.shape[1], 10)

    def read(tile: Tile) -> TileData:
        rows, columns = slice(tile.top, tile.top + tile.height), slice(tile.left, tile.left + tile.width)
        return TileData(codes[rows, columns], areas[rows, columns], confidence[rows, columns])

    patches, borders = find_patches(tiles, read, with_borders=True)
    assert borders is not None
    for chosen in (patches, without_small(patches, borders, Minimum(20, in_pixels=True))):
        labels = np.zeros(codes.shape, np.int64)
        for tile in tiles:
            rows, columns = slice(tile.top, tile.top + tile.height), slice(tile.left, tile.left + tile.width)
            labels[rows, columns] = chosen.in_tile(tile, codes[rows, columns])
        assert chosen.areas is not None
        assert chosen.confidence is not None
        for number in range(len(chosen.codes)):
            assert chosen.areas[number] == pytest.approx(areas[labels == number].sum())
            assert chosen.confidence[number] == pytest.approx(confidence[labels == number].mean())


def test_a_patch_that_touches_itself_at_a_corner_is_a_shell_with_a_hole() -> None:
    codes = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    shapes = outlines(label(codes)[0])
    shape = shapes[0]
    assert shapely.is_valid(shape)
    assert (len(shape.interiors), shape.area, shapely.is_ccw(shape.exterior)) == (1, 7.0, True)


@settings(max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1200))
def test_tiles_cover_a_raster(height: int, width: int, side: int) -> None:
    covered = np.zeros((height, width), np.uint8)
    for number, tile in enumerate(Tiles(height, width, max(side, 100))):
        assert tile.number == number
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert np.all(covered == 1)
