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
    """Holds the settings a checkpoint was made under, as JSON, to those of now.

    A setting that only one of them knows is let be, for a version of the program may have more. One that is a single
    value here and a group of values there is known to both.

    Raises:
        CheckpointRefused: they differ in what decides the result.
    """
    differ = [one for one in _differences(told, settings.model_dump(mode="json")) if not _may_differ(one[0])]
    if differ:
        shown = ", ".join(f"{name} was {before} and is {now} now" for name, before, now in differ[:3])
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise CheckpointRefused(
            folder, f"the run in it is of other settings: {shown}{more}", f"{START_AFRESH}; or give its own settings"
        )


def _may_differ(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in MAY_DIFFER)


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of what differs, down through the groups that both have."""
    for name, value in now.items():
        if name not in before:
            continue
        old = before[name]
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _differences(old, value, f"{prefix}{name}.")
        elif value != old:
            yield f"{prefix}{name}", old, value
