"""A scene that waits for another model, or for other options, is mapped by those of now."""

from __future__ import annotations

from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.scene_store import SceneRow


def retarget_scene(ledger: Ledger, row: SceneRow, config: MappingConfig) -> None:
    """Has a queued scene mapped as ``config`` says, by the heads that it asks for.

    It is cancelled where it is known for that already.
    """
    config = config.asking(row.heads)
    if ledger.scenes.retarget(row.id, config.model, config.options):
        ledger.events.log("info", "scene-retargeted", f"{row.name} will be mapped by the model of now", row.id)
    else:
        ledger.scenes.cancel(row.id)
        ledger.events.log("info", "scene-cancelled", f"{row.name} is here already for the model of now", row.id)
