"""Whether the run found in a folder is the one that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.config import RunSettings
from trainer.errors import START_AFRESH, CheckpointRefused

MAY_DIFFER = (
    "name", "machine", "tiles", "data.root", "data.memory_mb", "max_minutes", "max_steps", "max_epochs",
    "checkpoint_minutes", "checkpoint_steps", "picture_steps", "log_steps",
)  # fmt: skip
"""Where a run runs, where its data lie, how long it is to go on and how often it tells: no other run for that."""


def check_same_run(folder: Path, told: Mapping[str, Any], settings: RunSettings) -> None:
    """Holds the settings a checkpoint was made under, as JSON, to those of now; what only one of them has is let be.

    Raises:
        CheckpointRefused: they differ in what decides the result.
    """
    before, now = dict(_leaves(told)), dict(_leaves(settings.model_dump(mode="json")))
    differ = [name for name in now if name in before and before[name] != now[name] and not _may_differ(name)]
    if differ:
        shown = ", ".join(f"{name} was {before[name]} and is {now[name]} now" for name in differ[:3])
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise CheckpointRefused(
            folder, f"the run in it is of other settings: {shown}{more}", f"{START_AFRESH}; or give its own settings"
        )


def _may_differ(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in MAY_DIFFER)


def _leaves(told: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
