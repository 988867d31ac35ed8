"""Checks that the run found in a folder has the settings of the run that is asked for."""

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
"""Settings that may change in a resumed run: device, location of the data, length, and intervals of saves and logs."""


def check_run_identity(folder: Path, stored: Mapping[str, Any], settings: RunSettings) -> None:
    """Compares the settings stored in a checkpoint, as JSON, with the current ones.

    A setting that only one of them has is ignored, since another version of the program may have more settings.

    Raises:
        CheckpointRefused: they differ in a setting that affects the result.
    """
    differences = list(_differences(stored, settings.model_dump(mode="json")))
    # Weights of two settings in one run would be of neither; its card would name the last alone.
    changes = [difference for difference in differences if not _may_differ(difference[0])]
    if changes:
        shown = ", ".join(f"{name} was {before} and is {now} now" for name, before, now in changes[:3])
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise CheckpointRefused(
            folder, f"the run in it is of other settings: {shown}{more}", f"{START_AFRESH}; or give its own settings"
        )


def _may_differ(name: str) -> bool:
    return any(name == allowed or name.startswith(f"{allowed}.") for allowed in MAY_DIFFER)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, old value and new value of each setting that differs, in all nested groups that both have."""
    for name, value in now.items():
        if name not in before:
            continue
        old = before[name]
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _differences(old, value, f"{prefix}{name}.")
        elif value != old:
            yield f"{prefix}{name}", old, value
