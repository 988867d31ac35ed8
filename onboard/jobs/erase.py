"""A scene that nobody wants any more, off the disk."""

from __future__ import annotations

from onboard.jobs.intake import INCOMING, erase_folder
from onboard.jobs.ledger import Ledger, MapRow
from onboard.jobs.published import ERASING
from onboard.settings import Settings


def erase_scene(settings: Settings, ledger: Ledger, scene_id: str) -> None:
    """Removes scene, canvas and map of a cancelled scene from the disk, the map's row first."""
    ledger.remove_map(scene_id)
    erase_folder(settings.maps_dir / scene_id, settings.maps_dir / ERASING)
    erase_folder(settings.scenes_dir / scene_id, settings.scenes_dir / INCOMING)
    erase_folder(settings.canvases_dir / scene_id, settings.scenes_dir / INCOMING)


def erase_map(settings: Settings, ledger: Ledger, row: MapRow, *, problem: str, event: tuple[str, str, str]) -> None:
    """Removes a map, its row first, and tells the event (severity, kind, text).

    Where the ground does not hold the map, its scene has failed by ``problem``.
    """
    if row.delivered is None:
        ledger.lose_map(row.id, f"{problem}; deliver the scene again")
    else:
        ledger.remove_map(row.id)
    ledger.tell(*event, row.id)
    erase_folder(settings.maps_dir / row.id, settings.maps_dir / ERASING)
