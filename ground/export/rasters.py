"""Whole rasters: a Cloud Optimized GeoTIFF of 8 bits and DEFLATE, and a PNG, each with a raster attribute table.

The table lies in NAME.EXT.aux.xml, where GDAL and QGIS look for it: rasterio has no call that writes one.
Source: GDAL's COG and PNG drivers; gdal_rat.h for the numbers of types and usages.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import rasterio.shutil
from rasterio.errors import RasterioIOError

from ground.export.maps import ExportedMap, classes_of, opened
from products.classes import MapClass

COG_OPTIONS: Final[Mapping[str, str]] = {
    "COMPRESS": "DEFLATE",
    "LEVEL": "9",
    # Else GDAL takes over the 4 bits of the map, which is what some readers cannot open.
    "NBITS": "8",
    "BLOCKSIZE": "512",
    # By 2, 4, 8, ...: tile readers ask for each; the map's own begin at 8 to save bytes on the link.
    "OVERVIEWS": "IGNORE_EXISTING",
    # A mean of two codes is the code of a third class.
    "OVERVIEW_RESAMPLING": "MODE",
    "COPY_SRC_MDD": "YES",
    "BIGTIFF": "IF_SAFER",
}
PNG_OPTIONS: Final[Mapping[str, str]] = {"ZLEVEL": "9", "NBITS": "8", "WORLDFILE": "YES"}
_INTEGER, _REAL, _TEXT = 0, 1, 2
# Counts are real numbers: GDAL's integers in this table have 32 bits.
_COLUMNS: Final = (
    ("Value", _INTEGER, 5), ("Count", _REAL, 1), ("Class", _TEXT, 2),
    ("Red", _INTEGER, 6), ("Green", _INTEGER, 7), ("Blue", _INTEGER, 8), ("Alpha", _INTEGER, 9),
)  # fmt: skip
"""Name, type and usage."""


def write_cog8(exported: ExportedMap, target: Path) -> None:
    """Writes the map as a COG that every reader of baseline TIFF and DEFLATE opens.

    Raises:
        GroundError: it cannot be read. RasterioError, OSError: it cannot be written.
    """
    with opened(exported.path) as dataset:
        classes = classes_of(dataset, exported.path)
        rasterio.shutil.copy(dataset, target, driver="COG", **COG_OPTIONS)
    add_attribute_table(target, classes)


def write_png(exported: ExportedMap, target: Path) -> None:
    """Writes the map as a PNG with the map's palette, its place in a world file and in the file of the table.

    Raises:
        GroundError, RasterioError, OSError: see :func:`write_cog8`.
    """
    with opened(exported.path) as dataset:
        classes = classes_of(dataset, exported.path)
        rasterio.shutil.copy(dataset, target, driver="PNG", **PNG_OPTIONS)
    add_attribute_table(target, classes)


def add_attribute_table(target: Path, classes: Sequence[MapClass]) -> None:
    """Adds class names and the table to what GDAL keeps beside the file."""
    path = target.with_name(f"{target.name}.aux.xml")
    try:
        # GDAL wrote it in this process, with its own escapes.
        root = ET.parse(path).getroot() if path.exists() else ET.Element("PAMDataset")  # noqa: S314
    except ET.ParseError as error:  # GDAL reports no error where a full disk cuts this file
        raise RasterioIOError(f"{path.name} was not written whole") from error
    band = root.find("PAMRasterBand[@band='1']")
    if band is None:
        band = ET.SubElement(root, "PAMRasterBand", band="1")
    titles = {item.code: item.title for item in classes}
    names = ET.SubElement(band, "CategoryNames")
    # GDAL takes the position for the code: codes without a class need an empty name.
    for code in range(max(titles) + 1):
        ET.SubElement(names, "Category").text = titles.get(code, "")
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for number, (name, kind, usage) in enumerate(_COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(number))
        for key, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            ET.SubElement(column, key).text = str(value)
    for number, item in enumerate(classes):
        row = ET.SubElement(table, "Row", index=str(number))
        for value in (item.code, item.pixels, item.title, *item.colour):
            ET.SubElement(row, "F").text = str(value)
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8")
