"""A map that arrives wrong at the ground: is it the link, or are the bytes aboard not those that were promised?"""

from __future__ import annotations

import os
from pathlib import Path

from onboard.jobs.erase import erase_map
from onboard.jobs.ledger import Ledger, MapRow
from onboard.jobs.published import ITEM_FILE, MAP_FILE
from onboard.mapping.files import sha256_file
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
    if not wrong or ledger.map(row.id) is None:  # erased meanwhile
        return []
    if MAP_FILE not in wrong and ITEM_FILE not in wrong:
        ledger.drop_assets(row.id, wrong)
        ledger.tell("warning", "map-damaged", f"damaged aboard, no longer offered: {', '.join(wrong)}", row.id)
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
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return sha256_file(path)
    except FileNotFoundError:
        return None
