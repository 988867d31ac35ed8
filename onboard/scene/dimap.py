"""Airbus products (Pleiades, Pleiades Neo, SPOT 6 and 7): the DIMAP description of tiles R1C1, R1C2, ...

Sources: GDAL's drivers of the format (frmts/dimap, gcore/mdreader/reader_pleiades.cpp) and, for what RPCs count from,
"Pleiades Imagery User Guide" 2.0 (2012): LINE_OFF and SAMP_OFF of the inverse model count pixels from (1, 1).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from onboard.errors import SceneRefused
from onboard.scene.tiled_product import BandGroup, Mosaic, Tile, tile_path

# Bands by their ids. Source: Pleiades and SPOT user guides (B0 to B3), Pleiades Neo user guide (letters).
_BANDS = {
    "B0": "blue", "B1": "green", "B2": "red", "B3": "near infrared", "B": "blue", "G": "green", "R": "red",
    "NIR": "near infrared", "N": "near infrared", "RE": "red edge", "DB": "deep blue", "P": "panchromatic",
}  # fmt: skip
_VALIDITY = ("LINE_OFF", "SAMP_OFF", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF",
             "LINE_SCALE", "SAMP_SCALE", "LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE")  # fmt: skip
_COEFFICIENTS = ("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF")


def dimap_mosaic(path: Path) -> Mosaic:
    """Reads a DIM_*.XML.

    Raises:
        SceneRefused: it describes no tiles, or tiles that overlap or are no GeoTIFFs.
        ValueError, KeyError, ParseError, OSError: it is damaged.
    """
    document = _parsed(path)
    size = document.find("Raster_Data/Raster_Dimensions")
    files = document.findall("Raster_Data/Data_Access/Data_Files")
    if size is None or not files:
        raise SceneRefused(path, "describes no tiles", "give the product's DIM_*.XML")
    tiling = size.find("Tile_Set/Regular_Tiling")
    steps = _steps(path, tiling)
    groups = tuple(BandGroup(_tiles(path, group, steps), _names(document, group, len(files))) for group in files)
    rpc = _rpc_file(path, document)
    return Mosaic(
        path=path,
        width=_whole(size, "NCOLS"),
        height=_whole(size, "NROWS"),
        groups=groups,
        rpcs={} if rpc is None else _rpcs(_parsed(rpc)),
        acquired=_acquired(document),
        beside=() if rpc is None else (rpc,),
    )


def _parsed(path: Path) -> ET.Element:
    """The document without namespaces; one that declares entities is no product's, and could ask for all memory."""
    text = path.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError("it declares entities")
    root = ET.fromstring(text)  # noqa: S314 -- no entities, and no longer than the caller allows
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _whole(parent: ET.Element, name: str) -> int:
    return int(parent.findtext(name, ""))


def _steps(path: Path, tiling: ET.Element | None) -> tuple[int, int]:
    """Columns and rows from a tile to the next; zeros where there is but one."""
    if tiling is None:
        return 0, 0
    overlap = tiling.find("NTILES_OVERLAP")
    overlaps = [tiling.findtext("OVERLAP_COL", "0"), tiling.findtext("OVERLAP_ROW", "0")]
    overlaps += [] if overlap is None else list(overlap.attrib.values())
    if any(int(value or 0) for value in overlaps):
        raise SceneRefused(path, "its tiles overlap", "join them first: gdalwarp")
    extent = tiling.find("NTILES_SIZE")
    if extent is None:
        raise ValueError("NTILES_SIZE is missing")
    return int(extent.attrib["ncols"]), int(extent.attrib["nrows"])


def _tiles(path: Path, group: ET.Element, steps: tuple[int, int]) -> tuple[Tile, ...]:
    tiles = []
    for file in group.findall("Data_File"):
        name = file.find("DATA_FILE_PATH")
        if name is None:
            raise ValueError("a Data_File without a path")
        # Tiles are counted from 1 and are of one size but at the far borders: step and number give the place.
        column, row = int(file.get("tile_C", "1")), int(file.get("tile_R", "1"))
        tiles.append(Tile(tile_path(path, name.attrib["href"]), (column - 1) * steps[0], (row - 1) * steps[1]))
    return tuple(tiles)


def _names(document: ET.Element, group: ET.Element, groups: int) -> tuple[str, ...]:
    """Names of a group's bands in the order of its files; empty where the description has none."""
    rows = group.findall(".//Raster_Index")
    if not rows and groups == 1:
        rows = document.findall(".//Raster_Index")
    ids = {int(row.findtext("BAND_INDEX", "0")): row.findtext("BAND_ID", "").strip() for row in rows}
    names = tuple(_BANDS.get(ids.get(number, ""), "") for number in range(1, len(ids) + 1))
    # One unknown band leaves all unnamed: names in part would be moved by one and called certain.
    return names if all(names) else ()


def _rpc_file(path: Path, document: ET.Element) -> Path | None:
    """As the description names it, else by its own name: RPC_ instead of DIM_. None where it is not there."""
    named = [
        part.attrib["href"]
        for component in document.findall("Geoposition/Geoposition_Models/Rational_Function_Model/*")
        if (part := component.find("COMPONENT_PATH")) is not None and "href" in part.attrib
    ]
    for name in [*named, re.sub(r"^DIM_", "RPC_", path.name, flags=re.IGNORECASE)]:
        # Its last part alone: a path from outside must not lead to other folders.
        candidate = path.parent / Path(name).name
        if candidate != path and candidate.is_file():
            return candidate
    return None


def _rpcs(document: ET.Element) -> dict[str, str]:
    """GDAL's RPC items of the whole scene.

    The model that leads from the ground to the image is wanted. It counts pixels from (1, 1); products since DIMAP 3
    say what their first pixel is.
    """
    root = document.find(".//Global_RFM")
    model = root if root is not None else document.find(".//Rational_Function_Model")
    if model is None:
        raise ValueError("no rational function model")
    values = {element.tag: (element.text or "").strip() for element in model.iter() if len(element) == 0}
    inverse = model.find(".//Inverse_Model")
    to_image = inverse if inverse is not None else model.find(".//GroundtoImage_Values")
    if to_image is None:
        raise ValueError("no model from the ground to the image")
    coefficients = {element.tag: (element.text or "").strip() for element in to_image}
    domain = document.find(".//ImagetoGround_Validity_Domain")
    first_column = float(domain.findtext("FIRST_COL", "1")) if domain is not None else 1.0
    first_row = float(domain.findtext("FIRST_ROW", str(first_column))) if domain is not None else 1.0
    # `float` refuses what is no number here, in one line; `repr` keeps all digits for GDAL.
    items = {name: values[name] for name in _VALIDITY}
    items["LINE_OFF"] = repr(float(values["LINE_OFF"]) - first_row)
    items["SAMP_OFF"] = repr(float(values["SAMP_OFF"]) - first_column)
    for name in _COEFFICIENTS:
        items[name] = " ".join(repr(float(coefficients[f"{name}_{number}"])) for number in range(1, 21))
    return items


def _acquired(document: ET.Element) -> str:
    strip = document.find(".//Strip_Source")
    if strip is None:
        return ""
    date, time = strip.findtext("IMAGING_DATE", "").strip(), strip.findtext("IMAGING_TIME", "").strip()
    match = re.match(r"\d\d:\d\d:\d\d", time)
    return f"{date} {match[0] if match else '00:00:00'}" if re.fullmatch(r"\d{4}-\d\d-\d\d", date) else ""
