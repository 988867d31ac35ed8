"""A scene that nobody wants any more, off the disk."""

from __future__ import annotations

from onboard.jobs.intake import INCOMING, erase_folder
from onboard.jobs.ledger import Ledger
from onboard.jobs.published import ERASING
from onboard.settings import Settings


def erase_scene(settings: Settings, ledger: Ledger, scene_id: str) -> None:
    """Removes scene, canvas and map of a cancelled scene from the disk, the map's row first."""
    ledger.remove_map(scene_id)
    erase_folder(settings.maps_dir / scene_id, settings.maps_dir / ERASING)
    erase_folder(settings.scenes_dir / scene_id, settings.scenes_dir / INCOMING)
    erase_folder(settings.canvases_dir / scene_id, settings.scenes_dir / INCOMING)
