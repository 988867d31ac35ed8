"""Compares the files of a map with their digests, when the ground received them wrong: is the stored map damaged?"""

from __future__ import annotations

import os
from pathlib import Path

from onboard.files import sha256_file
from onboard.jobs.erase import erase_map
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.jobs.published import ITEM_FILE, MAP_FILE
from onboard.settings import Settings


def check_map(settings: Settings, ledger: Ledger, row: MapRow) -> list[str]:
    """Holds a map's files against their digests; gives the names of those that differ or are gone.

    What differs is never planned again, for it would cost the link in every pass. Without map.tif and map.json there
    is no map: its scene has failed, and may be delivered again, unless the ground has the map. Of the other files the
    map does without. Either is an event.

    Raises:
        OSError: a file is there and cannot be read; nothing was decided.
    """
    folder = settings.maps_dir / row.id
    wrong = [name for name, facts in row.assets.items() if _stored_digest(folder / name) != facts["sha256"]]
    if not wrong or ledger.maps.get(row.id) is None:  # erased meanwhile
        return []
    if MAP_FILE not in wrong and ITEM_FILE not in wrong:
        ledger.maps.drop_assets(row.id, wrong)
        ledger.events.log("warning", "map-damaged", f"damaged aboard, no longer offered: {', '.join(wrong)}", row.id)
        return wrong
    erase_map(
        settings, ledger, row,
        problem="its map was damaged aboard before the ground had it",
        event=("error", "map-damaged", f"damaged aboard, the map is erased: {', '.join(wrong)}"),
    )  # fmt: skip
    return wrong


def _stored_digest(path: Path) -> str | None:
    """Of the bytes in storage, not of those in memory, where a bit flips as well; None where there is no file."""
    try:
        with path.open("rb") as file:
            # Advice only: the kernel drops clean pages, and a published map's pages are clean since it was synced.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return sha256_file(path)
    except FileNotFoundError:
        return None
