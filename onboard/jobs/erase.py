"""What nobody wants any more, off the disk: moved away in the transaction that says so, removed after it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from onboard.jobs.intake import INCOMING, doom_folder
from onboard.jobs.ledger import Ledger, MapRow
from onboard.jobs.published import ERASING
from onboard.settings import Settings


def erase_scene(settings: Settings, ledger: Ledger, scene_id: str) -> bool:
    """Removes file and map of a cancelled scene from the disk, the map's row first.

    False, and nothing is removed, if it is not cancelled: the same bytes may have been delivered again meanwhile. Its
    canvas is the worker's, which may still be at it: see :func:`erase_canvases`.
    """
    doomed: list[Path | None] = []

    def move() -> None:
        doomed.append(doom_folder(settings.maps_dir / scene_id, settings.maps_dir / ERASING))
        doomed.append(doom_folder(settings.scenes_dir / scene_id, settings.scenes_dir / INCOMING))

    if not (ledger.forget_cancelled(scene_id) and ledger.while_in(scene_id, ("cancelled",), move)):
        return False
    _remove(doomed)
    return True


def erase_scene_file(settings: Settings, ledger: Ledger, scene_id: str) -> None:
    """Removes the file of a scene that is mapped; of one in another state it is wanted."""
    doomed: list[Path | None] = []

    def move() -> None:
        doomed.append(doom_folder(settings.scenes_dir / scene_id, settings.scenes_dir / INCOMING))

    ledger.while_in(scene_id, ("mapped",), move)
    _remove(doomed)


def erase_canvases(settings: Settings, ledger: Ledger) -> None:
    """Removes the canvases of scenes that are over; only while nothing is mapped."""
    if not settings.canvases_dir.is_dir():  # who maps takes it away when it is empty
        return
    for folder in settings.canvases_dir.iterdir():
        if ledger.state_of(folder.name) not in ("queued", "running"):
            shutil.rmtree(folder, ignore_errors=True)


def erase_map(
    settings: Settings, ledger: Ledger, row: MapRow, *, problem: str, event: tuple[str, str, str]
) -> bool:
    """Removes this very map and tells the event (severity, kind, text); False if another stands in its place.

    Where the ground does not hold the map, its scene has failed by ``problem``.
    """
    doomed: list[Path | None] = []

    def move() -> None:
        doomed.append(doom_folder(settings.maps_dir / row.id, settings.maps_dir / ERASING))

    if not ledger.drop_map(row, f"{problem}; deliver the scene again"):
        return False
    ledger.tell(*event, row.id)
    # A new attempt of the scene may be under way: then the folder is the attempt's.
    ledger.while_unlisted(row.id, move)
    _remove(doomed)
    return True


def _remove(doomed: Sequence[Path | None]) -> None:
    for folder in doomed:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
