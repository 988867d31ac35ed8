"""A map's folder as the console shows it: its item is read as text of others, field by field."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from ground.folders import COARSE, ITEM, LONGEST_ITEM, MAP, RECEIPT
from ground.heads import FIRST, Head, heads_of
from ground.json_text import model_of
from ground.transfer import read_small

GUESS_SHARE = 0.2
"""Share of unfamiliar tiles beyond which a map is a guess: as `onboard process` has it (docs/familiarity.md)."""
TOO_COARSE = "enlarged_twofold"
"""Rule of a scene that is too coarse for the model (docs/ground-resolution.md)."""
_MOST_POINTS = 5000
_WIDEST = 180.0
"""Degrees of longitude: a footprint that is wider rather crosses the antimeridian."""
_TITLE = re.compile(r"Land cover of (?P<scene>.+)")
_COLOUR = re.compile(r"[0-9A-Fa-f]{6}")

# Bounds in all of these: an item comes over the link, and a page gets all of what is kept.
Text = Annotated[str, Field(max_length=2000)]


def _or_none(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """A figure of another form than is known costs itself only, not the map's place and legend."""
    try:
        return read(value)
    except ValidationError:
        return None


Share = Annotated[float, Field(ge=0, le=1)]
ShareIfAny = Annotated[Share | None, WrapValidator(_or_none)]
NumberIfAny = Annotated[Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)] | None, WrapValidator(_or_none)]
CountIfAny = Annotated[Annotated[int, Field(ge=0, le=2**53)] | None, WrapValidator(_or_none)]
TextsIfAny = Annotated[Annotated[list[Text], Field(max_length=100)] | None, WrapValidator(_or_none)]
Ring = list[tuple[float, float]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Class(_Part):
    value: int = Field(ge=0, le=255)
    name: Text = ""
    title: Text = ""
    color_hint: Text = ""


class _Cover(_Part):
    value: int = Field(ge=0, le=255)
    share: Share = 0.0
    area_m2: float | None = Field(None, ge=0, le=1e15)


class _Model(_Part):
    name: Text
    version: Text = ""
    sha256: Text = ""
    terms: Text = ""
    heads: TextsIfAny = None


class _FurtherHead(_Part):
    """Of `onboard:heads`: what the other properties say of the first head."""

    cover: list[_Cover] = Field([], alias="class_cover", max_length=256)
    mean_confidence: ShareIfAny = None


class _Familiarity(_Part):
    """`onboard:familiarity`: figures, or the reason why there are none (docs/familiarity.md)."""

    tiles: CountIfAny = None
    tiles_unfamiliar: CountIfAny = None
    share_unfamiliar: ShareIfAny = None
    lowest: ShareIfAny = None
    median: ShareIfAny = None
    threshold: ShareIfAny = None
    unknown: Text = ""


class _Resolution(_Part):
    """`onboard:ground_resolution`: how the scene was read for the model (docs/ground-resolution.md)."""

    rule: Text = ""
    text: Text = ""
    scene_gsd_m: NumberIfAny = None
    read_gsd_m: NumberIfAny = None
    map_gsd_m: NumberIfAny = None
    model_gsd_m: NumberIfAny = None


class _Properties(_Part):
    title: Text = ""
    datetime: Text | None = None
    created: Text | None = None
    gsd: NumberIfAny = None
    datetime_is: Text = Field("", alias="onboard:datetime_is")
    georeferencing: Text = Field("", alias="onboard:georeferencing")
    geometry_missing: Text = Field("", alias="onboard:geometry_missing")
    cover: list[_Cover] = Field([], alias="onboard:class_cover", max_length=256)
    heads: Annotated[dict[str, _FurtherHead] | None, WrapValidator(_or_none)] = Field(None, alias="onboard:heads")
    model: _Model | None = Field(None, alias="onboard:model")
    familiarity: _Familiarity | None = Field(None, alias="onboard:familiarity")
    resolution: _Resolution | None = Field(None, alias="onboard:ground_resolution")
    mean_confidence: ShareIfAny = Field(None, alias="onboard:mean_confidence")
    scene_sha256: Text = Field("", alias="onboard:scene_sha256")
    energy_j: NumberIfAny = Field(None, alias="onboard:energy_j")
    tiles_per_s: NumberIfAny = Field(None, alias="onboard:tiles_per_s")


class _Asset(_Part):
    href: Text = ""
    classes: list[_Class] = Field([], alias="classification:classes", max_length=256)


class _Geometry(_Part):
    type: Text
    coordinates: list[Any]


class _Item(_Part):
    geometry: _Geometry | None = None
    properties: _Properties
    assets: dict[str, _Asset] = Field({}, max_length=100)


@dataclass(frozen=True)
class ClassRow:
    """One class of a map: its code, title, colour as #rrggbb, share of the valid pixels, and area where known."""

    value: int
    title: str
    color: str
    share: float
    area_m2: float | None


@dataclass(frozen=True)
class HeadRecord:
    """One head of a map: its raster and what the classes in it mean.

    Attributes:
        head: its names, and its file.
        classes: of the legend, no data left out.
        mean_confidence: 0 to 1; None where it was not measured.
    """

    head: Head
    classes: tuple[ClassRow, ...] = ()
    mean_confidence: float | None = None


@dataclass(frozen=True)
class MapRecord:
    """One map of the station.

    Attributes:
        id: of the map.
        title: of the item, as text.
        scene: file name of the scene, as the item has it; empty where it has none.
        time_s: UTC seconds of the item's ``datetime``; None where it has none that can be read.
        rings: outer rings of the footprint, (longitude, latitude) in degrees; none where the map has no place. Those
            of a footprint across the antimeridian run on beyond 180 degrees.
        heads: whose classes it has, the first one first; there is always a first.
        state: whole, coarse (only its leading part came), or coming.
        files: sizes in bytes by name, of the files that are here.
        problem: what is wrong with the folder; empty if nothing is.
        facts: further values of the item, for the page's details.
    """

    id: str
    title: str
    scene: str = ""
    time_s: float | None = None
    rings: tuple[Ring, ...] = ()
    heads: tuple[HeadRecord, ...] = (HeadRecord(Head(FIRST, FIRST, MAP)),)
    state: str = "coming"
    files: dict[str, int] = field(default_factory=dict)
    acknowledged: bool = False
    problem: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """West, south, east, north in degrees, east beyond 180 across the antimeridian; None without a place."""
        points = [point for ring in self.rings for point in ring]
        if not points:
            return None
        longitudes, latitudes = [point[0] for point in points], [point[1] for point in points]
        return min(longitudes), min(latitudes), max(longitudes), max(latitudes)

    @property
    def classes(self) -> tuple[ClassRow, ...]:
        """Of the first head."""
        return self.heads[0].classes

    @property
    def raster(self) -> str | None:
        """Name of the file to draw of the first head; None where it is not here."""
        return self.raster_of(self.heads[0].head)

    def raster_of(self, head: Head) -> str | None:
        """Name of the file to draw: the head's, or of the first also the map's coarse beginning; None without."""
        names = (MAP, COARSE) if head.file == MAP else (head.file,)
        return next((name for name in names if name in self.files), None)

    def head_of(self, asset: str) -> HeadRecord | None:
        """The head of this asset, the first by no name; None where there is none."""
        return next((row for row in self.heads if row.head.asset == (asset or FIRST)), None)


def record_of(folder: Path, name: str) -> MapRecord:
    """Reads the folder of the map ``name``; whatever its item holds, there is a record.

    Raises:
        OSError: the folder cannot be read.
    """
    files = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)}
    # By the files alone: an item that cannot be read does not make a map less whole.
    state = "whole" if MAP in files else "coarse" if COARSE in files else "coming"
    known: dict[str, Any] = {"files": files, "state": state, "acknowledged": RECEIPT in files}
    if ITEM not in files:
        return MapRecord(name, name, problem="its description (map.json) has not come yet", **known)
    try:
        return _of_item(name, read_small(folder / ITEM, LONGEST_ITEM), known)
    # Text of others: what it makes Python raise is not for us to foresee, and one map must not stop the console.
    except Exception:  # noqa: BLE001
        return MapRecord(name, name, problem="its description (map.json) cannot be read", **known)


def _of_item(name: str, text: bytes, known: dict[str, Any]) -> MapRecord:
    item = model_of(_Item, text)
    properties = item.properties
    title = properties.title or name
    match = _TITLE.fullmatch(title)
    return MapRecord(
        name, title, scene=match["scene"] if match else "", time_s=_seconds(properties.datetime),
        rings=_rings(item.geometry), heads=_heads(item), facts=_facts(properties), **known,
    )  # fmt: skip


def _facts(properties: _Properties) -> dict[str, Any]:
    names = (
        "datetime", "datetime_is", "created", "gsd", "georeferencing", "geometry_missing", "mean_confidence",
        "scene_sha256", "energy_j", "tiles_per_s",
    )  # fmt: skip
    facts = {name: getattr(properties, name) for name in names}
    for name in ("model", "familiarity", "resolution"):
        part = getattr(properties, name)
        facts[name] = None if part is None else part.model_dump()
    return facts | {"doubts": doubts(properties.familiarity, properties.resolution)}


def doubts(familiarity: _Familiarity | None, resolution: _Resolution | None) -> list[str]:
    """Why the map is a guess, a line each: the rules of docs/familiarity.md and docs/ground-resolution.md."""
    lines = []
    share = None if familiarity is None else familiarity.share_unfamiliar
    if familiarity is not None and share is not None and share > GUESS_SHARE:
        tiles = f"{familiarity.tiles_unfamiliar} of {familiarity.tiles} tiles"
        known = None not in (familiarity.tiles_unfamiliar, familiarity.tiles)
        lines.append(f"unlike anything the model was trained on ({tiles if known else f'{share:.0%} of the tiles'})")
    if resolution is not None and resolution.rule == TOO_COARSE:
        lines.append(resolution.text or "the scene is too coarse for the model, and was enlarged twofold")
    return lines


def _heads(item: _Item) -> tuple[HeadRecord, ...]:
    """Of each asset with classes; of the first also where its asset says none."""
    properties, assets = item.properties, item.assets
    # The first head needs no asset: its raster is map.tif in any item.
    hrefs = {FIRST: ""} | {name: asset.href for name, asset in assets.items() if asset.classes}
    names = properties.model.heads if properties.model is not None else None
    rows = []
    for head in heads_of(hrefs, names or ()):
        further = None if head.asset == FIRST else (properties.heads or {}).get(head.asset, _FurtherHead())
        cover = properties.cover if further is None else further.cover
        sure = properties.mean_confidence if further is None else further.mean_confidence
        rows.append(HeadRecord(head, _legend(assets.get(head.asset), cover), sure))
    return tuple(rows)


def _legend(asset: _Asset | None, covers: list[_Cover]) -> tuple[ClassRow, ...]:
    cover = {row.value: row for row in covers}
    rows = []
    for entry in asset.classes if asset is not None else []:
        if entry.value == 0:
            continue
        row = cover.get(entry.value, _Cover(value=entry.value))
        # It becomes a style on the page: six digits and nothing else.
        colour = entry.color_hint if _COLOUR.fullmatch(entry.color_hint) else "888888"
        title = entry.title or entry.name or str(entry.value)
        rows.append(ClassRow(entry.value, title, f"#{colour.lower()}", row.share, row.area_m2))
    return tuple(rows)


def _seconds(text: str | None) -> float | None:
    try:
        # Python 3.10 does not know the Z.
        stamp = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=timezone.utc)).timestamp()


def _rings(geometry: _Geometry | None) -> tuple[Ring, ...]:
    """Outer rings of a polygon or several; none where it is no geometry on Earth."""
    if geometry is None or geometry.type not in ("Polygon", "MultiPolygon"):
        return ()
    polygons = [geometry.coordinates] if geometry.type == "Polygon" else geometry.coordinates
    try:
        # The first ring of a polygon is its outer one (RFC 7946, 3.1.6); outlines are drawn without holes.
        rings = tuple([(float(x), float(y)) for x, y, *_ in polygon[0]] for polygon in polygons)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return ()
    count = sum(len(ring) for ring in rings)
    is_good = all(abs(x) <= 540 and abs(y) <= 90 for ring in rings for x, y in ring)  # NaN compares false
    return _unwrapped(rings) if is_good and 0 < count <= _MOST_POINTS else ()


def _unwrapped(rings: tuple[Ring, ...]) -> tuple[Ring, ...]:
    """Rings of a footprint across the antimeridian side by side: western longitudes count on from 180.

    RFC 7946 3.1.9 cuts such a footprint in two at the antimeridian; its bounds would span the world.
    """
    goes_around = any({-180.0, 180.0} <= {x for x, _ in ring} for ring in rings)  # about a pole
    moved = tuple([(x + 360 if x < 0 else x, y) for x, y in ring] for ring in rings)
    return moved if _width(rings) > _WIDEST > _width(moved) and not goes_around else rings


def _width(rings: tuple[Ring, ...]) -> float:
    longitudes = [x for ring in rings for x, _ in ring]
    return max(longitudes) - min(longitudes)
