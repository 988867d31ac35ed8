"""Reads the folder of a published map back into a row of the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from onboard.files import sha256_file
from onboard.jobs.map_store import MapRow
from onboard.mapping.areas import most_urgent
from onboard.mapping.cog_prefix import prefixes_of

ITEM_FILE: Final = "map.json"
MAP_FILE: Final = "map.tif"
ERASING: Final = ".erasing"
"""Folder below the maps that folders are renamed into before they are removed."""
AREAS: Final = "onboard:areas"
"""Property of the item: what the map shows of the areas of interest."""
DELIVERY: Final = "onboard:delivery"
"""Property of the item that holds what the ledger knew of the scene."""


def map_row_of(folder: Path, *, sequence: int = 0) -> MapRow | None:
    """The row of a map's folder; None where the folder is no whole map.

    Digests of other files are those of the item, held against the files' sizes; the maps themselves are read whole.
    """
    try:
        item = json.loads((folder / ITEM_FILE).read_text(encoding="utf-8"))
        assets = _assets(folder, item)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # A row must not promise bytes that are not there: the ground would fetch them and find the digest wrong.
    if MAP_FILE not in assets or any(sha256_file(folder / name) != assets[name]["sha256"] for name in maps_of(item)):
        return None
    assets[MAP_FILE]["heads"] = prefixes_of(folder / MAP_FILE)
    properties = item["properties"]
    areas = [area.get("priority") for area in properties.get(AREAS, []) if isinstance(area, dict)]
    priority = most_urgent(properties.get(DELIVERY, {}).get("priority", "routine"), *areas)
    return MapRow(id=folder.name, sequence=sequence, priority=priority, assets=assets, item=item)


def maps_of(item: Mapping[str, Any]) -> list[str]:
    """Files of the item that hold classes: the map, and those of further heads."""
    found = (asset for asset in item["assets"].values() if "classification:classes" in asset)
    return [MAP_FILE, *(str(asset["href"]).removeprefix("./") for asset in found if asset["href"] != f"./{MAP_FILE}")]


def _assets(folder: Path, item: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assets: dict[str, dict[str, Any]] = {}
    for asset in item["assets"].values():
        name = str(asset["href"]).removeprefix("./")
        if "/" in name or (folder / name).stat().st_size != asset["file:size"]:
            raise ValueError(name)
        # A multihash in STAC's file extension: 0x12 means SHA-256, 0x20 its 32 bytes.
        assets[name] = {"bytes": asset["file:size"], "sha256": str(asset["file:checksum"]).removeprefix("1220")}
    path = folder / ITEM_FILE
    assets[ITEM_FILE] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return assets
