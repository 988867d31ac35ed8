"""Which scene is started next: the first in its turn for whose canvas and map there is room."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from onboard.errors import OnboardError
from onboard.jobs.ledger import Ledger, SceneRow
from onboard.jobs.room import demand_of, floor_of, missing_bytes
from onboard.jobs.scene_folder import scene_file
from onboard.jobs.scene_options import options_of
from onboard.settings import Settings

if TYPE_CHECKING:
    from engines.manifest import Manifest

REVIEW_S = 2.0
"""Between two looks at whether scenes that wait aside fit now."""


class Starter:
    """Chooses the next scene that fits; those that do not wait aside, by their ledger's row and an event.

    Args:
        settings: of the service.
        ledger: a connection of this thread.
        measure: gives a scene's pixels, for those taken by an earlier version that did not look.
    """

    def __init__(self, settings: Settings, ledger: Ledger, measure: Callable[..., int]) -> None:
        self.settings, self.ledger, self._measure = settings, ledger, measure
        self._reviewed = float("-inf")

    def next(self, manifest: Manifest) -> SceneRow | None:
        """The first queued scene in its turn that can be started now, None if there is none."""
        for row in self.ledger.queue():
            if self._fits(manifest, row):
                return row
        return None

    def review(self, manifest: Manifest) -> None:
        """Between batches of another scene: those that wait aside and fit now may be started again."""
        if time.monotonic() - self._reviewed >= REVIEW_S:
            self._reviewed = time.monotonic()
            for row in self.ledger.aside():
                self._fits(manifest, row)

    def _fits(self, manifest: Manifest, row: SceneRow) -> bool:
        if not row.pixels:
            row = self._measured(manifest, row)
        wanted = missing_bytes(self.settings, manifest, row)
        fits = shutil.disk_usage(self.settings.data_dir).free - wanted >= floor_of(self.settings)
        # No figure that moves by itself: a changed reason is a write.
        need = demand_of(row.pixels, self.settings, manifest).bytes
        reason = None if fits else f"no room: its canvas and map take up to {need:,} bytes; pull maps, or cancel scenes"
        if self.ledger.set_aside(row.id, reason) and reason is not None:
            self.ledger.tell("warning", "scene-waits", f"{row.name} waits aside: {reason}", row.id)
        return fits

    def _measured(self, manifest: Manifest, row: SceneRow) -> SceneRow:
        path = scene_file(self.settings.scenes_dir / row.id)
        try:
            pixels = self._measure(path, options_of(self.settings, manifest))
        except OnboardError:
            return row  # mapping it says what is wrong
        self.ledger.set_pixels(row.id, pixels)
        return self.ledger.scene(row.id) or row
