"""A published map's folder, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from onboard.jobs.ledger import MapRow
from onboard.mapping.files import sha256_file
from onboard.mapping.heads import heads_of

ITEM_FILE: Final = "map.json"
MAP_FILE: Final = "map.tif"
ERASING: Final = ".erasing"
"""Folder below the maps that folders are renamed into before they are removed."""
DELIVERY: Final = "onboard:delivery"
"""Property of the item that holds what the ledger knew of the scene."""


def map_row_of(folder: Path, *, sequence: int = 0) -> MapRow | None:
    """The row of a map's folder; None where the folder is no whole map.

    Digests of the larger files are those of the item, held against the files' sizes; the map itself is read whole.
    """
    try:
        item = json.loads((folder / ITEM_FILE).read_text(encoding="utf-8"))
        assets = _assets(folder, item)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if MAP_FILE not in assets or sha256_file(folder / MAP_FILE) != assets[MAP_FILE]["sha256"]:
        return None
    assets[MAP_FILE]["heads"] = heads_of(folder / MAP_FILE)
    priority = item["properties"].get(DELIVERY, {}).get("priority", "routine")
    return MapRow(id=folder.name, sequence=sequence, priority=priority, assets=assets, item=item)


def _assets(folder: Path, item: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for asset in item["assets"].values():
        name = str(asset["href"]).removeprefix("./")
        if "/" in name or (folder / name).stat().st_size != asset["file:size"]:
            raise ValueError(name)
        found[name] = {"bytes": asset["file:size"], "sha256": str(asset["file:checksum"]).removeprefix("1220")}
    path = folder / ITEM_FILE
    found[ITEM_FILE] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return found
