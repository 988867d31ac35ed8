"""The file of a class map, held against GDAL: what it reads, and what its own COG driver writes of the same raster."""

from __future__ import annotations

import struct
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from products import cog
from products.gdal_copy import COG_OPTIONS, describe, write_cog
from products.map_blocks import (
    Stopped,
    UnknownClass,
    bits_of,
    class_counts,
    encode_band,
    merged,
    most_frequent,
    overview_factors,
)
from products.map_file import MapBands, directory_of

Codes = NDArray[np.uint8]
SIZES = [(1, 1), (511, 3), (512, 512), (513, 511), (700, 1100), (4097, 20), (9, 4100), (8192 + 513, 530)]
TAGS = {"CLASS_1": "Building & <road>", "TIFFTAG_SOFTWARE": "onboard", "AREA_OR_POINT": "Area"}
COLOURS = [(code, 255 - code, 7 * code % 256, 255 if code else 0) for code in range(256)]


def raster(width: int, height: int, largest: int = 5) -> Codes:
    """Patches with noise and places without data."""
    generator = np.random.default_rng(width * 31 + height)
    patches = generator.integers(0, largest + 1, (-(-height // 16), -(-width // 16)), dtype=np.uint8)
    codes = patches.repeat(16, 0).repeat(16, 1)[:height, :width].copy()
    noise = generator.random(codes.shape) < 0.05
    codes[noise] = generator.integers(0, largest + 1, int(noise.sum()), dtype=np.uint8)
    return codes


def located(root: ET.Element) -> None:
    ET.SubElement(root, "SRS").text = "EPSG:32640"
    ET.SubElement(root, "GeoTransform").text = "500000, 0.7, 0, 2800000, 0, -0.7"


def by_points(root: ET.Element) -> None:
    points = ET.SubElement(root, "GCPList", Projection="EPSG:4326")
    for number, (x, y) in enumerate([(0, 0), (100, 0), (0, 90), (100, 90)]):
        ET.SubElement(
            points, "GCP", Id=str(number), Pixel=str(x), Line=str(y), X=str(50 + x / 1e4), Y=str(20 - y / 1e4)
        )


def nowhere(_root: ET.Element) -> None:
    pass


def written(
    folder: Path,
    codes: Codes,
    largest: int = 5,
    place: object = located,
    *,
    order: Sequence[int] = (),
    threads: int = 2,
) -> Path:
    height, width = codes.shape
    with closing(MapBands(width, height, largest, folder)) as bands:
        for number in order:
            bands.keep(number, bands.make(number, lambda row, count: codes[row : row + count]))
        bands.complete(lambda row, count: codes[row : row + count], threads)
        assert bands.counts.tolist() == np.bincount(codes.ravel(), minlength=largest + 1).tolist()
        tags = directory_of(folder, TAGS, largest_code=largest, colours=COLOURS, add_georeference=place)  # type: ignore[arg-type]
        bands.write(folder / "map.tif", tags)
    assert [path.name for path in folder.iterdir()] == ["map.tif"]  # nothing is left beside it
    return folder / "map.tif"


def by_gdal(folder: Path, codes: Codes, largest: int, place: object) -> Path:
    raw = folder / "classes.raw"
    raw.write_bytes(codes.tobytes())
    source = describe(raw, codes.shape[::-1], TAGS, colours=COLOURS, add_georeference=place)  # type: ignore[arg-type]
    write_cog(source, folder / "gdal.tif", {**COG_OPTIONS, "NBITS": str(bits_of(largest))}, Resampling.mode)
    return folder / "gdal.tif"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("largest", [5, 20])
def test_gdal_reads_the_raster_and_says_of_it_what_it_says_of_its_own_file(
    tmp_path: Path, width: int, height: int, largest: int
) -> None:
    codes = raster(width, height, largest)
    (tmp_path / "ours").mkdir()
    ours = written(tmp_path / "ours", codes, largest)
    theirs = by_gdal(tmp_path, codes, largest, located)
    with rasterio.open(ours) as mine, rasterio.open(theirs) as other:
        assert np.array_equal(mine.read(1), codes)
        assert mine.profile == other.profile
        assert mine.tags() == other.tags()
        assert mine.colormap(1) == other.colormap(1)
        assert mine.colorinterp == other.colorinterp
        assert mine.overviews(1) == other.overviews(1)
        structure = other.tags(ns="IMAGE_STRUCTURE")
        structure.pop("OVERVIEW_RESAMPLING", None)  # said since GDAL 3.11, of what GDAL itself made
        assert mine.tags(ns="IMAGE_STRUCTURE") == structure
        assert mine.tags(1, ns="IMAGE_STRUCTURE") == other.tags(1, ns="IMAGE_STRUCTURE")
        assert structure["LAYOUT"] == "COG"
        assert len(mine.overviews(1)) == len(overview_factors(width, height))
    for level, factor in enumerate(overview_factors(width, height)):  # GDAL guesses the factors of very narrow maps
        with rasterio.open(ours, overview_level=level) as mine, rasterio.open(theirs, overview_level=level) as other:
            assert (mine.shape, mine.nodata, mine.dtypes) == (other.shape, other.nodata, other.dtypes)
            assert np.array_equal(mine.read(1), majority(codes, factor))


@pytest.mark.parametrize("place", [located, by_points, nowhere])
def test_the_place_is_the_one_that_gdal_writes(tmp_path: Path, place: object) -> None:
    codes = raster(700, 600)
    (tmp_path / "ours").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        ours, theirs = written(tmp_path / "ours", codes, place=place), by_gdal(tmp_path, codes, 5, place)
        with rasterio.open(ours) as mine, rasterio.open(theirs) as other:
            assert (mine.crs, mine.transform) == (other.crs, other.transform)
            assert [str(point) for point in mine.gcps[0]] == [str(point) for point in other.gcps[0]]
            assert mine.gcps[1] == other.gcps[1]


def majority(codes: Codes, factor: int) -> Codes:
    """The plain way: count each cell."""
    height, width = (-(-side // factor) for side in codes.shape)
    result = np.zeros((height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            cell = codes[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            counts = np.bincount(cell.ravel(), minlength=2)[1:]
            result[row, column] = counts.argmax() + 1 if counts.any() else 0
    return result


def test_equal_counts_give_the_lowest_class_and_no_data_has_no_vote() -> None:
    codes = np.zeros((8, 24), np.uint8)
    codes[:4, :8], codes[4:, :8] = 4, 2  # as many of one as of the other
    codes[0, 8] = 3  # one pixel of 64
    assert most_frequent(class_counts(codes, 5)).tolist() == [[2, 3, 0]]
    assert most_frequent(merged(class_counts(codes, 5))).tolist() == [[2]]


def test_a_cell_full_of_one_class_is_counted_whole() -> None:
    assert class_counts(np.full((16, 8), 5, np.uint8), 5)[4].tolist() == [[64], [64]]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1, 1, 0, 2]])
def test_bands_in_any_order_from_any_thread_give_the_same_bytes(tmp_path: Path, order: list[int]) -> None:
    codes = raster(1500, 1100)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    plain = written(tmp_path / "a", codes, threads=1).read_bytes()
    assert written(tmp_path / "b", codes, order=order, threads=3).read_bytes() == plain


def test_a_wide_map_is_worked_on_in_parts_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = raster(2100, 512)
    whole = encode_band(codes, 5, [8, 32])
    monkeypatch.setattr("products.map_blocks._PART", 512)
    parts = encode_band(codes, 5, [8, 32])
    assert parts.blocks == whole.blocks
    assert np.array_equal(parts.cells, whole.cells)
    assert np.array_equal(parts.counts, whole.counts)
    for one, other in zip(parts.overviews, whole.overviews, strict=True):
        assert np.array_equal(one, other)


def test_overviews_coarser_than_a_band_are_made_of_all_bands(tmp_path: Path) -> None:
    codes = np.ones((1030, 262_144 + 900), np.uint8)
    codes[:, ::3] = 0
    codes[:, 4096 * 2 : 4096 * 2 + 1400] = 4
    codes[600:, 4096 * 3 : 4096 * 3 + 1800] = 3
    path = written(tmp_path, codes)
    with rasterio.open(path, overview_level=4) as coarsest:
        seen = coarsest.read(1)
    assert overview_factors(*codes.shape[::-1]) == [8, 32, 128, 512, 2048]
    assert np.array_equal(seen, majority(codes, 2048))
    assert set(np.unique(seen)) > {1}


def test_a_map_beyond_offsets_of_32_bits_is_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cog, "_LARGEST_CLASSIC", 1000)
    codes = raster(1100, 700)
    path = written(tmp_path, codes)
    assert path.read_bytes()[:4] == b"II+\0"
    with rasterio.open(path) as mapped:
        assert np.array_equal(mapped.read(1), codes)
        assert mapped.overviews(1) == [8]
        assert mapped.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_overviews_stand_before_the_map_and_every_block_says_its_size(tmp_path: Path) -> None:
    path = written(tmp_path, raster(4200, 600))
    raw = path.read_bytes()
    blocks = [({"ovr": 1}, 1, 1), ({"ovr": 0}, 1, 2), ({}, 2, 9)]  # level, rows and columns, in the file's order
    places = []
    with rasterio.open(path) as mapped:
        for level, rows, columns in blocks:
            for row, column in np.ndindex(rows, columns):
                offset, size = (
                    int(mapped.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1, **level))
                    for what in ("OFFSET", "SIZE")
                )
                places.append(offset)
                assert struct.unpack_from("<I", raw, offset - 4)[0] == size
                assert raw[offset + size : offset + size + 4] == raw[offset + size - 4 : offset + size]
    assert places == sorted(places)
    assert offset + size + 4 == len(raw)


def test_what_is_missing_is_not_written(tmp_path: Path) -> None:
    codes = raster(600, 1100)
    with closing(MapBands(600, 1100, 5, tmp_path)) as bands:
        bands.keep(1, bands.make(1, lambda row, count: codes[row : row + count]))
        assert bands.missing == [0, 2]
        with pytest.raises(ValueError, match="2 bands of the map are missing"):
            bands.write(tmp_path / "map.tif", {})
    assert not (tmp_path / "map.tif").exists()


def test_another_file_than_gdals_template_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tif"
    path.write_bytes(b"MM\0*" + bytes(40))
    with pytest.raises(ValueError, match="no little-endian TIFF"):
        cog.tags_of(path)


def test_a_band_that_changed_in_memory_is_made_again(tmp_path: Path) -> None:
    codes = raster(1500, 1100)
    (tmp_path / "plain").mkdir()
    plain = written(tmp_path / "plain", codes).read_bytes()
    with closing(MapBands(1500, 1100, 5, tmp_path)) as bands:
        bands.complete(lambda row, count: codes[row : row + count], 1)
        for number, (array, place) in enumerate([("overviews", 0), ("cells", None), ("counts", None)]):
            kept = bands._kept[number]
            assert kept is not None
            damaged = getattr(kept.band, array)
            (damaged if place is None else damaged[place]).flat[0] ^= 4
        bands.complete(lambda row, count: codes[row : row + count], 1)
        tags = directory_of(tmp_path, TAGS, largest_code=5, colours=COLOURS, add_georeference=located)
        bands.write(tmp_path / "map.tif", tags)
    assert (tmp_path / "map.tif").read_bytes() == plain


def test_a_code_beyond_the_largest_is_refused() -> None:
    with pytest.raises(UnknownClass, match="class code 12 in a map whose largest is 5"):
        encode_band(np.full((8, 8), 12, np.uint8), 5, [])


def test_a_band_is_given_up_between_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("products.map_blocks._PART", 512)
    answers = iter([False, False, True])
    with pytest.raises(Stopped):
        encode_band(raster(2100, 512), 5, [8], lambda: next(answers))
    assert next(answers, None) is None


def test_a_map_of_any_name_lies_beside_another(tmp_path: Path) -> None:
    """GDAL's template takes the place of no map."""
    (tmp_path / "template.tif").write_bytes(b"a map")
    directory_of(tmp_path, TAGS, largest_code=5, colours=COLOURS, add_georeference=located)
    assert (tmp_path / "template.tif").read_bytes() == b"a map"
