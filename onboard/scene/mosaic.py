"""A scene delivered in tiles: Airbus DIMAP (DIM_*.XML) and Maxar (*.TIL). Its tiles become one virtual raster.

The virtual raster is written here and never read from a file: whoever could bring one along could name any file of this
machine in it. The tiles are GeoTIFFs below the folder of their description.
"""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine

# Private, but GDAL's errors come raw through it where a file beside a tile is damaged.
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from onboard.errors import SceneRefused
from onboard.scene.dimap import dimap_mosaic
from onboard.scene.gdal_env import SCENE_ENV
from onboard.scene.georeference import Georeference, georeference_of
from onboard.scene.maxar import maxar_mosaic
from onboard.scene.sidecars import check_rasters_beside, sidecars_of
from onboard.scene.tiled_product import Mosaic, Tile
from onboard.scene.valid import mask_of
from onboard.scene.vrt import add_georeference, add_metadata

MOST_TILES = 4096
_LONGEST_DESCRIPTION = 16 << 20
_COLOURS = {"red": "Red", "green": "Green", "blue": "Blue"}


def is_description(path: Path) -> bool:
    """Whether a file's name and beginning say that it describes a scene in tiles."""
    ending = path.suffix.lower()
    if ending == ".til":
        return True
    if ending != ".xml":
        return False
    try:
        with path.open("rb") as file:
            return b"Dimap_Document" in file.read(4096)
    except OSError:
        return False


def names_tiles(path: Path) -> bool:
    """Whether a file is a description of tiles, and no other file of such a product (RPC_*.XML, VOL_*.XML)."""
    if not is_description(path):
        return False
    return path.suffix.lower() == ".til" or b"<Raster_Data" in _beginning(path)


def tile_names(path: Path) -> set[str]:
    """Names of tiles in a description, whether they are there and the description is right or not."""
    matches = re.findall(rb'<DATA_FILE_PATH[^>]*href="([^"]+)"|filename\s*=\s*"([^"]+)"', _beginning(path))
    return {(href or name).decode("utf-8", "replace") for href, name in matches}


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_DESCRIPTION)
    except OSError:
        return b""


def read_mosaic(path: Path) -> Mosaic:
    """Reads a description and checks that its tiles exist.

    Raises:
        SceneRefused: it is damaged or names tiles that are not there or that lie elsewhere.
    """
    try:
        # Before it is parsed: a parser takes several times the file's size in memory.
        if path.stat().st_size > _LONGEST_DESCRIPTION:
            raise SceneRefused(path, f"is longer than {_LONGEST_DESCRIPTION >> 20} MiB", "deliver its own description")
        mosaic = maxar_mosaic(path) if path.suffix.lower() == ".til" else dimap_mosaic(path)
    except (OSError, ValueError, KeyError, ET.ParseError) as error:
        text = " ".join(str(error).split())[:150] or type(error).__name__
        raise SceneRefused(path, f"cannot be understood: {text}", "deliver the product again, whole") from error
    if not 0 < len(mosaic.tiles) <= MOST_TILES:
        raise SceneRefused(path, f"names {len(mosaic.tiles)} tiles", f"give a product of 1 to {MOST_TILES} tiles")
    return mosaic


def files_of(scene: Path) -> list[Path]:
    """The scene's file first, then every other file that its map depends on.

    Raises:
        SceneRefused: as :func:`read_mosaic`.
    """
    # The identity of a canvas has the digest of each: a sidecar that changes makes another scene.
    return read_mosaic(scene).files if is_description(scene) else [scene, *sidecars_of(scene)]


def virtual_raster(mosaic: Mosaic) -> str:
    """The scene as GDAL's XML for a virtual raster.

    Raises:
        SceneRefused: a tile cannot be opened, differs from the others, or the tiles overlap or leave gaps.
    """
    root = ET.Element("VRTDataset", rasterXSize=str(mosaic.width), rasterYSize=str(mosaic.height))
    groups = [[(tile, _opened_facts(mosaic, tile)) for tile in group.tiles] for group in mosaic.groups]
    add_georeference(root, _georeference(mosaic, groups[0]))
    if mosaic.rpcs:
        add_metadata(root, "RPC", mosaic.rpcs)
    if mosaic.acquired:
        add_metadata(root, "IMAGERY", {"ACQUISITIONDATETIME": mosaic.acquired})
    number = 0
    for group, tiles in zip(mosaic.groups, groups, strict=True):
        _check(mosaic, tiles)
        count = int(tiles[0][1]["count"])
        names = group.names if len(group.names) == count else ("",) * count
        for band, name in enumerate(names, 1):
            number += 1
            _add_band(root, number, name, band, tiles)
    return ET.tostring(root, encoding="unicode")


Opened = Sequence[tuple[Tile, Mapping[str, Any]]]


def _opened_facts(mosaic: Mosaic, tile: Tile) -> dict[str, Any]:
    """Size, type, masks, place of a tile. Opened as GeoTIFF and nothing else, so that GDAL opens it as that later."""
    check_rasters_beside(tile.path)
    try:
        with warnings.catch_warnings(), rasterio.Env(**SCENE_ENV):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # The driver is named: a VRT under the name of a tile could have GDAL open any file of this machine.
            with rasterio.open(tile.path, driver="GTiff") as source:
                return {
                    "width": source.width, "height": source.height, "count": source.count, "dtype": source.dtypes[0],
                    "nodata": source.nodata, "colours": [colour.name for colour in source.colorinterp],
                    "masked": [mask_of(source, band) != "none" for band in range(1, source.count + 1)],
                    "georeference": georeference_of(source),
                }  # fmt: skip
    except (RasterioError, CPLE_BaseError, ValueError) as error:
        name = tile.path.name
        raise SceneRefused(mosaic.path, f"its tile {name} cannot be opened: {error}", "deliver it again") from error


def _check(mosaic: Mosaic, tiles: Opened) -> None:
    """All tiles of a group are of one kind and cover the scene, each pixel once."""
    first = tiles[0][1]
    for tile, facts in tiles:
        # By their text: NaN, a usual no-data value of floats, is not equal to itself.
        alike = all(repr(facts[name]) == repr(first[name]) for name in ("count", "dtype", "nodata"))
        right, bottom = tile.col + facts["width"], tile.row + facts["height"]
        if not alike or tile.col < 0 or tile.row < 0 or right > mosaic.width or bottom > mosaic.height:
            raise SceneRefused(
                mosaic.path,
                f"its tile {tile.path.name} ({facts['width']} x {facts['height']} pixels, {facts['count']} bands of "
                f"{facts['dtype']}) does not fit at column {tile.col}, row {tile.row}",
                "deliver the product again, whole",
            )
    _check_cover(mosaic, tiles)


def _check_cover(mosaic: Mosaic, tiles: Opened) -> None:
    """Every pixel is in one tile: a sweep by rows, O(n log n) comparisons; all tiles lie within the scene.

    Raises:
        SceneRefused: names two tiles that overlap, or the first pixel without one.
    """
    # Sums of pixels would not tell: two tiles at one place leave as large a gap elsewhere, which reads as no data.
    starting = sorted(
        (tile.row, tile.col, tile.col + facts["width"], tile.row + facts["height"], tile.path.name)
        for tile, facts in tiles
    )
    ending = sorted((bottom, col) for _, col, _, bottom, _ in starting)
    here: list[tuple[int, int, str]] = []  # tiles in the row at hand, from left to right: column, right, name
    covered = begun = ended = 0
    # Between these rows no tile begins or ends.
    for row in sorted({0, *(tile[0] for tile in starting), *(bottom for bottom, _ in ending)} - {mosaic.height}):
        while ended < len(ending) and ending[ended][0] <= row:
            col, right, _ = here.pop(bisect_left(here, (ending[ended][1],)))
            covered, ended = covered - (right - col), ended + 1
        while begun < len(starting) and starting[begun][0] == row:
            _, col, right, _, name = starting[begun]
            at, begun = bisect_left(here, (col,)), begun + 1
            # Those that are there do not overlap: only its two neighbours can meet the new one.
            for other_col, other_right, other in here[max(0, at - 1) : at + 1]:
                if other_col < right and col < other_right:
                    problem = f"its tiles {other} and {name} overlap at column {max(col, other_col)}, row {row}"
                    raise SceneRefused(mosaic.path, problem, "deliver it again, or join its tiles first: gdalwarp")
            here.insert(at, (col, right, name))
            covered += right - col
        if covered < mosaic.width:
            gap = 0
            for col, right, _ in here:
                if col > gap:
                    break
                gap = right
            problem = f"no tile of it covers column {gap}, row {row}"
            raise SceneRefused(mosaic.path, problem, "deliver the product again, with all its tiles")


def _georeference(mosaic: Mosaic, tiles: Opened) -> Georeference:
    """Of the whole scene: its polynomials, else the place of its first tile."""
    tile, facts = tiles[0]
    georeference: Georeference = facts["georeference"]
    # Beside polynomials no transform is handed on: it would count before them (see Georeference.kind).
    if georeference.transform is None or mosaic.rpcs:
        return Georeference()
    transform = georeference.transform
    left = transform.c - transform.a * tile.col - transform.b * tile.row
    top = transform.f - transform.d * tile.col - transform.e * tile.row
    corner = Affine(transform.a, transform.b, left, transform.d, transform.e, top)
    return Georeference(georeference.crs, corner, epoch=georeference.epoch)


def _add_band(root: ET.Element, number: int, name: str, band: int, tiles: Opened) -> None:
    facts = tiles[0][1]
    kind = {"uint8": "Byte", "int8": "Int8"}.get(facts["dtype"], facts["dtype"].capitalize().replace("Uint", "UInt"))
    element = ET.SubElement(root, "VRTRasterBand", dataType=kind, band=str(number))
    if name:
        ET.SubElement(element, "Description").text = name
    # One tile that marks it is enough: an alpha band that is overlooked makes a map of what is no data.
    colours = {str(facts["colours"][band - 1]) for _, facts in tiles}
    colour = facts["colours"][band - 1] if "alpha" not in colours else "alpha"
    ET.SubElement(element, "ColorInterp").text = _COLOURS.get(name, "Undefined") if name else colour.capitalize()
    if facts["nodata"] is not None:
        ET.SubElement(element, "NoDataValue").text = repr(facts["nodata"])
    _add_sources(element, str(band), tiles)
    masked = [(tile, facts) for tile, facts in tiles if facts["masked"][band - 1]]
    if masked:
        _add_mask(element, band, masked)


def _add_mask(element: ET.Element, band: int, tiles: Opened) -> None:
    """Gives a band of the scene the masks of those of its tiles that have one."""
    # A mask of each band, and not one of the dataset: sets of tiles (Pleiades Neo) have their own, and so may bands.
    mask = ET.SubElement(ET.SubElement(element, "MaskBand"), "VRTRasterBand", dataType="Byte")
    # GDAL gives this value where no source lies. In a tile without a mask all is valid; one taken as a source would be
    # masked by its nodata tag, which is judged in all bands together (ValidRule).
    ET.SubElement(mask, "NoDataValue").text = "255"
    _add_sources(mask, f"mask,{band}", tiles)


def _add_sources(element: ET.Element, band: str, tiles: Opened) -> None:
    for tile, size in tiles:
        source = ET.SubElement(element, "SimpleSource")
        # Absolute: the VRT is a text in memory, and has no folder that paths could count from.
        ET.SubElement(source, "SourceFilename", relativeToVRT="0").text = str(tile.path.absolute())
        ET.SubElement(source, "SourceBand").text = band
        extent = {"xSize": str(size["width"]), "ySize": str(size["height"])}
        ET.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0"} | extent)
        ET.SubElement(source, "DstRect", {"xOff": str(tile.col), "yOff": str(tile.row)} | extent)
