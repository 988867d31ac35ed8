"""Scenes that another model has begun than the one that maps now: they end with the model that began them."""

from __future__ import annotations

from engines.errors import EngineError
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.scene_store import SceneRow
from onboard.models.active import ActiveModel, folder_of, is_whole
from onboard.settings import Settings

FLYABLE = ("verified", "standby", "active")
JOURNAL = ("canvas", "journal")


def model_under_way(settings: Settings, ledger: Ledger, scene: SceneRow) -> ActiveModel | None:
    """The model that has begun this scene and may end it; None where the scene goes to the model of now.

    That is where its canvas stands, the model is aboard and has not failed, and the options are those of now.
    """
    if not settings.canvases_dir.joinpath(scene.id, *JOURNAL).exists():
        return None
    for row in ledger.models.in_state(*FLYABLE):
        if not is_whole(settings, row):
            continue
        folder = folder_of(settings, row)
        try:
            config = MappingConfig.of(settings, folder).asking(scene.heads)
        except EngineError:
            continue
        # Model and options must be those that the canvas was begun with: its identity has both.
        if config.model == scene.model:
            return ActiveModel(row.id, folder) if config.options == scene.options else None
    return None
