"""Chooses the next scene: the first of the queue whose canvas and map fit on the disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from onboard.errors import OnboardError
from onboard.jobs.disk_space import demand_of, floor_of, missing_bytes
from onboard.jobs.ledger import Ledger
from onboard.jobs.scene_folder import scene_file
from onboard.jobs.scene_options import options_of, target_of
from onboard.jobs.scene_store import SceneRow
from onboard.settings import Settings

if TYPE_CHECKING:
    from engines.manifest import Manifest

REVIEW_S = 2.0
"""Between two looks at whether scenes that wait aside fit now."""


class SceneScheduler:
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
        # A scene that does not fit is passed over: small ones behind a large one must not wait for the next pass.
        for row in self.ledger.scenes.queue():
            if self._fits(manifest, row):
                return row
        return None

    def review(self, manifest: Manifest) -> None:
        """Between batches of another scene: those that wait aside and fit now may be started again."""
        if time.monotonic() - self._reviewed >= REVIEW_S:
            self._reviewed = time.monotonic()
            # A scene that waits aside interrupts a less urgent one only once its reason to wait is gone.
            for row in self.ledger.scenes.waiting_aside():
                self._fits(manifest, row)

    def _fits(self, manifest: Manifest, row: SceneRow) -> bool:
        if not row.pixels:
            row = self._measured(manifest, row)
        needed = missing_bytes(self.settings, manifest, row)
        fits = shutil.disk_usage(self.settings.data_dir).free - needed >= floor_of(self.settings)
        # No figure that moves by itself: a changed reason is a write.
        need = demand_of(row.pixels, self.settings, manifest).bytes
        reason = None if fits else f"no room: its canvas and map take up to {need:,} bytes; pull maps, or cancel scenes"
        if self.ledger.scenes.set_waiting_reason(row.id, reason) and reason is not None:
            explanation = f"{row.name} is skipped until there is space: {reason}"
            self.ledger.events.log("warning", "scene-waits", explanation, row.id)
        return fits

    def _measured(self, manifest: Manifest, row: SceneRow) -> SceneRow:
        path = scene_file(self.settings.scenes_dir / row.id)
        try:
            pixels = self._measure(path, options_of(self.settings, manifest), target_of(self.settings, manifest))
        except OnboardError:
            return row  # mapping it says what is wrong
        self.ledger.scenes.set_pixels(row.id, pixels)
        return self.ledger.scenes.get(row.id) or row
