"""What the items of two maps say of each other: their order in time, and the models that made them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ground.folders import ITEM, LONGEST_ITEM
from ground.transfer import read_small, sha256_of


@dataclass(frozen=True)
class MapFacts:
    """Of one map, as far as its item says.

    Attributes:
        sha256: of map.tif.
        time: of the scene, as the item has it; empty where it has none.
        model: name and version; empty where it names none.
    """

    sha256: str
    time: str
    model: str


def facts_of(path: Path) -> MapFacts:
    """Facts of a map.tif, from the item beside it."""
    try:
        properties = json.loads(read_small(path.with_name(ITEM), LONGEST_ITEM))["properties"]
        model = properties.get("onboard:model") or {}
        named = " ".join(str(model[key]) for key in ("name", "version") if key in model)
        return MapFacts(sha256_of(path), str(properties.get("datetime") or ""), named)
    # Maps are compared without their items, too: times and models are then unknown.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return MapFacts(sha256_of(path), "", "")


def doubts(before: MapFacts, after: MapFacts, **notes: bool) -> list[str]:
    """What speaks against taking every difference for a change on the ground."""
    found = []
    if before.model != after.model:
        found.append(
            f"the maps are of different models ({before.model or 'unknown'}, {after.model or 'unknown'}): "
            "what they see differently counts as change"
        )
    times = [_time(facts.time) for facts in (before, after)]
    if times[0] is not None and times[1] is not None and times[0] > times[1]:
        found.append(f"BEFORE is of {before.time}, later than AFTER ({after.time})")
    if before.sha256 == after.sha256:
        found.append("both are the same map, byte for byte")
    if notes.get("resampled"):
        found.append("AFTER was resampled: borders may be off by half a pixel, which counts as change; try --min-area")
    return found


def _time(text: str) -> Any:
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    # Else the comparison of a time with an offset and one without would raise.
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
