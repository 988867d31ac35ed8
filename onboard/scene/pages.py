"""TIFFs of several pages: which one is the scene.

Masks and overviews are pages of the file too, but not of the scene: GDAL lists neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rasterio

from onboard.errors import OptionsRefused, SceneRefused
from onboard.scene.assumption import Assumption

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_MOST_LOOKED_AT = 64


def page_of(first: DatasetReader, path: Path, asked: int | None) -> tuple[int, str | None, tuple[Assumption, ...]]:
    """Which page of a file to map: the one asked for, else the largest.

    Args:
        first: the file as GDAL opens it.
        path: of the file, for the error.
        asked: 1-based.

    Returns:
        Its number, GDAL's name for it (None where it is open already), and what was assumed.

    Raises:
        OptionsRefused: there is no such page.
        SceneRefused: each page holds one band of the scene.
    """
    names = [name for name in first.subdatasets if name.startswith("GTIFF_DIR:")]
    count = max(1, len(names))
    if asked is not None:
        if not 1 <= asked <= count:
            raise OptionsRefused(f"--page {asked}: the file has pages 1 to {count}", "name one of them")
        return asked, None if count == 1 else names[asked - 1], ()
    if count == 1:
        return 1, None, ()
    # Each page is opened for its size, and a file may claim any number of them.
    shapes = [_shape(name) for name in names[:_MOST_LOOKED_AT]]
    sizes = [width * height for width, height, _ in shapes]
    number = sizes.index(max(sizes)) + 1
    width, height, bands = shapes[number - 1]
    # Three and more of one size: bands of one scene that a camera wrote page by page.
    if bands == 1 and shapes.count(shapes[number - 1]) > 2:
        raise SceneRefused(
            path,
            f"has {count} pages of one band each: page by page they are grey pictures",
            "make them bands of one page (gdalbuildvrt -separate, gdal_translate), or map one of them with --page N",
        )
    text = f"the file has {count} pages: page {number} ({width} x {height}, bands: {bands}), the largest, is mapped"
    return number, names[number - 1], (Assumption("pages", text, "--page N"),)


def _shape(name: str) -> tuple[int, int, int]:
    with rasterio.open(name, driver="GTiff") as page:
        return page.width, page.height, page.count
