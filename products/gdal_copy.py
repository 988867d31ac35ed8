"""Rasters that GDAL's COG driver copies, of confidence and of changes: no pixel passes through Python.

They are described to GDAL by a VRT of our own making (raw band, georeferencing, colour table, tags). So is the class
map, of which GDAL writes the directory alone, and products/map_file.py the rest. Files hold no times, so equal rasters
give equal bytes, aboard and on the ground, as long as both have the same GDAL and Zstandard.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import rasterio
import rasterio.shutil
from rasterio.enums import Resampling

from products.map_blocks import overview_factors

# Measured on maps of real scenes: docs/decisions/0002 has the table.
COG_OPTIONS: Mapping[str, str] = {
    "COMPRESS": "ZSTD",
    "LEVEL": "17",
    "BLOCKSIZE": "512",
    "OVERVIEWS": "FORCE_USE_EXISTING",
    "NUM_THREADS": "ALL_CPUS",
    "BIGTIFF": "IF_SAFER",
    "COPY_SRC_MDD": "YES",
}

Colour = tuple[int, ...]
"""Red, green, blue, alpha."""


def describe(
    raw: Path | None,
    size: tuple[int, int],
    tags: Mapping[str, str],
    *,
    colours: Iterable[Colour] | None,
    add_georeference: Callable[[ET.Element], None],
    path: Path | None = None,
) -> Path:
    """Writes a VRT beside a raw raster, or at ``path``, and returns its path.

    Args:
        raw: uint8, row by row; 0 is no data. None for a raster of zeros.
        size: width and height.
        tags: of the dataset.
        colours: by code; None for a raster without a palette.
        add_georeference: adds elements to the VRT's root.
        path: of the VRT; beside the raw raster unless it is given.
    """
    width, height = size
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    add_georeference(root)
    metadata = ET.SubElement(root, "Metadata")
    # Sorted: equal tags give equal bytes, whoever gathered them.
    for key, value in sorted(tags.items()):
        ET.SubElement(metadata, "MDI", key=key).text = value
    band = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band="1")
    ET.SubElement(band, "NoDataValue").text = "0"
    if colours is not None:
        ET.SubElement(band, "ColorInterp").text = "Palette"
        table = ET.SubElement(band, "ColorTable")
        for red, green, blue, alpha in colours:
            ET.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4=str(alpha))
    if raw is not None:
        band.set("subClass", "VRTRawRasterBand")
        ET.SubElement(band, "SourceFilename", relativetoVRT="1").text = raw.name
        for name, bytes_ in (("ImageOffset", 0), ("PixelOffset", 1), ("LineOffset", width)):
            ET.SubElement(band, name).text = str(bytes_)
        path = path or raw.with_suffix(".vrt")
    if path is None:
        raise ValueError("a raster of zeros has no file beside which its description could lie: give a path")
    ET.ElementTree(root).write(path, encoding="utf-8")
    return path


def write_cog(source: Path, target: Path, options: Mapping[str, str], resampling: Resampling) -> None:
    """Copies a described raster into a COG, with overviews where it is large enough for any.

    Raises:
        RasterioError: it cannot be written.
    """
    # EMPTY_DIR, which readers of strange files set, would hide the overviews from the driver.
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE"):
        overviews = {} if build_overviews(source, resampling) else {"OVERVIEWS": "NONE"}
        rasterio.shutil.copy(source, target, driver="COG", **{**options, **overviews})


def build_overviews(source: Path, resampling: Resampling) -> bool:
    """Into a file beside the source, where the COG driver finds them; False where a map is too small for any."""
    source.with_name(source.name + ".ovr").unlink(missing_ok=True)  # of a run that was killed here
    with rasterio.open(source, "r+") as layer, rasterio.Env(COMPRESS_OVERVIEW="LZW", BIGTIFF_OVERVIEW="IF_SAFER"):
        levels = overview_factors(layer.width, layer.height)
        if levels:
            layer.build_overviews(levels, resampling)
    return bool(levels)
