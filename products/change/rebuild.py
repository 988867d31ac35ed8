"""The whole of a map made of an earlier one and `changes.tif`, byte for byte as the satellite wrote it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from products.change.aligned import AlignedMap
from products.change.coding import applied
from products.change.grids import offset_of
from products.cog import Tags
from products.errors import ProductError, ProductRefused
from products.map_file import MapBands, directory_of

BEFORE, AFTER = "BEFORE_SHA256", "AFTER_SHA256"
"""Tags of changes.tif: digests of the map that it is counted from, and of the one that it leads to."""
_ROWS: Final = 512
_WIDEST: Final = 1 << 20
"""Pixels; a file from the link says itself how wide it is."""
_LEFT_FREE: Final = 64 << 20
"""Bytes of the disk that stay free for the map itself and its overviews."""
_OWN_TAGS: Final = re.compile(rf"CLASS_\d+|AREA_OR_POINT|{BEFORE}|{AFTER}")
_CLASS: Final = re.compile(r"CLASS_\d+")
_GDAL: Final[Mapping[str, Any]] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}


class OtherBytes(ProductRefused):
    """What was made has other bytes than aboard: GDAL or Zstandard differ, and so with every other map."""


def rebuild(before: Path, changes: Path, target: Path) -> None:
    """Writes the later map.

    Args:
        before: the earlier map, of the digest that ``changes`` names.
        changes: of the satellite.
        target: of the map, in a folder that exists; not there where this raises.

    Raises:
        ProductRefused: the two do not belong together.
        OtherBytes: what came out is not the satellite's file.
        ProductError: one cannot be read, or the target not be written.
    """
    try:
        with warnings.catch_warnings(), rasterio.Env(**_GDAL):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            _rebuild(before, changes, target)
    except (RasterioError, ValueError, OSError) as error:
        # A file from the link may lack palette, names or georeferencing; the disk may be full.
        raise ProductError(f"{changes}: the map cannot be made of it and {before} ({error})") from error


def _rebuild(before: Path, changes: Path, target: Path) -> None:
    with rasterio.open(before, driver="GTiff") as earlier, rasterio.open(changes, driver="GTiff") as change:
        tags = change.tags()
        # Changes say nothing of unchanged pixels: on any other map than this one they make a wrong one.
        if tags.get(BEFORE) != _sha256(before):
            raise ProductRefused(f"{before}: is not the map that {changes.name} is counted from", "fetch the whole map")
        size = change.width * change.height
        # It is laid out whole beside the target: a small file from the link may say that it has any size.
        # The raster, then its blocks and the map: half a byte or one a pixel each, at most.
        if change.width > _WIDEST or 3 * size > shutil.disk_usage(target.parent).free - _LEFT_FREE:
            raise ProductRefused(
                f"{changes}: {change.width} x {change.height} pixels do not fit", "fetch the whole map"
            )
        offset = offset_of(earlier, change)
        if offset is None:
            raise ProductRefused(f"{changes}: its pixels do not lie on those of {before}", "fetch the whole map")
        # Palette and class names are the earlier map's; changes.tif has its own, of changes.
        palette, names = earlier.colormap(1), {k: v for k, v in earlier.tags().items() if _CLASS.fullmatch(k)}
        largest = max(int(key.removeprefix("CLASS_")) for key in names)
        if largest > np.iinfo(np.uint8).max:
            raise ValueError(f"class {largest} in its names")
        # Beside the target: one rename gives it its name, which works within one file system.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".rebuild-") as folder:
            raw = Path(folder) / "classes.raw"
            _write_raw(AlignedMap(earlier, offset, change.width), change, raw)
            directory = directory_of(
                Path(folder), names | {key: value for key, value in tags.items() if not _OWN_TAGS.fullmatch(key)},
                largest_code=largest, colours=[palette.get(code, (0, 0, 0, 0)) for code in range(256)],
                add_georeference=_georeference_of(change, Path(folder) / "changes.vrt"),
            )  # fmt: skip
            made = Path(folder) / "map.tif"
            # As the satellite does: one byte that differs makes it another file.
            _write_map(raw, made, (change.width, change.height), largest, directory)
            if _sha256(made) != tags.get(AFTER):
                raise OtherBytes(
                    f"{target.name} made of {before} and {changes.name} has other bytes than aboard, as where the "
                    "versions of GDAL or Zstandard differ",
                    "fetch the whole map",
                )
            made.replace(target)


def _write_raw(earlier: AlignedMap, change: Any, raw: Path) -> None:
    with raw.open("wb") as file:
        for row in range(0, change.height, _ROWS):
            count = min(_ROWS, change.height - row)
            codes = change.read(1, window=Window(0, row, change.width, count))
            file.write(applied(earlier.rows(row, count), codes).tobytes())


def _write_map(raw: Path, target: Path, size: tuple[int, int], largest: int, directory: Tags) -> None:
    width, height = size
    classes = np.memmap(raw, dtype=np.uint8, mode="r", shape=(height, width))
    with closing(MapBands(width, height, largest, raw.parent)) as bands:
        bands.complete(lambda row, count: np.asarray(classes[row : row + count]), os.cpu_count() or 1)
        bands.write(target, directory)


def _georeference_of(dataset: Any, vrt: Path) -> Callable[[ET.Element], None]:
    """Adds the georeferencing of an open dataset, as GDAL itself describes it."""
    # GDAL describes it itself: no number is rounded on a way through Python.
    rasterio.shutil.copy(dataset, vrt, driver="VRT")
    described = ET.parse(vrt).getroot()  # noqa: S314 -- GDAL wrote it just now

    def add(root: ET.Element) -> None:
        root.extend(element for element in described if element.tag in ("SRS", "GeoTransform"))

    return add


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
