"""Who looks over a long run's shoulder: stops it between batches, doubts its engine now and then, takes its times."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


class Watch:
    """Does nothing: a run by hand is stopped by a signal and has checked its engine at the start.

    Every method but `took` is called on the thread that drives the engine, so it may use the engine.

    Attributes:
        doubts: tiles inferred since the last good check are done again when the engine fails.
    """

    doubts = False

    def before_batch(self) -> None:
        """Called before each batch.

        Raises:
            MappingStopped: the run ends here; what is finished stays, the same request continues.
        """

    def check_due(self) -> bool:
        """Whether it is time to check the engine, between two batches."""
        return False

    def check(self) -> None:
        """Checks the engine; also called once after the last tile, before anything is published.

        Raises:
            EngineError: it no longer computes what the reference does.
        """

    def before_publishing(self) -> None:
        """Called once, when every tile is on the canvas and the engine was checked: no batch comes any more."""

    def scrub_due(self) -> bool:
        """Whether it is time to look at the engine's constants, between two batches."""
        return False

    def scrub(self) -> None:
        """Looks at the engine's constants in memory; `check` does so as well.

        Raises:
            ConstantsChanged: they are not what they were when the engine was opened.
        """

    def repaired(self, kind: str, text: str) -> None:
        """Stored data were found changed and are made again; ``kind`` is an event's."""
        log.warning("%s: %s", kind, text)

    def took(self, stage: str, seconds: float) -> None:
        """A stage ("read", "infer", "write") took so long for one batch; called on that stage's thread."""

    def facts(self, *, tiles: int, area_m2: float | None) -> Mapping[str, Any]:  # noqa: ARG002 -- for others
        """Further `onboard:` properties of the map about to be written.

        Args:
            tiles: of the scene.
            area_m2: of the scene's pixels, None where it is not known.
        """
        return {}
