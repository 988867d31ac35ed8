"""Vendors' products made from facts of their formats: scenes in tiles with one set of rational polynomials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.rpc import RPC

Pixels = NDArray[Any]


def linear_rpcs(width: int, height: int) -> RPC:
    """A scene of 1e-5 degrees a pixel about 55 E, 25 N at 300 m; 100 m higher its columns move by 20 pixels."""
    one, longitude, latitude, up = (np.eye(20)[number] for number in range(4))
    return RPC(
        err_bias=0.0, err_rand=0.0,
        line_off=height / 2 - 0.5, samp_off=width / 2 - 0.5, line_scale=height / 2, samp_scale=width / 2,
        long_off=55.0, lat_off=25.0, height_off=300.0,
        long_scale=width / 2 * 1e-5, lat_scale=height / 2 * 1e-5, height_scale=100.0,
        line_num_coeff=(-latitude).tolist(), line_den_coeff=one.tolist(),
        samp_num_coeff=(longitude + 40 / width * up).tolist(), samp_den_coeff=one.tolist(),
    )  # fmt: skip


def write_tiles(folder: Path, pattern: str, pixels: Pixels, side: int, **profile: Any) -> list[tuple[str, int, int]]:
    """Tiles of (bands, h, w) as GeoTIFFs; gives name, row and column number of each."""
    written = []
    for row in range(0, pixels.shape[1], side):
        for column in range(0, pixels.shape[2], side):
            part = pixels[:, row : row + side, column : column + side]
            name = pattern.format(row=row // side + 1, column=column // side + 1)
            shape = {"count": part.shape[0], "height": part.shape[1], "width": part.shape[2]}
            with rasterio.open(folder / name, "w", driver="GTiff", dtype=part.dtype, **shape, **profile) as file:
                file.write(part)
            written.append((name, row // side + 1, column // side + 1))
    return written


def write_dimap(
    folder: Path, pixels: Pixels, side: int, *, rpcs: RPC | None = None, ids: Sequence[str] = ("B2", "B1", "B0"),
    first: int = 1, **profile: Any,
) -> Path:  # fmt: skip
    """A Pleiades product in tiles of ``side``; gives its DIM file. ``first`` is the number of its first pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    tiles = write_tiles(folder, "IMG_PHR1A_MS_001_R{row}C{column}.TIF", pixels, side, **profile)
    bands, height, width = pixels.shape
    files = "".join(
        f'<Data_File tile_R="{row}" tile_C="{column}"><DATA_FILE_PATH href="{name}"/></Data_File>'
        for name, row, column in tiles
    )
    rows = "".join(
        f"<Raster_Index><BAND_ID>{name}</BAND_ID><BAND_INDEX>{number}</BAND_INDEX></Raster_Index>"
        for number, name in enumerate(ids, 1)
    )
    description = folder / "DIM_PHR1A_MS_001.XML"
    model = (
        "<Geoposition><Geoposition_Models><Rational_Function_Model><Component><COMPONENT_TITLE>RPC Model"
        '</COMPONENT_TITLE><COMPONENT_PATH href="RPC_PHR1A_MS_001.XML"/></Component></Rational_Function_Model>'
        "</Geoposition_Models></Geoposition>"
    )
    description.write_text(
        f"""<?xml version="1.0" encoding="UTF-8"?>
<Dimap_Document>
 <Metadata_Identification><METADATA_FORMAT version="2.15">DIMAP</METADATA_FORMAT></Metadata_Identification>
 <Dataset_Sources><Source_Identification><Strip_Source><MISSION>PHR</MISSION><MISSION_INDEX>1A</MISSION_INDEX>
  <IMAGING_DATE>2021-03-04</IMAGING_DATE><IMAGING_TIME>07:08:09.5Z</IMAGING_TIME></Strip_Source>
 </Source_Identification></Dataset_Sources>
 {model if rpcs is not None else ""}
 <Raster_Data>
  <Data_Access><DATA_FILE_FORMAT>image/tiff</DATA_FILE_FORMAT><Data_Files>{files}</Data_Files></Data_Access>
  <Raster_Dimensions><NROWS>{height}</NROWS><NCOLS>{width}</NCOLS><NBANDS>{bands}</NBANDS>
   <Tile_Set><NTILES>{len(tiles)}</NTILES><Regular_Tiling><NTILES_SIZE nrows="{side}" ncols="{side}"/>
    <OVERLAP_ROW>0</OVERLAP_ROW><OVERLAP_COL>0</OVERLAP_COL></Regular_Tiling></Tile_Set></Raster_Dimensions>
  <Raster_Encoding><NBITS>8</NBITS></Raster_Encoding>
  <Raster_Display><Raster_Index_List>{rows}</Raster_Index_List></Raster_Display>
 </Raster_Data>
</Dimap_Document>
""",
        encoding="utf-8",
    )
    if rpcs is not None:
        (folder / "RPC_PHR1A_MS_001.XML").write_text(_dimap_rpcs(rpcs, first, width, height), encoding="utf-8")
    return description


def write_maxar(
    folder: Path, pixels: Pixels, side: int, *, rpcs: RPC | None = None, bands: Sequence[str] = "RGB", **profile: Any
) -> Path:
    """A WorldView product in tiles of ``side``; gives its .TIL file."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "21MAR04070809-M2AS-001_P001"
    tiles = write_tiles(folder, "21MAR04070809-M2AS_R{row}C{column}-001_P001.TIF", pixels, side, **profile)
    height, width = pixels.shape[1:]
    lines = ['bandId = "Multi";', f"numTiles = {len(tiles)};", f"tileSizeX = {side};", f"tileSizeY = {side};"]
    for number, (name, row, column) in enumerate(tiles, 1):
        left, top = (column - 1) * side, (row - 1) * side
        right, bottom = min(left + side, width) - 1, min(top + side, height) - 1
        lines += [
            f"BEGIN_GROUP = TILE_{number}", f'\tfilename = "{name}";',
            f"\tULColOffset = {left};", f"\tULRowOffset = {top};", f"\tURColOffset = {right};",
            f"\tURRowOffset = {top};", f"\tLRColOffset = {right};", f"\tLRRowOffset = {bottom};",
            f"\tLLColOffset = {left};", f"\tLLRowOffset = {bottom};", f"END_GROUP = TILE_{number}",
        ]  # fmt: skip
    (folder / f"{stem}.TIL").write_text("\n".join([*lines, "END;", ""]), encoding="ascii")
    groups = "".join(f"BEGIN_GROUP = BAND_{band}\n\tabsCalFactor = 1.0;\nEND_GROUP = BAND_{band}\n" for band in bands)
    (folder / f"{stem}.IMD").write_text(
        f'version = "28.3";\nbandId = "Multi";\nnumRows = {height};\nnumColumns = {width};\nbitsPerPixel = 8;\n{groups}'
        'BEGIN_GROUP = IMAGE_1\n\tsatId = "WV03";\n\tfirstLineTime = 2021-03-04T07:08:09.500000Z;\n'
        "END_GROUP = IMAGE_1\nEND;\n",
        encoding="ascii",
    )
    if rpcs is not None:
        (folder / f"{stem}.RPB").write_text(_maxar_rpcs(rpcs), encoding="ascii")
    return folder / f"{stem}.TIL"


def _dimap_rpcs(rpcs: RPC, first: int, width: int, height: int) -> str:
    model = "".join(
        f"<{name.upper()}_{number}>{value!r}</{name.upper()}_{number}>"
        for name in ("samp_num_coeff", "samp_den_coeff", "line_num_coeff", "line_den_coeff")
        for number, value in enumerate(getattr(rpcs, name), 1)
    )
    validity = "".join(
        f"<{name.upper()}>{getattr(rpcs, name) + (first if name in ('line_off', 'samp_off') else 0)!r}</{name.upper()}>"
        for name in ("long_scale", "long_off", "lat_scale", "lat_off", "height_scale", "height_off",
                     "samp_scale", "samp_off", "line_scale", "line_off")
    )  # fmt: skip
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Dimap_Document><Rational_Function_Model><Global_RFM>
 <Direct_Model>{model.replace("-1.0", "-9.0")}</Direct_Model><Inverse_Model>{model}</Inverse_Model>
 <RFM_Validity><Direct_Model_Validity_Domain><FIRST_ROW>{first}</FIRST_ROW><FIRST_COL>{first}</FIRST_COL>
  <LAST_ROW>{height}</LAST_ROW><LAST_COL>{width}</LAST_COL></Direct_Model_Validity_Domain>{validity}</RFM_Validity>
</Global_RFM></Rational_Function_Model></Dimap_Document>
"""


def _maxar_rpcs(rpcs: RPC) -> str:
    names = {
        "errBias": "err_bias", "errRand": "err_rand", "lineOffset": "line_off", "sampOffset": "samp_off",
        "latOffset": "lat_off", "longOffset": "long_off", "heightOffset": "height_off", "lineScale": "line_scale",
        "sampScale": "samp_scale", "latScale": "lat_scale", "longScale": "long_scale", "heightScale": "height_scale",
    }  # fmt: skip
    lists = {"lineNumCoef": "line_num_coeff", "lineDenCoef": "line_den_coeff",
             "sampNumCoef": "samp_num_coeff", "sampDenCoef": "samp_den_coeff"}  # fmt: skip
    lines = ['satId = "WV03";', 'bandId = "Multi";', 'SpecId = "RPC00B";', "BEGIN_GROUP = IMAGE"]
    lines += [f"\t{theirs} = {getattr(rpcs, ours)!r};" for theirs, ours in names.items()]
    for theirs, ours in lists.items():
        numbers = ",\n".join(f"\t\t\t{value:.15E}" for value in getattr(rpcs, ours))
        lines.append(f"\t{theirs} = (\n{numbers});")
    return "\n".join([*lines, "END_GROUP = IMAGE", "END;", ""])
