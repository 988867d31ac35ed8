"""Shares of classes in areas of interest, measured on a finished class raster.

Work and memory are bounded: of an area with more than MOST_SAMPLES pixels every second, third, ... pixel each way
counts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import rasterio.features
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning, ShapeSkipWarning

from engines.manifest import ClassInfo
from onboard.mapping.canvas import Layer
from onboard.scene.area_pixels import PixelPolygon, polygon_area_m2, polygons_on
from onboard.scene.areas import Area
from onboard.scene.ellipsoid import area_m2
from onboard.scene.footprint import Unlocated
from onboard.scene.georeference import Georeference
from onboard.scene.grid import Window

MOST_SAMPLES: Final = 4 << 20
# Cells a side of the mesh that a window's ground is measured on; even, for `area_m2` also takes every second corner.
_MESH = 16
_PRIORITIES = ("urgent", "high", "routine")


@dataclass(frozen=True)
class MapGround:
    """A map whose areas are measured.

    Attributes:
        layer: class codes, 0 where there is no data.
        georeference: of the layer.
        classes: of the model.
        pixels: of each code 0..K, over the whole map.
    """

    layer: Layer
    georeference: Georeference
    classes: tuple[ClassInfo, ...]
    pixels: Sequence[int]


def measure_areas(areas: Sequence[Area], ground: MapGround) -> list[dict[str, Any]]:
    """What the item says of each area that the map shows: name, covered share, shares of its classes.

    ``covered`` is the share of the area on the ground that the map has classes for; ``shares`` are of that part.
    """
    rows = []
    for area in areas:
        try:
            measured = _measured(area, ground)
        # A map without a place, or with no way from degrees to its pixels, shows only areas without a geometry.
        except Unlocated:
            continue
        if measured is not None:
            rows.append(_row(area, ground.classes, *measured))
    return rows


def _row(area: Area, classes: Sequence[ClassInfo], counts: NDArray[np.int64], covered: float) -> dict[str, Any]:
    facts, valid = area.properties, max(1, int(counts[1:].sum()))
    wanted = {name.casefold() for name in facts.classes}
    shares = {
        item.title: round(int(counts[item.code]) / valid, 4)
        for item in classes
        if not wanted or {item.name.casefold(), item.title.casefold()} & wanted
    }
    row: dict[str, Any] = {"name": facts.name, "key": area.key, "covered": round(covered, 4), "shares": shares}
    if facts.priority is not None and 100 * sum(shares.values()) >= facts.priority_percent:
        row["priority"] = facts.priority
    return row


def _measured(area: Area, ground: MapGround) -> tuple[NDArray[np.int64], float] | None:
    """Samples of each code in the area, and the share of it that they cover; None where the map shows none of it."""
    if area.geometry is None:
        # Any place: the whole map was counted already, its raster is not read again.
        counts = np.array(ground.pixels, dtype=np.int64)
        return (counts, counts[1:].sum() / max(1, counts.sum())) if counts[1:].any() else None
    size = ground.layer.width, ground.layer.height
    polygons = area.geometry.polygons
    parts = polygons_on(ground.georeference, size, polygons)
    window = _window(parts, size)
    if window is None:
        return None
    counts, step = _count(parts, window, ground)
    if not counts[1:].any():
        return None
    on_ground = int(counts[1:].sum()) * step**2 * _pixel_m2(ground.georeference, size, window)
    whole = sum(polygon_area_m2(polygon) for polygon in polygons)
    # Samples of a mean pixel size may come to a little more than the whole.
    return counts, min(1.0, on_ground / whole) if whole > 0 else 0.0


def _window(parts: Sequence[PixelPolygon], size: tuple[int, int]) -> Window | None:
    """Pixels that the parts may touch; None where they lie beside the map."""
    if not parts:
        return None
    points = np.concatenate([ring for part in parts for ring in part.rings])
    low = np.clip(np.floor(points.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)), 0, size).astype(int)
    (col, row), (width, height) = low.tolist(), (high - low).tolist()
    return Window(col=col, row=row, width=width, height=height) if width > 0 and height > 0 else None


def _count(parts: Sequence[PixelPolygon], window: Window, ground: MapGround) -> tuple[NDArray[np.int64], int]:
    """Samples of each code inside the parts, and how many pixels lie from one to the next."""
    step = max(1, math.ceil(math.sqrt(window.width * window.height / MOST_SAMPLES)))
    shape = (math.ceil(window.height / step), math.ceil(window.width / step))
    transform = Affine(step, 0, window.col, 0, step, window.row)
    shapes = [{"type": "Polygon", "coordinates": [ring.tolist() for ring in part.rings]} for part in parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        # rasterio warns of parts of which clipping left no area; they hold no sample.
        warnings.simplefilter("ignore", ShapeSkipWarning)
        inside = rasterio.features.rasterize(shapes, out_shape=shape, transform=transform, dtype="uint8").astype(bool)
    # The pixel in the middle of each sample; of the last sample it may lie beyond the map.
    columns = np.minimum(window.col + np.arange(shape[1]) * step + step // 2, ground.layer.width - 1)
    counts = np.zeros(len(ground.classes) + 1, dtype=np.int64)
    # Row by row: memory does not grow with the area.
    for line, mask in enumerate(inside):
        if mask.any():
            row = min(window.row + line * step + step // 2, ground.layer.height - 1)
            codes = ground.layer.read(row, 1)[0, columns[mask]]
            counts += np.bincount(codes, minlength=len(counts))[: len(counts)]
    return counts, step


def _pixel_m2(georeference: Georeference, size: tuple[int, int], window: Window) -> float:
    """Mean area on the ground of the window's pixels."""
    longitudes, latitudes = georeference.places_in(window, _MESH)
    area = area_m2(longitudes, latitudes)
    if math.isfinite(area) and area > 0:
        return area / (window.width * window.height)
    return georeference.pixel_area_m2(*size) or 0.0


def most_urgent(*priorities: str | None) -> str:
    """The most urgent of these; routine where there is none."""
    known = [_PRIORITIES.index(priority) for priority in priorities if priority in _PRIORITIES]
    return _PRIORITIES[min(known)] if known else "routine"
