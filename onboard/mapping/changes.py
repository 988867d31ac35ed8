"""What changed since an earlier map on the same grid: chosen, counted for the item, and written as changes.tif.

Each head is compared with the earlier map's raster of the same classes. Where there is no such map, or pixels do not
stay on their ground from scene to scene, the item says why nothing was compared.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine

from engines.manifest import ClassInfo
from onboard.files import sha256_file
from onboard.mapping.canvas import Layer
from onboard.scene.georeference import Georeference
from onboard.scene.storable_crs import storable
from products.change.aligned import AlignedMap
from products.change.coding import LARGEST_CODE, changes_of
from products.change.counting import ChangeCount, rows_of
from products.change.grids import offset_of
from products.classes import MapClass
from products.polygons.place import Place, grid_place
from products.polygons.tiles import Tile

CHANGES: Final = "changes"
"""Property of the item without its prefix, and name of the first head's raster of changes."""
MOST_CLASSES: Final = 64
"""Whose pairs are counted."""
_ROWS: Final = 128
_LEVEL_1: Final = {"gcps": "control points", "rpcs": "rational polynomials"}


@dataclass(frozen=True)
class EarlierMap:
    """A published map that a new one may be compared with.

    Attributes:
        folder: with map.tif.
        item: its STAC item.
    """

    folder: Path
    item: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Of the map."""
        return str(self.item["id"])

    @property
    def time(self) -> str:
        """RFC 3339."""
        return str(self.item["properties"]["datetime"])


def read_earlier_map(folder: Path) -> EarlierMap | None:
    """The map in a folder; None where there is none."""
    try:
        item = json.loads((folder / "map.json").read_text(encoding="utf-8"))
        earlier = EarlierMap(folder, item)
        is_map = bool(earlier.id and earlier.time and item["assets"]["map"]["file:checksum"])
    # A folder that is no map, or whose map is being erased: nothing to compare with, and no failure of the new map.
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return earlier if is_map and (folder / "map.tif").is_file() else None


@dataclass(frozen=True)
class EarlierMaps:
    """Where earlier maps are looked for.

    Attributes:
        find: gives them, the best first, when a map is written.
        key: stands for them in the identity of the new map's files.
        any_time: whether maps of later scenes count too.
    """

    find: Callable[[], Iterable[EarlierMap]]
    key: str
    any_time: bool = False


def changes_file(raster: str) -> str:
    """Name of the file of changes that belongs to a file of classes: changes.tif to map.tif."""
    stem = raster.removesuffix(".tif")
    return f"{CHANGES}.tif" if stem == "map" else f"{stem}-{CHANGES}.tif"


@dataclass(frozen=True)
class NewRaster:
    """The classes of one head of the new map.

    Attributes:
        name: of the head's file without its ending: map for the first.
        classes: its legend.
        layer: its codes.
        sha256: of its file.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    layer: Layer
    sha256: str

    @property
    def changes_name(self) -> str:
        """Of the raster of changes, without its ending."""
        return changes_file(f"{self.name}.tif").removesuffix(".tif")


@dataclass(frozen=True)
class NewMap:
    """The new map as it is compared.

    Attributes:
        georeference: of the map; width, height: pixels.
        time: RFC 3339.
        rasters: of its heads, the first one first.
        model: name and version.
    """

    georeference: Georeference
    width: int
    height: int
    time: str
    rasters: Sequence[NewRaster]
    model: str

    @property
    def crs(self) -> Any:
        """As its file has it."""
        # The earlier map's CRS is read from a GeoTIFF, which holds no heights; the scene's own might never equal it.
        return storable(self.georeference).crs

    @property
    def transform(self) -> Affine | None:
        """Of its grid."""
        return self.georeference.transform


@dataclass(frozen=True)
class HeadChanges:
    """Changes of one head, as they are to be written.

    Attributes:
        raster: of the new map.
        layer: codes of changes, see products.change.coding.
        before: SHA-256 of the earlier map's file.
        facts: for the item.
    """

    raster: NewRaster
    layer: Layer
    before: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class MapChanges:
    """Result of a comparison.

    Attributes:
        heads: that were compared; none where ``reason`` says why.
        facts: of the item's property `onboard:changes`.
    """

    heads: tuple[HeadChanges, ...]
    facts: dict[str, Any]


class _NotCompared(Exception):
    """Why this earlier map is not compared."""


def text_of(facts: Mapping[str, Any] | None) -> str:
    """What the item says of changes in a line for people; empty where nothing was asked."""
    if facts is None:
        return ""
    if facts.get("earlier") is None:
        return f"changes: not compared: {facts.get('reason')}"
    return f"changes: {facts['share_changed']:.2%} of the pixels that {facts['earlier']} has too"


def compare(new: NewMap, earlier: EarlierMaps, folder: Path) -> MapChanges:
    """Compares a map with the first earlier one that lies on its grid and shows some of the same ground.

    Args:
        new: the map.
        earlier: where to look.
        folder: for the layers of changes.

    Raises:
        StorageError: no room for a layer.
    """
    kind = new.georeference.kind
    if kind in _LEVEL_1:
        return _none(
            f"the map is placed by {_LEVEL_1[kind]}, without orthorectification: relief and pointing shift its pixels "
            "by metres to tens of metres from pass to pass, which would count as change"
        )
    if kind != "transform" or new.crs is None:
        return _none("the map has no place on Earth, so no earlier map lies on its grid")
    reasons = []
    for candidate in earlier.find():
        try:
            # A scene may be delivered late: compared with a later one, its changes would run backwards in time.
            if not earlier.any_time and _is_later(candidate.time, new.time):
                continue
            return _compared(new, candidate, folder)
        except _NotCompared as why:
            # Without a text the two show different ground, which needs no explanation in the item.
            if str(why):
                reasons.append(f"{candidate.id}: {why}")
    return _none(reasons[0] if reasons else "no earlier map here shows any of its ground")


def _none(reason: str) -> MapChanges:
    return MapChanges((), {"earlier": None, "reason": reason})


def _compared(new: NewMap, earlier: EarlierMap, folder: Path) -> MapChanges:
    """Compares all heads that both maps have.

    Raises:
        _NotCompared: it cannot be; with no text where the maps show different ground.
    """
    doubts: list[str] = []
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            first_raster, *further = new.rasters
            # Without the first head nothing is compared; a further head that cannot be is a doubt, no more.
            heads = [_compared_head(new, first_raster, earlier, folder)]
            for raster in further:
                head = _compared_or_why(new, raster, earlier, folder)
                if isinstance(head, str):
                    doubts.append(f"{raster.name}: {head}")
                else:
                    heads.append(head)
    # The earlier map may be damaged, or erased by retention in another process while it is read.
    except (OSError, RasterioError, KeyError, TypeError, ValueError) as error:
        raise _NotCompared(f"cannot be read ({type(error).__name__})") from error
    first = heads[0].facts
    facts: dict[str, Any] = {"earlier": earlier.id, "earlier_datetime": earlier.time, **first}
    if len(heads) > 1:
        facts["heads"] = {head.raster.name: head.facts for head in heads[1:]}
    model = earlier.item["properties"].get("onboard:model") or {}
    if (named := f"{model.get('name')} {model.get('version')}") != new.model:
        doubts.append(f"the earlier map is of another model ({named}): what they see differently counts as change")
    return MapChanges(tuple(heads), facts | ({"doubts": doubts} if doubts else {}))


def _compared_or_why(new: NewMap, raster: NewRaster, earlier: EarlierMap, folder: Path) -> HeadChanges | str:
    try:
        return _compared_head(new, raster, earlier, folder)
    except _NotCompared as why:
        return str(why) or "the earlier map has no such head"


def _compared_head(new: NewMap, raster: NewRaster, earlier: EarlierMap, folder: Path) -> HeadChanges:
    asset = earlier.item["assets"].get(raster.name)
    if asset is None or not _same_classes(asset.get("classification:classes", []), raster.classes):
        raise _NotCompared("its classes are others" if _overlaps_box(new, earlier) else "")
    if max(item.code for item in raster.classes) > LARGEST_CODE or len(raster.classes) > MOST_CLASSES:
        raise _NotCompared(f"more than {MOST_CLASSES} classes are not compared")
    path = earlier.folder / f"{raster.name}.tif"
    with rasterio.open(path, driver="GTiff") as dataset:
        offset = offset_of(dataset, new)
        if offset is None:
            raise _NotCompared(
                "its pixels do not lie on those of this map (another CRS, another size of pixels, or parts of a pixel "
                "apart)"
                if _overlaps_box(new, earlier)
                else ""
            )
        aligned = AlignedMap(dataset, offset, new.width)
        if not aligned.overlap(new.height):
            raise _NotCompared("")
        # The digest comes last, since it reads the whole file and most candidates fall out before. It goes into
        # changes.tif: the ground applies the changes to this very file and no other.
        sha256 = sha256_file(path)
        if asset["file:checksum"] != f"1220{sha256}":
            raise _NotCompared("its file is damaged")
        return _written(new, raster, aligned, folder, sha256)


def _written(new: NewMap, raster: NewRaster, earlier: AlignedMap, folder: Path, sha256: str) -> HeadChanges:
    """Writes the layer of changes and counts them."""
    classes = tuple(_map_class(item) for item in raster.classes)
    place: Place = grid_place(new.crs, new.transform, new.width, new.height)
    count = ChangeCount(classes, has_areas=place.equal_area is not None)
    layer = Layer(folder / f"{raster.changes_name}.raw", width=new.width, height=new.height)
    for row in range(0, new.height, _ROWS):
        rows = min(_ROWS, new.height - row)
        before, after = earlier.rows(row, rows), raster.layer.read(row, rows)
        layer.write_rows(row, changes_of(before, after))
        count.add(before, after, place.pixel_areas(Tile(0, row, 0, rows, new.width)))
    layer.sync()
    changes = count.changes()
    facts = {
        "earlier_sha256": sha256,
        "pixels_compared": changes.compared,
        "pixels_changed": changes.changed,
        "share_changed": round(changes.changed / max(1, changes.compared), 6),
        "from_to": [_row(row) for row in rows_of(changes, unchanged=False)],
    }
    return HeadChanges(raster, layer, sha256, facts)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {"from": row["from_name"], "to": row["to_name"], "pixels": row["pixels"], "share": row["share"]}
    return kept if row["area_m2"] is None else kept | {"area_m2": row["area_m2"]}


def _map_class(item: ClassInfo) -> MapClass:
    red, green, blue = bytes.fromhex(item.color.removeprefix("#"))
    return MapClass(item.code, item.title, (red, green, blue, 255))


def _same_classes(described: Sequence[Mapping[str, Any]], classes: Sequence[ClassInfo]) -> bool:
    """Whether an asset's classes are these: codes, names, titles and colours, which stand in the map's file."""
    known = [
        (entry.get("value"), entry.get("name"), entry.get("title"), entry.get("color_hint"))
        for entry in described
        if entry.get("value")
    ]
    return known == [(c.code, c.name, c.title, c.color.removeprefix("#").upper()) for c in classes]


def _is_later(time: str, than: str) -> bool:
    """Whether a map is of a later scene than another; where a time cannot be read, by the text."""
    try:
        # Python 3.10 reads no Z.
        first, second = (datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (time, than))
        is_later = first > second
    except (ValueError, TypeError):
        return time > than
    return is_later


def _overlaps_box(new: NewMap, earlier: EarlierMap) -> bool:
    """Whether the maps may show the same ground, by their boxes in degrees."""
    footprint = new.georeference.footprint(new.width, new.height)
    box = earlier.item.get("bbox")
    if footprint is None or box is None:
        return False
    from onboard.scene.footprint import bbox_of

    mine = bbox_of(footprint)
    west, south, east, north = box[0], box[1], box[-2], box[-1]
    if west > east or mine[0] > mine[2]:  # over the antimeridian
        return bool(mine[1] < north and south < mine[3])
    return bool(mine[0] < east and west < mine[2] and mine[1] < north and south < mine[3])
