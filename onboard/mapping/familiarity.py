"""Familiarity: how similar a scene's tiles are to the model's training imagery, and its properties in the item.

The engine gives one figure a tile (docs/familiarity.md). It is kept in the journal beside the tile's checksums, so an
interrupted run describes its map as an uninterrupted one does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engines.command_line import counted
from engines.manifest import Manifest

GUESS_SHARE = 0.2
"""Share of a map's tiles that may be unfamiliar: 2 % of tiles of known places are by the threshold's definition, and
some ground is rare anywhere."""
UNFAMILIAR_EXIT = 3
_STEPS = 1_000_000  # of a figure in a record: whole numbers are kept


def recorded(value: float | None) -> int:
    """A figure 0..1 as a journal keeps it; 0 where there is none."""
    return 0 if value is None else 1 + round(min(max(value, 0.0), 1.0) * _STEPS)


@dataclass(frozen=True)
class MapFamiliarity:
    """Of one map.

    Attributes:
        tiles: with a figure.
        unfamiliar: of them, below the model's threshold.
        lowest, median: of the figures; None without any.
        threshold: of the model.
        unknown: why nothing is known; empty where something is.
    """

    tiles: int = 0
    unfamiliar: int = 0
    lowest: float | None = None
    median: float | None = None
    threshold: float | None = None
    unknown: str = ""

    @property
    def share(self) -> float | None:
        """Of the tiles with a figure, the unfamiliar ones; None without any."""
        return self.unfamiliar / self.tiles if self.tiles else None

    @property
    def warning(self) -> str:
        """One line for whoever uses the map; empty where the model knows such ground."""
        if self.share is None or self.share <= GUESS_SHARE:
            return ""
        return (
            "unlike anything the model was trained on: treat this map as a guess "
            f"({self.unfamiliar} of {counted(self.tiles, 'tile')})"
        )

    @property
    def is_known_ground(self) -> bool:
        """Whether there are figures and they do not speak against the map."""
        return self.share is not None and not self.warning

    def exit_code(self, *, strict: bool) -> int:
        """Of a command that made the map: with `strict`, another one than 0 unless the model knows such ground."""
        # Nothing known counts like unfamiliar: who asks for strictness wants to be told that the ground is known.
        return UNFAMILIAR_EXIT if strict and not self.is_known_ground else 0

    def as_json(self) -> dict[str, Any]:
        """The item's property `onboard:familiarity`."""
        if self.unknown:
            return {"unknown": self.unknown}
        return {
            "tiles": self.tiles, "tiles_unfamiliar": self.unfamiliar, "share_unfamiliar": _rounded(self.share),
            "lowest": _rounded(self.lowest), "median": _rounded(self.median), "threshold": self.threshold,
        }  # fmt: skip

    @classmethod
    def from_json(cls, facts: Mapping[str, Any] | None) -> MapFamiliarity:
        """Of an item's property; of a map that is older than it, None, not known."""
        if not facts or "unknown" in facts:
            return cls(unknown=(facts or {}).get("unknown", "the map is older than this figure"))
        return cls(facts["tiles"], facts["tiles_unfamiliar"], facts["lowest"], facts["median"], facts["threshold"])


def map_familiarity(records: Iterable[int], manifest: Manifest) -> MapFamiliarity:
    """Of a finished map.

    Args:
        records: of its tiles, as :func:`recorded` made them.
        manifest: of the model.
    """
    facts = manifest.familiarity
    if facts is None:
        return MapFamiliarity(unknown=f"model {manifest.name} {manifest.version} does not give it")
    # 0 is a tile without a figure: the model saw too little data in it to judge.
    figures = [(record - 1) / _STEPS for record in records if record]
    if not figures:
        return MapFamiliarity(unknown=f"no tile holds data in {facts.least_valid:.0%} of its pixels")
    return MapFamiliarity(
        tiles=len(figures),
        unfamiliar=sum(figure < facts.threshold for figure in figures),
        lowest=min(figures),
        median=statistics.median(figures),
        threshold=facts.threshold,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
