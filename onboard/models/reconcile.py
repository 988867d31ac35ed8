"""At every start: models in the ledger and their folders are made to agree, and one model is active."""

from __future__ import annotations

from pathlib import Path

from engines.errors import EngineError
from engines.manifest import MANIFEST_NAME, Manifest
from onboard.jobs.highwater import read_mark
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.jobs.timestamps import timestamp
from onboard.models.active import is_whole, model_files
from onboard.models.shipped import files_of, note_shipped
from onboard.settings import Settings


def reconcile_models(settings: Settings, ledger: Ledger) -> None:
    """Notes the shipped model, adopts folders without a row, and restores an activation that the ledger has lost.

    A model whose folder is gone is no more what it was.

    Raises:
        EngineError: the settings' model is not there, or its manifest is damaged.
    """
    folders = []
    if settings.models_dir.is_dir():
        files = model_files(settings)
        files.prepare()
        folders = files.folders()
    # By the supervisor, before its children start: nobody else writes. From here on one model is active.
    note_shipped(settings, ledger)
    for folder in folders:
        _adopt(ledger, folder)
    for row in ledger.models.all():
        if not is_whole(settings, row):
            _lose(ledger, row)
    _activate_again(settings, ledger)


def _adopt(ledger: Ledger, folder: Path) -> None:
    """Only signed files ever become a folder; it is verified again all the same, the folder's name is checked there."""
    if ledger.models.get(folder.name) is not None:
        return
    try:
        manifest = Manifest.load(folder / MANIFEST_NAME)
        files = {file.name: {"sha256": file.sha256, "bytes": file.bytes} for file in files_of(folder / MANIFEST_NAME)}
    except (EngineError, OSError):
        return
    # A folder is named by the digest of its manifest: another one is damage, and no model.
    if files[MANIFEST_NAME]["sha256"] != folder.name:
        return
    row = ModelRow(
        folder.name, 0, manifest.name, manifest.version, "uplink", "received",
        "it was on the disk and not in the ledger; it is verified again", files, received=timestamp(),
    )  # fmt: skip
    ledger.models.adopt(row)
    ledger.events.log("info", "model-adopted", f"{row.title} was on the disk and not in the ledger")


def _activate_again(settings: Settings, ledger: Ledger) -> None:
    """An activation that the high-water mark knows and the ledger does not."""
    # A ledger that fell back to an earlier state has lost the activation; the mark is written beside it.
    number, model_id = read_mark(settings.ledger_path).model
    row, active = ledger.models.get(model_id), ledger.models.active()
    if row is None or active is None or active.id == model_id or active.activated >= number:
        return
    if is_whole(settings, row) and ledger.models.activate(model_id, "the high-water mark knew its activation"):
        text = f"the activation of {row.title} was known to the high-water mark alone"
        ledger.events.log("warning", "ledger-restored", text)


def _lose(ledger: Ledger, row: ModelRow) -> None:
    problem = "its folder is gone from the disk"
    if row.state == "active":
        # With a limit of 0 at once: the last good model maps.
        ledger.models.fail(row.id, problem, 0)
    elif not (row.state == "standby" and ledger.models.retire(row.id, problem)) and not (
        row.state in ("received", "verified") and ledger.models.refuse(row.id, problem)
    ):
        return
    ledger.events.log("error", "model-missing", f"{row.title}: {problem}; push it again")
