"""Reads maps that wait for the ground again and again, slowly: bits of storage flip as well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from onboard.downlink.check import check_map
from onboard.jobs.ledger import Ledger
from onboard.settings import Settings

log = logging.getLogger(__name__)


class MapScrub:
    """Checks the next map without a receipt whenever its turn has come; one thread.

    What is found damaged goes the way of a map that the ground reports: see `check_map`.

    Args:
        settings: whose maps, and how many bytes a second are read in the mean.
        clock: seconds, monotonic.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._after = 0
        self._due = clock()

    def step(self, ledger: Ledger) -> list[str]:
        """Checks one map if it is time; gives the names of its files that are damaged."""
        rate = self._settings.map_scrub_bytes_per_s
        if rate <= 0 or self._clock() < self._due:
            return []
        rows = ledger.maps.page(after=self._after, limit=1, undelivered=True)
        if not rows:
            self._after = 0  # from the first one, at the next step
            return []
        row = rows[0]
        # Before the check: a map that cannot be read must not be the next one for ever.
        self._after = row.sequence
        self._due = self._clock() + sum(int(facts["bytes"]) for facts in row.assets.values()) / rate
        try:
            return check_map(self._settings, ledger, row)
        except OSError as error:
            log.warning("map %s cannot be read: %s", row.id, error)
            return []
