"""Activation of a model: what was checked when it came is checked once more, for other models may map by now."""

from __future__ import annotations

from engines.errors import EngineError, one_line
from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow
from onboard.models.class_tables import check_class_tables, manifest_of
from onboard.models.errors import ModelRefused
from onboard.settings import Settings


def activate(settings: Settings, ledger: Ledger, row: ModelRow, reason: str) -> bool:
    """Makes a model the active one; False, and nothing is changed, where it is in no state to be activated.

    Raises:
        ModelRefused: a head of it has other classes than that of a model that maps; nothing is changed.
    """
    try:
        manifest = manifest_of(settings, row)
    except EngineError as error:
        raise ModelRefused(f"its manifest cannot be read: {one_line(error)}", "push it again") from error
    check_class_tables(settings, ledger, row, manifest)
    return ledger.models.activate(row.id, reason)
