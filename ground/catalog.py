"""A static STAC catalogue of a station's folder: catalog.json and two collections that link to the maps' items.

The items are the satellite's own map.json files, byte for byte, since receipts and later passes hold them to their
digests. So an item does not name its collection; readers that come from a collection know it by that.
Source: STAC 1.1.0, catalog and collection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from ground.folders import ITEM, LAYOUT_FILE, LONGEST_ITEM, MAP, PLAIN, map_folders
from ground.item_table import SUFFIX, write_item_table
from ground.json_text import model_of
from ground.passes import LOG
from ground.transfer import read_small, write_changed

CATALOG: Final = "catalog.json"
LOCATED: Final = "land-cover"
UNLOCATED: Final = "land-cover-unlocated"
"""The ids of the collections, as the service's API has them."""
COLLECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    LOCATED: ("Land-cover maps", "Maps whose place on Earth is known."),
    UNLOCATED: (
        "Land-cover maps without a place",
        "Maps of scenes that cannot be located: their geometry is null, and onboard:geometry_missing says why. The "
        "spatial extent is the whole Earth, since nothing narrower is known.",
    ),
}
OWN_NAMES: Final = frozenset(
    f"{name}{new}"
    for name in (CATALOG, LAYOUT_FILE, LOG, *(f"{each}{end}" for each in COLLECTIONS for end in (".json", SUFFIX)))
    for new in ("", ".new")
)
"""Names beside the maps' folders that are the station's own."""
# RFC 3339. The satellite writes UTC with a Z, so these texts sort by time: see _extent.
_TIME = r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"
Degrees = Annotated[float, Field(ge=-360, le=360)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class _Properties(_Part):
    datetime: Annotated[str, Field(pattern=_TIME)]
    title: Annotated[str, Field(max_length=1000)]


class _Item(_Part):
    """What the catalogue needs of an item."""

    stac_version: str
    geometry: dict[str, Any] | None
    bbox: Annotated[list[Degrees], Field(min_length=4, max_length=4)] | None = None
    properties: _Properties


@dataclass(frozen=True)
class Entry:
    """A map that is here whole.

    Attributes:
        path: of its item.
        title: of its item.
        time: the item's datetime.
        bbox: west, south, east, north in degrees; None where the map has no place.
    """

    path: Path
    title: str
    time: str
    bbox: tuple[float, float, float, float] | None


def write_catalog(folder: Path) -> None:
    """Writes the catalogue of the maps in a station's folder, each file whole; files that would not change stay.

    A folder that never held a map gets none. Maps that have not come whole, and items that are none, are left out.

    Raises:
        AskedWrong: the folder's layout cannot be read.
        OSError: the disk is full or failed.
    """
    entries = list(_entries(folder))
    if not entries and not (folder / CATALOG).exists():
        return
    by_collection = {
        LOCATED: [entry for entry in entries if entry.bbox is not None],
        UNLOCATED: [entry for entry in entries if entry.bbox is None],
    }
    # The collections first: the catalogue links to them.
    for name, members in by_collection.items():
        _write(folder / f"{name}.json", _collection(folder, name, members))
    _write(folder / CATALOG, _catalog())
    for name, members in by_collection.items():
        write_item_table(folder, name, [entry.path for entry in members], located=name == LOCATED)


def _entries(folder: Path) -> list[Entry]:
    entries = []
    for map_folder in map_folders(folder):
        path = map_folder.path / ITEM
        if not PLAIN.fullmatch(map_folder.id) or not path.with_name(MAP).is_file():
            continue
        try:
            item = model_of(_Item, read_small(path, LONGEST_ITEM))
        # One map whose item is odd is left out; the catalogue of the others is worth more.
        except (OSError, ValueError, RecursionError):
            continue
        box = item.bbox if item.geometry is not None else None
        bbox = None if box is None else (box[0], box[1], box[2], box[3])
        entries.append(Entry(path, item.properties.title, item.properties.datetime, bbox))
    return entries


def _write(path: Path, document: dict[str, Any]) -> None:
    write_changed(path, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))


def _catalog() -> dict[str, Any]:
    return {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "ground-station",
        "title": "Land-cover maps of this station",
        "description": "Every map that came whole; `ground pull` writes it anew after each pass.",
        "links": [
            {"rel": "root", "href": f"./{CATALOG}", "type": "application/json"},
            *(
                {"rel": "child", "href": f"./{name}.json", "type": "application/json", "title": title}
                for name, (title, _) in COLLECTIONS.items()
            ),
        ],
    }


def _collection(folder: Path, name: str, entries: Sequence[Entry]) -> dict[str, Any]:
    title, description = COLLECTIONS[name]
    up = [{"rel": rel, "href": f"./{CATALOG}", "type": "application/json"} for rel in ("root", "parent")]
    items = [
        {
            "rel": "item", "href": "./" + quote(entry.path.relative_to(folder).as_posix()),
            "type": "application/geo+json", "title": entry.title,
        }
        for entry in entries
    ]  # fmt: skip
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "title": title,
        "description": description,
        "license": "other",
        "extent": _extent(entries),
        "links": [*up, *items],
    }


def _extent(entries: Sequence[Entry]) -> dict[str, Any]:
    boxes = [entry.bbox for entry in entries if entry.bbox is not None]
    times = sorted(entry.time for entry in entries)
    # Such a box has its west east of its east (RFC 7946, 5.2), and minimum and maximum of both mean nothing.
    if any(box[0] > box[2] for box in boxes):  # one that crosses the antimeridian
        boxes = [(-180.0, box[1], 180.0, box[3]) for box in boxes]
    west, south, east, north = zip(*(boxes or [(-180.0, -90.0, 180.0, 90.0)]), strict=True)
    return {
        "spatial": {"bbox": [[min(west), min(south), max(east), max(north)]]},
        "temporal": {"interval": [[times[0], times[-1]] if times else [None, None]]},
    }
