"""Maps of the tiny model for tests of the catalogue and of `ground export`: on a grid, by control points, nowhere."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning

from engines.open import open_engine
from onboard.mapping import run
from onboard.mapping.run import MapRequest, map_scene
from tests.tiny_model import write_model

WIDTH, HEIGHT = 700, 560
CORNERS = [(0, 0, 10.0, 45.0), (0, WIDTH, 10.02, 45.0), (HEIGHT, 0, 10.0, 44.99), (HEIGHT, WIDTH, 10.02, 44.99)]
"""Row, column, longitude, latitude of the control points."""
PLACES: dict[str, dict[str, Any]] = {
    "grid": {"crs": "EPSG:32640", "transform": Affine(2, 0, 3e5, 0, -2, 2.8e6)},
    "points": {"crs": "EPSG:4326", "gcps": [GroundControlPoint(row, col, x, y) for row, col, x, y in CORNERS]},
    "nowhere": {},
    "antimeridian": {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 179.97, 0, -1e-4, 10)},
}


Points = list[tuple[float, float, float, float]]
ON_TWO_ROWS: Points = sorted([*CORNERS, (0, WIDTH / 2, 10.01, 45.0), (HEIGHT, WIDTH / 2, 10.01, 44.99)])
"""The place of the corners by six points, which fix no polynomial of the second order."""
ON_ONE_LINE: Points = [(60 * step, 70 * step, 10 + 0.002 * step, 45 - 0.001 * step) for step in range(7)]


LOCAL = 'LOCAL_CS["site",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
"""A CRS of a building site, from which no way leads to longitude and latitude."""
GEOCENTRIC = "EPSG:4978"


def with_crs(folder: Path, target: Path, crs: str) -> Path:
    """A copy of a map's folder with another CRS."""
    shutil.copytree(folder, target)
    with rasterio.open(target / "map.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.crs = crs
    return target


def with_points(folder: Path, target: Path, points: Points) -> Path:
    """A copy of a map's folder with other control points."""
    shutil.copytree(folder, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(target / "map.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.gcps = [GroundControlPoint(*point) for point in points], "EPSG:4326"
    return target


def write_scene(path: Path, place: dict[str, Any]) -> Path:
    """Broad stripes of noise, so that each class has some area; a border without data."""
    rng = np.random.default_rng(5)
    pixels = np.kron(rng.integers(1, 256, (3, HEIGHT // 20, WIDTH // 20), dtype=np.uint8), np.ones((20, 20), np.uint8))
    pixels[:, :60, :60] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", "GTiff", WIDTH, HEIGHT, 3, dtype="uint8", nodata=0, **place) as file:
            file.write(pixels)
    return path


def make_maps(folder: Path) -> Path:
    """A folder of maps, by the names of PLACES."""
    folder.mkdir(parents=True)
    model = write_model(folder / "model")
    with pytest.MonkeyPatch.context() as patch, open_engine(str(model), backend="onnxruntime") as engine:
        patch.setattr(run, "probe_scene", lambda *_: None)  # a process a scene: its own tests run it
        for name, place in PLACES.items():
            scene = write_scene(folder / f"{name}.tif", place)
            map_scene(MapRequest(scene, folder / "maps", name=name), engine)
    return folder / "maps"
