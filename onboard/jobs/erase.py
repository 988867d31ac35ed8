"""Removes files of cancelled scenes and erased maps: renamed within the ledger's transaction, removed after it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from onboard.jobs.intake import INCOMING, move_aside
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.jobs.published import ERASING
from onboard.settings import Settings


def erase_scene(settings: Settings, ledger: Ledger, scene_id: str) -> bool:
    """Removes file and map of a cancelled scene from the disk, the map's row first.

    False, and nothing is removed, if it is not cancelled: the same bytes may have been delivered again meanwhile. Its
    canvas is the worker's, which may still be at it: see :func:`erase_canvases`.
    """
    removed: list[Path | None] = []

    def move() -> None:
        removed.append(move_aside(settings.maps_dir / scene_id, settings.maps_dir / ERASING))
        removed.append(move_aside(settings.scenes_dir / scene_id, settings.scenes_dir / INCOMING))

    # The map's row first: a power cut may leave files without a row, which the next start erases, never the reverse.
    if not (ledger.maps.remove_cancelled(scene_id) and ledger.scenes.while_in(scene_id, ("cancelled",), move)):
        return False
    _remove(removed)
    return True


def erase_scene_file(settings: Settings, ledger: Ledger, scene_id: str) -> None:
    """Removes the file of a scene that is mapped; in another state the file is still needed."""
    removed: list[Path | None] = []

    def move() -> None:
        removed.append(move_aside(settings.scenes_dir / scene_id, settings.scenes_dir / INCOMING))

    # Files are renamed within the transaction and removed after it: removing gigabytes takes seconds, in which no other
    # process could write into the ledger. A kill between the two leaves a temporary for the next start.
    ledger.scenes.while_in(scene_id, ("mapped",), move)
    _remove(removed)


def erase_canvases(settings: Settings, ledger: Ledger) -> None:
    """Removes the canvases of scenes that are over; only while nothing is mapped."""
    if not settings.canvases_dir.is_dir():  # the mapping run removes it when it is empty
        return
    for folder in settings.canvases_dir.iterdir():
        if ledger.scenes.state_of(folder.name) not in ("queued", "running"):
            shutil.rmtree(folder, ignore_errors=True)


def erase_map(settings: Settings, ledger: Ledger, row: MapRow, *, problem: str, event: tuple[str, str, str]) -> bool:
    """Removes this very map and writes the event (severity, kind, text); False if another stands in its place.

    Where the ground does not hold the map, its scene has failed by ``problem``.
    """
    removed: list[Path | None] = []

    def move() -> None:
        removed.append(move_aside(settings.maps_dir / row.id, settings.maps_dir / ERASING))

    if not ledger.maps.drop(row, f"{problem}; deliver the scene again"):
        return False
    ledger.events.log(*event, row.id)
    # A new attempt of the scene may be under way: then the folder is the attempt's.
    ledger.maps.while_unlisted(row.id, move)
    _remove(removed)
    return True


def _remove(folders: Sequence[Path | None]) -> None:
    for folder in folders:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
