"""Maps for the page: lists in pages, outlines, one map, its tiles and pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query
from fastapi.params import Path as PathParameter
from fastapi.responses import FileResponse, Response

from ground.console import tiles
from ground.console.index import Query as MapQuery
from ground.console.items import HeadRecord, MapRecord
from ground.console.state import Console, TheConsole
from ground.text import visible

router = APIRouter()
MOST_OUTLINES = 5000
# A minute: tiles are asked for again and again while a map is moved, and a coarse map may become whole.
_CACHE = {"Cache-Control": "private, max-age=60"}
Name = Annotated[str, PathParameter(max_length=128)]
Seconds = Annotated[float | None, Query(ge=-1e12, le=1e12, allow_inf_nan=False)]
HeadName = Annotated[str, Query(max_length=128, description="the asset of a further head")]
Layer = Literal["map", "confidence", "scene"]


@router.get("/api/maps")
def get_maps(
    console: TheConsole,
    begin: Seconds = None,
    end: Seconds = None,
    text: Annotated[str, Query(max_length=200)] = "",
    located: bool | None = None,
    offset: Annotated[int, Query(ge=0, le=10**7)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """A page of maps, the newest first."""
    found = console.maps.find(MapQuery(begin, end, text, located))
    return {"count": len(found), "maps": [_short(record) for record in found[offset : offset + limit]]}


@router.get("/api/outlines")
def get_outlines(
    console: TheConsole, begin: Seconds = None, end: Seconds = None, text: Annotated[str, Query(max_length=200)] = ""
) -> dict[str, Any]:
    """Footprints of the maps with a place: the newest ones, where there are more than a page can draw."""
    found = console.maps.find(MapQuery(begin, end, text, located=True))
    outlines = [
        {
            "id": record.id, "title": record.title, "time_s": record.time_s, "color": _largest(record),
            "drawn": record.raster is not None,
            # Six decimals are 0.1 m.
            "rings": [[[round(x, 6), round(y, 6)] for x, y in ring] for ring in record.rings],
        }
        for record in found[:MOST_OUTLINES]
    ]  # fmt: skip
    times = [record.time_s for record in console.maps.records() if record.time_s is not None]
    return {
        "outlines": outlines, "left_out": max(0, len(found) - MOST_OUTLINES),
        "from_s": min(times, default=None), "to_s": max(times, default=None), "version": console.maps.version,
        "unlocated": len(console.maps.find(MapQuery(located=False))), "all": len(console.maps.records()),
    }  # fmt: skip


@router.get("/api/maps/{name}")
def get_map(name: Name, console: TheConsole) -> dict[str, Any]:
    """One map, with its legend and the maps it may be compared with."""
    record = _known(console, name)
    return {
        **_short(record), "facts": record.facts, "files": record.files,
        "heads": [_head(record, row) for row in record.heads], "has_scene": console.scenes.has(record),
        "overlapping": [_short(other) for other in console.maps.overlapping(record)],
    }  # fmt: skip


@router.get("/api/maps/{name}/quicklook")
def get_quicklook(name: Name, console: TheConsole, head: HeadName = "") -> Response:
    """The map of a head as a picture."""
    record = _known(console, name)
    path = console.maps.path(record, _head_of(record, head).head.quicklook)
    if path is None:
        raise HTTPException(404, "its quicklook has not come yet")
    return FileResponse(path, media_type="image/webp", headers=_CACHE)


@router.get("/api/maps/{name}/pixel")
def get_pixel(
    name: Name,
    console: TheConsole,
    lon: Annotated[float, Query(ge=-540, le=540)],
    lat: Annotated[float, Query(ge=-90, le=90)],
    head: HeadName = "",
) -> dict[str, Any]:
    """Class at a place by a head, and the model's confidence where the map has it; null beside the map."""
    record = _known(console, name)
    row = _head_of(record, head)
    raster, confidence = _raster(console, record, row), console.maps.path(record, row.head.confidence)
    try:
        value = tiles.pixel(raster, lon, lat)
        certainty = None if confidence is None else tiles.pixel(confidence, lon, lat)
    except tiles.NoTile as error:
        raise HTTPException(404, visible(str(error))) from None
    known = next((known for known in row.classes if known.value == value), None)
    return {
        "value": value, "title": None if known is None else known.title,
        "color": None if known is None else known.color,
        # 0 is no data in a raster of confidence.
        "confidence": certainty / 255 if certainty else None,
    }  # fmt: skip


# A plain function, as all that read files here: FastAPI runs it in a thread, and GDAL does not hold up the loop.
@router.get("/tiles/{layer}/{name}/{z}/{x}/{y}.png")
def get_tile(
    layer: Layer,
    name: Name,
    z: Annotated[int, PathParameter(ge=0, le=tiles.MOST_ZOOM)],
    x: Annotated[int, PathParameter(ge=0)],
    y: Annotated[int, PathParameter(ge=0)],
    console: TheConsole,
    head: HeadName = "",
) -> Response:
    """A tile in Web Mercator; 204 where there is nothing to draw."""
    if max(x, y) >= 2**z:
        raise HTTPException(404, f"zoom {z} has {2**z} tiles a side")
    record = _known(console, name)
    path, draw = _drawn(console, record, layer, head)
    try:
        png = draw(path, x, y, z)
    except tiles.NoTile:
        # Beside the map there is nothing to draw, which is no error: browsers write each of those into their console.
        return Response(status_code=204, headers=_CACHE)
    return Response(png, media_type="image/png", headers=_CACHE)


def _drawn(
    console: Console, record: MapRecord, layer: Layer, head: str
) -> tuple[Path, Callable[[Path, int, int, int], bytes]]:
    row = _head_of(record, head)
    if layer == "map":
        return _raster(console, record, row), tiles.class_tile
    if layer == "confidence":
        path, draw = console.maps.path(record, row.head.confidence), tiles.confidence_tile
    else:
        path, draw = console.scenes.of(record), tiles.scene_tile
    if path is None:
        raise HTTPException(404, f"of this map there is no {layer} here")
    return path, draw


def _raster(console: Console, record: MapRecord, row: HeadRecord) -> Path:
    raster = record.raster_of(row.head)
    path = None if raster is None else console.maps.path(record, raster)
    if path is None:
        raise HTTPException(404, "the map itself has not come yet")
    return path


def _known(console: Console, name: str) -> MapRecord:
    record = console.maps.get(name)
    if record is None:
        raise HTTPException(404, "the station holds no map of this name")
    return record


def _head_of(record: MapRecord, asset: str) -> HeadRecord:
    row = record.head_of(asset)
    if row is None:
        raise HTTPException(404, "the map has no head of this name")
    return row


def _head(record: MapRecord, row: HeadRecord) -> dict[str, Any]:
    return {
        "name": row.head.name, "asset": row.head.asset, "drawn": record.raster_of(row.head) is not None,
        "has_confidence": row.head.confidence in record.files, "has_quicklook": row.head.quicklook in record.files,
        "mean_confidence": row.mean_confidence,
        "legend": [known.__dict__ for known in row.classes],
    }  # fmt: skip


def _largest(record: MapRecord) -> str:
    """Colour of the class that covers most."""
    row = max(record.classes, key=lambda row: row.share, default=None)
    return "#888888" if row is None else row.color


def _short(record: MapRecord) -> dict[str, Any]:
    areas = [row.area_m2 for row in record.classes if row.area_m2 is not None]
    return {
        "id": record.id, "title": record.title, "time_s": record.time_s, "state": record.state,
        "bytes": sum(record.files.get(name, 0) for name in _rasters(record)), "bounds": record.bounds,
        "drawn_heads": [
            [row.head.name, row.head.asset] for row in record.heads if record.raster_of(row.head) is not None
        ],
        "area_m2": sum(areas) if areas else None, "acknowledged": record.acknowledged, "problem": record.problem,
        "has_quicklook": record.heads[0].head.quicklook in record.files, "guess": bool(record.facts.get("doubts")),
        "missing_place": record.facts.get("geometry_missing") or "",
    }  # fmt: skip


def _rasters(record: MapRecord) -> set[str]:
    return {name for row in record.heads if (name := record.raster_of(row.head)) is not None}
