"""Hooks of a mapping run: whether the next batch may begin, whether the engine is sound, and reports of the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

StageTimer = Callable[[str, float], None]
"""Called with a stage ("read", "infer" or "write") and its seconds for one batch, on the thread of that stage."""


class StopPolicy:
    """Decides before each batch whether the run goes on; this one never stops it."""

    def before_batch(self) -> None:
        """Called on the engine's thread before each batch; may wait.

        Raises:
            MappingStopped: the run ends here; finished tiles are kept and the same request continues.
        """


class EngineHealth:
    """Checks of an engine while it works; called on the engine's thread.

    Where a run has one, the engine is checked after the last tile too, and when a check or the engine fails, the tiles
    inferred since the last good check are mapped again.
    """

    def note_tiles(self, count: int, shape: tuple[int, int]) -> None:
        """Called before each batch with its number of tiles and their height and width.

        Raises:
            EngineError: the engine no longer computes what it did when it was opened.
        """

    def check_due(self) -> bool:
        """Whether the engine is to be checked before the next batch."""
        return False

    def check(self) -> None:
        """Checks the engine's answer and its constants.

        Raises:
            EngineError: it no longer computes what it did when it was opened.
        """

    # Apart from `check_due`: by the service's defaults a scrub, which compares memory (0.1 s), is due every ten
    # seconds, and a check, which is an inference, every 128 tiles (docs/radiation.md).
    def scrub_due(self) -> bool:
        """Whether the engine's constants in memory are to be compared before the next batch."""
        return False

    def scrub(self) -> None:
        """Compares the engine's constants in memory with those of its opening.

        Raises:
            ConstantsChanged: they differ.
        """


class MapObserver:
    """Takes reports of a run of `map_scene`, and adds to what the map's item says; this one only logs."""

    def repaired(self, kind: str, text: str) -> None:
        """Stored data were found changed and are made again; ``kind`` is the event's: "canvas-damaged", ..."""
        log.warning("%s: %s", kind, text)

    def before_mapping(self, *, tiles: int, pixels: int) -> None:
        """Called before the first tile of a run; ``pixels`` are of the scene as the model sees it."""

    def before_publishing(self) -> None:
        """Called once every tile is on the canvas and the engine was checked; no batch follows."""

    def compared_areas(self, rows: Sequence[Mapping[str, Any]], time: str) -> Sequence[Mapping[str, Any]]:  # noqa: ARG002 -- for others
        """What the item says of areas of interest, with what is known of earlier maps.

        Args:
            rows: of this map, see :func:`onboard.mapping.areas.measure_areas`.
            time: RFC 3339, of the map.
        """
        return rows

    def item_properties(self, *, tiles: int, area_m2: float | None) -> Mapping[str, Any]:  # noqa: ARG002 -- for others
        """Further properties of the map's item, without their prefix `onboard:`.

        Args:
            tiles: of the scene.
            area_m2: ground area of the map, square metres; None where the georeferencing does not tell.
        """
        return {}
