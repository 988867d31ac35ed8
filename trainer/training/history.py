"""What a run goes back to: the facts of the runs that its weights started from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.errors import CheckpointRefused
from trainer.training.checkpoint import read_facts

DISTILLED = "distilled"
"""Facts of the distillation that a kept run's first encoder came from."""
EARLIER = "earlier"
"""Facts of the earlier runs, in each checkpoint: at export their folders may be gone or hold newer weights."""


def history(run: Path) -> list[dict[str, Any]]:
    """Facts of a run and of the runs it started from, the oldest first.

    Raises:
        CheckpointRefused: a run has no checkpoint, or its folder was replaced by a run that started from it.
    """
    return _history(run, frozenset())


def is_finetuning(facts: Mapping[str, Any]) -> bool:
    """Whether these are the facts of a finetuning, not of a distillation."""
    return "model" in facts.get("settings", {})


def earlier_runs(start_from: Path | None, encoder: Path | None) -> list[dict[str, Any]]:
    """Facts of the runs that a new run's weights come from, the oldest first; a distillation is not among them.

    Raises:
        CheckpointRefused: as history.
    """
    if start_from is not None:
        return history(start_from)
    return history(encoder) if encoder is not None and is_finetuning(read_facts(encoder)) else []


def _history(run: Path, seen: frozenset[Path]) -> list[dict[str, Any]]:
    facts = read_facts(run)
    # Without this look a run that replaced the folder it started from would be followed in a circle.
    if (place := run.resolve()) in seen:
        raise CheckpointRefused(
            run, "a later run started from this folder, and stands in it now", "restore the folder of the first run"
        )
    # Checkpoints keep their ancestors' facts. The folders are asked only for runs that were made before that.
    if EARLIER in facts:
        return [*facts[EARLIER], {key: value for key, value in facts.items() if key != EARLIER}]
    earlier = facts["settings"].get("start_from")
    return [*(_history(Path(earlier), seen | {place}) if earlier else []), facts]
