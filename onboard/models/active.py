"""The model that maps: where its folder is, and the settings that open it.

The shipped model is always there as the last resort: where nothing else is noted, or nothing is whole, it is the one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.manifest import MANIFEST_NAME
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.models.model_files import ModelFiles
from onboard.settings import Settings


@dataclass(frozen=True)
class ActiveModel:
    """A model to open.

    Attributes:
        id: in the ledger; empty where the ledger knows no models.
        folder: of its files; None for the model that the settings name.
    """

    id: str = ""
    folder: Path | None = None

    def settings_for(self, settings: Settings) -> Settings:
        """The settings, with this model as theirs."""
        return settings if self.folder is None else settings.model_copy(update={"model": str(self.folder)})


def model_files(settings: Settings) -> ModelFiles:
    """The folder of models of these settings."""
    return ModelFiles(settings.models_dir, settings.disk_reserve_bytes)


def folder_of(settings: Settings, row: ModelRow) -> Path | None:
    """Folder of a model that came up the link; None for the shipped one, which the settings name."""
    return None if row.origin == "shipped" else model_files(settings).unit(row.id)


def is_whole(settings: Settings, row: ModelRow) -> bool:
    """Whether a model's folder stands; what is in it is checked when it is opened."""
    folder = folder_of(settings, row)
    return folder is None or (folder / MANIFEST_NAME).is_file()


def active_model(settings: Settings, ledger: Ledger) -> ActiveModel:
    """The model that is to map now."""
    # The worker asks between scenes: an activation needs no signal.
    row = ledger.models.active()
    return ActiveModel() if row is None else ActiveModel(row.id, folder_of(settings, row))
