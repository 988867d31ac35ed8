"""Airbus and Maxar products in tiles: one scene, read as GDAL's own drivers of these formats read it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from onboard.errors import SceneRefused
from onboard.scene.decide import SceneOptions
from onboard.scene.georeference import georeference_of
from onboard.scene.grid import Window
from onboard.scene.mosaic import _check, files_of, is_description, read_mosaic
from onboard.scene.probe import probe_scene
from onboard.scene.reader import Scene, open_source
from onboard.scene.tiled_product import Mosaic, Tile
from tests.onboard.scene.products import linear_rpcs, write_dimap, write_maxar

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
WIDTH, HEIGHT, SIDE = 420, 300, 128
PIXELS: NDArray[np.uint8] = np.random.default_rng(1).integers(1, 255, (3, HEIGHT, WIDTH), dtype=np.uint8)
RPCS = linear_rpcs(WIDTH, HEIGHT)
Write = Callable[..., Path]
VENDORS = pytest.mark.parametrize("write", [write_dimap, write_maxar])
DRIVERS = {write_dimap: "DIMAP", write_maxar: "TIL"}


@VENDORS
def test_a_product_in_tiles_is_one_scene_with_the_polynomials_of_the_whole(tmp_path: Path, write: Write) -> None:
    product = write(tmp_path, PIXELS, SIDE, rpcs=RPCS)
    driver = DRIVERS[write]
    probe_scene(product)
    with Scene.open(product) as scene, rasterio.open(product, driver=driver) as oracle:
        assert np.array_equal(scene.read(Window(0, 0, WIDTH, HEIGHT)).pixels, oracle.read())
        assert scene.georeference.rpcs == oracle.rpcs
        assert scene.acquired == "2021-03-04T07:08:09Z"
    assert np.array_equal(PIXELS, rasterio.open(product, driver=driver).read())


@VENDORS
def test_a_window_over_four_tiles_is_that_of_the_whole(tmp_path: Path, write: Write) -> None:
    with Scene.open(write(tmp_path, PIXELS, SIDE)) as scene, scene.reopen() as other:
        window = Window(100, 90, 200, 150)
        assert np.array_equal(other.read(window).pixels, PIXELS[:, window.rows, window.cols])


def write_mask(tile: Path, kind: str) -> None:
    """Masks another part of each tile: inside it, beside it, or in one of its bands alone."""
    with rasterio.open(tile) as file:
        height, width, count = file.height, file.width, file.count
    mask = np.random.default_rng(len(tile.name) + tile.stat().st_size).integers(0, 2, (height, width), np.uint8) * 255
    mask[: height // 3] = 0
    if kind != "one band":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "inside"), rasterio.open(tile, "r+") as file:
            file.write_mask(mask)
        return
    shape = {"width": width, "height": height, "count": count, "dtype": "uint8"}
    with rasterio.open(f"{tile}.msk", "w", driver="GTiff", **shape) as beside:
        beside.write(np.stack([np.full_like(mask, 255)] * (count - 1) + [mask]))
        beside.update_tags(**{f"INTERNAL_MASK_FLAGS_{band}": "0" for band in range(1, count + 1)})


def valid_in(path: Path, window: Window | None = None) -> NDArray[np.bool_]:
    """Of a window, or of the whole. Without collars: these are found in the whole and in a tile at other places."""
    with Scene.open(path, SceneOptions(collar=False)) as scene:
        window = window or Window(0, 0, scene.width, scene.height)
        valid = scene.read(window).valid
        return np.ones((window.height, window.width), bool) if valid is None else valid


def valid_in_tiles(product: Path) -> NDArray[np.bool_]:
    """What the tiles of a product have, each read alone."""
    whole = np.zeros((HEIGHT, WIDTH), bool)
    for tile in read_mosaic(product).tiles:
        part = valid_in(tile.path)
        whole[tile.row : tile.row + part.shape[0], tile.col : tile.col + part.shape[1]] = part
    return whole


@pytest.mark.parametrize("nodata", [None, 77])
@pytest.mark.parametrize("kinds", [("inside",), ("beside",), ("one band",), ("", "inside", "", "beside", "one band")])
@VENDORS
def test_what_the_masks_of_tiles_leave_out_is_no_data(
    tmp_path: Path, write: Write, kinds: tuple[str, ...], nodata: int | None
) -> None:
    # Grey 77 in all bands is no data where a tag says so, 77 in one band is not, in a tile with a mask or without.
    pixels = PIXELS.copy()
    pixels[:, ::9, ::9], pixels[0, 1::9, 1::9] = 77, 77
    product = write(tmp_path, pixels, SIDE, nodata=nodata)
    for number, tile in enumerate(read_mosaic(product).tiles):
        if kind := kinds[number % len(kinds)]:
            write_mask(tile.path, kind)
    valid = valid_in(product)
    assert 0.1 < valid.mean() < 0.9
    assert np.array_equal(valid, valid_in_tiles(product))
    window = Window(100, 90, 200, 150)
    assert np.array_equal(valid_in(product, window), valid[window.rows, window.cols])
    probe_scene(product)


def test_masks_of_one_set_of_tiles_leave_out_its_own_bands_alone(tmp_path: Path) -> None:
    description = pleiades_neo(tmp_path)
    for tile in (tmp_path / "NED").glob("*.TIF"):
        write_mask(tile, "inside")
    with Scene.open(description, SceneOptions(bands=(1, 2, 3))) as scene:
        assert scene.valid_rule == "all valid"
    with Scene.open(description, SceneOptions(bands=(1, 2, 6))) as scene:
        assert scene.valid_rule == "mask"


@pytest.mark.parametrize("marked", ["all tiles", "all but the first"])
def test_an_alpha_band_of_tiles_leaves_out_what_it_does_in_a_tile_alone(tmp_path: Path, marked: str) -> None:
    alpha = np.where(np.indices((HEIGHT, WIDTH)).sum(0) % 5 < 2, 0, 255).astype(np.uint8)
    product = write_maxar(tmp_path, np.concatenate([PIXELS, alpha[None]]), SIDE, photometric="rgb")
    assert len(list(tmp_path.glob("*.TIF"))) == 12
    for tile in read_mosaic(product).tiles[0 if marked == "all tiles" else 1 :]:
        with rasterio.open(tile.path, "r+") as file:
            file.colorinterp = (*file.colorinterp[:3], ColorInterp.alpha)
    assert np.array_equal(valid_in(product), alpha > 0)


@VENDORS
def test_bands_are_found_by_what_the_description_calls_them(tmp_path: Path, write: Write) -> None:
    names: dict[str, Any] = {"ids": ("B0", "B1", "B2")} if write is write_dimap else {"bands": "BGR"}
    with Scene.open(write(tmp_path, PIXELS, SIDE, **names)) as scene:
        assert scene.bands.indexes == (3, 2, 1)
        assert scene.bands.how == "band descriptions"


@VENDORS
def test_an_orthorectified_product_lies_where_its_first_tile_says(tmp_path: Path, write: Write) -> None:
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(2, 0, 3e5, 0, -2, 2.8e6)}
    with open_source(write(tmp_path, PIXELS, SIDE, **place)) as source:
        assert (source.crs, source.transform) == (place["crs"], place["transform"])


@pytest.mark.parametrize("first", [0, 1])
def test_polynomials_count_from_the_products_first_pixel(tmp_path: Path, first: int) -> None:
    product = write_dimap(tmp_path, PIXELS, SIDE, rpcs=RPCS, first=first)
    path = tmp_path / "RPC_PHR1A_MS_001.XML"
    path.write_text(path.read_text().replace("Direct_Model_Validity_Domain", "ImagetoGround_Validity_Domain"))
    with open_source(product) as source:
        assert (source.rpcs.line_off, source.rpcs.samp_off) == (RPCS.line_off, RPCS.samp_off)


def test_a_tile_alone_lies_where_it_lies_in_the_whole(tmp_path: Path) -> None:
    write_dimap(tmp_path, PIXELS, SIDE, rpcs=RPCS)
    with open_source(tmp_path / "IMG_PHR1A_MS_001_R2C3.TIF") as tile:
        alone, rpcs = georeference_of(tile).footprint(tile.width, tile.height), tile.rpcs
    assert (rpcs.line_off, rpcs.samp_off) == (RPCS.line_off - SIDE, RPCS.samp_off - 2 * SIDE)
    assert alone is not None
    corner = min(alone["coordinates"][0], key=lambda point: (round(point[0], 6), -point[1]))
    expected = [55 + (2 * SIDE - WIDTH / 2) * 1e-5, 25 - (SIDE - HEIGHT / 2) * 1e-5]
    assert corner == pytest.approx(expected, abs=2e-7)


def test_a_tile_whose_description_is_missing_has_no_place_rather_than_that_of_the_first_tile(tmp_path: Path) -> None:
    write_dimap(tmp_path, PIXELS, SIDE, rpcs=RPCS).unlink()
    with open_source(tmp_path / "IMG_PHR1A_MS_001_R2C3.TIF") as tile:
        georeference = georeference_of(tile)
    assert georeference.kind == "none"
    assert "DIM_" in georeference.footprint_or_reason(SIDE, SIDE)[1]
    with open_source(tmp_path / "IMG_PHR1A_MS_001_R1C1.TIF") as tile:
        assert georeference_of(tile).rpcs is not None


def pleiades_neo(folder: Path) -> Path:
    """Three bands, then the same three from the last to the first in a second set of tiles, NED."""
    description = write_dimap(folder, PIXELS, SIDE, ids=("R", "G", "B"))
    write_dimap(folder / "NED", PIXELS[::-1], SIDE)
    text = description.read_text()
    start, end = text.index("<Data_Files>"), text.index("</Data_Files>") + len("</Data_Files>")
    second = text[start:end].replace('href="', 'href="NED/')
    description.write_text(text[:end] + second + text[end:])
    return description


def test_pleiades_neo_holds_its_bands_in_two_sets_of_tiles(tmp_path: Path) -> None:
    description = pleiades_neo(tmp_path)
    with open_source(description) as source:
        assert np.array_equal(source.read(), np.concatenate([PIXELS, PIXELS[::-1]]))
    assert sum(path.suffix == ".TIF" for path in files_of(description)) == 2 * 12


@pytest.mark.parametrize("name", ["../IMG.TIF", "/etc/IMG.TIF", "a/../../IMG.TIF", "/vsicurl/http://h/x.tif", "C:x"])
@VENDORS
def test_a_tile_outside_the_products_folder_is_refused(tmp_path: Path, write: Write, name: str) -> None:
    folder = tmp_path / "product"
    product = write(folder, PIXELS, SIDE)
    first = next(folder.glob("*R1C1*.TIF"))
    first.rename(tmp_path / "IMG.TIF")
    product.write_text(product.read_text().replace(first.name, name))
    with pytest.raises(SceneRefused, match="outside its folder"):
        probe_scene(product)


@VENDORS
def test_a_tile_that_is_a_virtual_raster_of_a_strangers_is_refused(tmp_path: Path, write: Write) -> None:
    product = write(tmp_path, PIXELS, SIDE)
    secret = tmp_path / "secret.dat"
    secret.write_bytes(bytes(SIDE * SIDE))
    next(tmp_path.glob("*R1C1*.TIF")).write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><VRTRasterBand dataType="Byte" band="1" '
        f'subClass="VRTRawRasterBand"><SourceFilename>{secret}</SourceFilename></VRTRasterBand></VRTDataset>'
    )
    with pytest.raises(SceneRefused, match=r"its tile .*R1C1.* cannot be read when opened"):
        probe_scene(product)


@VENDORS
def test_a_mask_beside_a_tile_that_is_no_tiff_is_refused(tmp_path: Path, write: Write) -> None:
    product = write(tmp_path, PIXELS, SIDE)
    tile = next(tmp_path.glob("*R2C2*.TIF"))
    tile.with_name(f"{tile.name}.msk").write_text("<VRTDataset/>")
    with pytest.raises(SceneRefused, match=rf"{tile.name}\.msk beside it is no TIFF"):
        Scene.open(product, SceneOptions())


@VENDORS
def test_products_that_are_not_whole_are_refused_in_one_line(tmp_path: Path, write: Write) -> None:
    product = write(tmp_path / "a", PIXELS, SIDE)
    next((tmp_path / "a").glob("*R1C2*.TIF")).unlink()
    with pytest.raises(SceneRefused, match=r"R1C2.* is not there"):
        probe_scene(product)
    product = write(tmp_path / "b", PIXELS, SIDE)
    tile = next((tmp_path / "b").glob("*R1C2*.TIF"))
    write(tmp_path / "c", PIXELS[:, :, :-1], SIDE)
    next((tmp_path / "c").glob("*R1C4*.TIF")).replace(tile)
    with pytest.raises(SceneRefused, match=r"R1C2.* does not fit|no tile of it covers column 163, row 0"):
        probe_scene(product)


def test_tiles_that_lie_on_each_other_are_named_however_many_pixels_they_have_together(tmp_path: Path) -> None:
    """The second would lie over the first, and the other half would count as no data."""
    product = write_maxar(tmp_path, PIXELS[:, :, : 2 * SIDE], SIDE)
    product.write_text(product.read_text().replace(f"ULColOffset = {SIDE};", "ULColOffset = 0;"))
    with pytest.raises(SceneRefused, match=r"its tiles .*R1C1.* and .*R1C2.* overlap at column 0, row 0"):
        probe_scene(product)


def test_tiles_whose_numbers_are_mixed_up_are_named(tmp_path: Path) -> None:
    product = write_dimap(tmp_path, PIXELS[:, : 2 * SIDE, : 2 * SIDE], SIDE)
    product.write_text(product.read_text().replace('tile_R="2" tile_C="2"', 'tile_R="2" tile_C="1"'))
    with pytest.raises(SceneRefused, match=r"its tiles .*R2C[12].* and .*R2C[12].* overlap at column 0, row 128"):
        probe_scene(product)


def test_the_first_pixel_that_no_tile_covers_is_named(tmp_path: Path) -> None:
    product = write_maxar(tmp_path, PIXELS, SIDE)
    text = product.read_text()
    begin, end = text.index("BEGIN_GROUP = TILE_7"), text.index("BEGIN_GROUP = TILE_8")
    product.write_text(text[:begin] + text[end:])
    with pytest.raises(SceneRefused, match=rf"no tile of it covers column {2 * SIDE}, row {SIDE}"):
        probe_scene(product)


Box = tuple[int, int, int, int]


def checked(width: int, height: int, boxes: list[Box], nodata: float | None = None) -> str:
    """What the check says of tiles at (col, row, width, height); empty where they cover the scene."""
    facts = {"count": 1, "dtype": "uint8"}
    tiles = [
        # Each its own number, as from files of their own.
        (Tile(Path(f"{number}.tif"), col, row),
         facts | {"width": wide, "height": high, "nodata": None if nodata is None else float(str(nodata))})
        for number, (col, row, wide, high) in enumerate(boxes)
    ]  # fmt: skip
    try:
        _check(Mosaic(Path("a.TIL"), width, height, (), {}, "", ()), tiles)
    except SceneRefused as error:
        return error.problem
    return ""


def test_tiles_without_data_where_they_are_not_a_number_are_alike() -> None:
    assert checked(20, 10, [(0, 0, 10, 10), (10, 0, 10, 10)], nodata=float("nan")) == ""


@st.composite
def layouts(draw: st.DrawFn) -> list[Box]:
    """A scene of 12 x 10 cut in two again and again; some tiles may then be moved, dropped or doubled."""
    boxes = [(0, 0, 12, 10)]
    for _ in range(draw(st.integers(0, 8))):
        col, row, wide, high = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        across = draw(st.booleans())
        cut = draw(st.integers(1, max(1, (high if across else wide) - 1)))
        if across and high > 1:
            boxes += [(col, row, wide, cut), (col, row + cut, wide, high - cut)]
        elif not across and wide > 1:
            boxes += [(col, row, cut, high), (col + cut, row, wide - cut, high)]
        else:
            boxes.append((col, row, wide, high))
    for _ in range(draw(st.integers(0, 2))):
        col, row, wide, high = boxes[at := draw(st.integers(0, len(boxes) - 1))]
        moved = (draw(st.integers(0, 12 - wide)), draw(st.integers(0, 10 - high)), wide, high)
        boxes[at : at + 1] = draw(st.sampled_from([[moved], [], [(col, row, wide, high), moved]])) or [moved]
    return draw(st.permutations(boxes))


@given(layouts())
def test_tiles_are_taken_just_where_each_pixel_is_in_one(boxes: list[Box]) -> None:
    count = np.zeros((10, 12), int)
    for col, row, wide, high in boxes:
        count[row : row + high, col : col + wide] += 1
    said = checked(12, 10, boxes)
    assert (said == "") == bool((count == 1).all())
    if named := re.fullmatch(r"no tile of it covers column (\d+), row (\d+)", said):
        # The first one: all rows above, and all columns to its left, are covered.
        assert int(named[2]) * 12 + int(named[1]) == int(np.flatnonzero(count == 0)[0])
    elif said:
        assert count.max() > 1
        named = re.fullmatch(r"its tiles (\d+).tif and (\d+).tif overlap at column (\d+), row (\d+)", said)
        assert named is not None
        for number in (named[1], named[2]):
            col, row, wide, high = boxes[int(number)]
            assert col <= int(named[3]) < col + wide
            assert row <= int(named[4]) < row + high


def test_thousands_of_tiles_one_below_the_other_are_compared_with_their_neighbours_alone() -> None:
    compared = 0

    class Column(int):
        def __lt__(self, other: int) -> bool:
            nonlocal compared
            compared += 1
            return int(self) < int(other)

    # Each begins a row below the one to its left: all of them lie in one row, and each begins in a row of its own.
    count = 1000
    boxes: list[Box] = [(Column(at), at, 1, count) for at in range(count)]
    boxes += [(Column(at), 0, 1, at) for at in range(1, count)]
    boxes += [(Column(at), at + count, 1, count - at) for at in range(count)]
    assert checked(count, 2 * count, boxes) == ""
    assert compared < 40 * len(boxes)


def damaged(text: str, how: str) -> str:
    return {
        "entities": text.replace("<Dimap_Document>", '<!DOCTYPE x [<!ENTITY a "b">]><Dimap_Document>'),
        "cut": text[: len(text) // 2],
        "size": text.replace("NCOLS>420", "NCOLS>many"),
        "overlap": text.replace("OVERLAP_COL>0", "OVERLAP_COL>8"),
        "tiles": text.replace("Data_File", "Other_File"),
        "jpeg 2000": text.replace(".TIF", ".JP2"),
    }[how]


@pytest.mark.parametrize("how", ["entities", "cut", "size", "overlap", "tiles", "jpeg 2000"])
def test_damaged_descriptions_are_refused_in_one_line(tmp_path: Path, how: str) -> None:
    product = write_dimap(tmp_path, PIXELS, SIDE)
    product.write_text(damaged(product.read_text(), how))
    with pytest.raises(SceneRefused) as caught:
        probe_scene(product)
    assert "\n" not in str(caught.value)


def test_other_xml_is_no_description(tmp_path: Path) -> None:
    other = tmp_path / "scene.xml"
    other.write_text("<isd/>")
    assert not is_description(other)
    with pytest.raises(SceneRefused, match="is not a TIFF"):
        probe_scene(other)


@VENDORS
def test_every_file_of_a_product_belongs_to_its_scene(tmp_path: Path, write: Write) -> None:
    product = write(tmp_path, PIXELS, SIDE, rpcs=RPCS)
    files: list[Any] = files_of(product)
    assert files[0] == product
    assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()}
