"""Checks, by georeference, that a label raster lies where its image lies."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform as warp

from onboard.scene.gdal_env import SCENE_ENV
from onboard.scene.georeference import Georeference, georeference_of

MOST_PIXELS = 1.0
"""Largest offset of a label's corners from its image's: labels made on pixel centres are half a pixel off."""
_DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
Values = NDArray[np.float64]
Places = tuple[Values, Values]


def misplaced(image: Path, label: Path) -> str:
    """What is wrong with a label's position, as text before its image's name; empty where nothing is wrong.

    Files without a geotransform (control points, polynomials or nothing) are assumed to match pixel by pixel.

    Args:
        image: GeoTIFF, or PNG or JPEG with a world file.
        label: likewise, of the same size.
    """
    image_place, label_place = _placed(image), _placed(label)
    if image_place is None or label_place is None:
        return ""
    (ours, width, height), (theirs, _, _) = image_place, label_place
    # The four corners suffice: both places are affine, and sizes were compared before.
    columns, rows = np.array([0.0, width, 0.0, width]), np.array([0.0, 0.0, height, height])
    try:
        corners = _pixels(ours, *_ground(theirs, ours, columns, rows))
    # Places that cannot be compared are not called wrong: then pixels are taken to match one by one.
    except (RasterioError, CPLE_BaseError, np.linalg.LinAlgError):
        return ""  # no way leads from one to the other
    off = np.hypot(corners[0] - columns, corners[1] - rows)
    # `not >`: a corner that no projection reaches is NaN, and is no proof of a mistake.
    if not off.max() > MOST_PIXELS:
        return ""
    # Rows or columns that run the other way are a mistake of their own, and the message names it.
    for flipped, text in (((columns, height - rows), "its rows run the other way than those of"),
                          ((width - columns, rows), "its columns run the other way than those of")):  # fmt: skip
        if np.hypot(corners[0] - flipped[0], corners[1] - flipped[1]).max() <= MOST_PIXELS:
            return f"by its georeferencing {text}"
    return f"by its georeferencing it lies {off.max():,.1f} pixels off"


def _placed(path: Path) -> tuple[Georeference, int, int] | None:
    """Georeferencing, width and height of a file that has a transform."""
    driver = _DRIVERS.get(path.suffix.lower())
    if driver is None:
        return None
    try:
        with warnings.catch_warnings(), rasterio.Env(**SCENE_ENV):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            # The driver is named: a file of another kind under this name must not be opened by guess.
            with rasterio.open(path, driver=driver) as source:
                georeference = georeference_of(source)
                return (georeference, source.width, source.height) if georeference.transform is not None else None
    except (RasterioError, CPLE_BaseError, ValueError):
        return None  # whoever reads its pixels says what is wrong with it


def _ground(theirs: Georeference, ours: Georeference, columns: Values, rows: Values) -> Places:
    """Where pixel corners of one lie, in the coordinates of the other."""
    t = theirs.transform or Affine.identity()
    x, y = t.a * columns + t.b * rows + t.c, t.d * columns + t.e * rows + t.f
    if theirs.crs is None or ours.crs is None or theirs.crs == ours.crs:
        return x, y
    warped = warp(theirs.crs, ours.crs, x.tolist(), y.tolist())
    return np.array(warped[0]), np.array(warped[1])


def _pixels(georeference: Georeference, x: Values, y: Values) -> Places:
    """Columns and rows of places on the ground."""
    # Solved and not inverted: a transform without area is an error here that the caller knows.
    t = georeference.transform or Affine.identity()
    columns, rows = np.linalg.solve([[t.a, t.b], [t.d, t.e]], np.stack([x - t.c, y - t.f]))
    return columns, rows
