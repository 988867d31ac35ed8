"""Failures of the active model, and the way back to the last good one."""

from __future__ import annotations

from onboard.jobs.ledger import Ledger
from onboard.jobs.model_store import ModelRow


def count_failure(ledger: Ledger, row: ModelRow, problem: str, limit: int) -> bool:
    """Counts one; at the limit the last good model becomes active, and an event says so. True in that case."""
    if row.state != "active":
        return False
    successor = ledger.models.fail(row.id, problem, limit)
    if successor is None:
        if ledger.models.last_good() is not None:
            text = f"{row.title}: failure {row.failures + 1} of {limit}: {problem}"
            ledger.events.log("warning", "model-failed", text)
        return False
    text = f"{row.title} failed {limit} times in a row ({problem}); {successor.title} is active again"
    ledger.events.log("error", "model-rolled-back", text)
    return True


def count_crash(ledger: Ledger, how: str, limit: int, *, while_opening: bool) -> bool:
    """The worker died: that counts against a model that has not proved itself, or that was being opened."""
    row = ledger.models.active()
    # Once it has mapped a scene, the scene is to blame for a crash (docs/decisions/0015).
    if row is None or (row.has_proved and not while_opening):
        return False
    return count_failure(ledger, row, f"the worker died ({how})", limit)
