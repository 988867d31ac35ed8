"""Makes the blocks of a map's file while later rows are still being mapped, at a low priority.

Of bands whose tiles are all finished. What is not made by the end is made when the map is published, and so is all of
it where this fails: nothing depends on it but the time.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterable, Sequence

from onboard.mapping.canvas import Canvas
from onboard.scene.grid import Grid
from products.map_blocks import BLOCK, Stopped
from products.map_file import MapBands

log = logging.getLogger(__name__)
_NICE = 10  # at 19 a busy core would leave it a hundredth, and who ends it waits for the part in its hands


class EarlyBands:
    """The bands of each head of a canvas; a context manager, within which a thread makes them.

    For one round of mapping: a tile that is mapped again after that needs new ones.

    Args:
        canvas: whose layers are the map's very pixels.
        grid: its tiles.
        heads: the bands of each head of the canvas; closed in the end.
    """

    def __init__(self, canvas: Canvas, grid: Grid, heads: Sequence[MapBands]) -> None:
        self.heads = heads
        self._canvas, self._grid = canvas, grid
        self._done: set[int] = set()
        # Tiles that each band still lacks.
        self._lacking = [0] * len(heads[0])
        for tile in range(len(grid)):
            for band in self._bands_of(tile):
                self._lacking[band] += 1
        self._ready: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._resting = threading.Event()
        self._thread = threading.Thread(target=self._work, name="bands", daemon=True)

    def __enter__(self) -> EarlyBands:
        self._finished(self._canvas.finished)  # by an earlier run
        self._canvas.on_finished = self._finished
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads: the map's writing makes all bands
            log.warning("blocks of the map are not made ahead: %s", error)
        return self

    def __exit__(self, *_: object) -> None:
        self._canvas.on_finished = None
        self.rest()
        for bands in self.heads:
            bands.close()

    def rest(self) -> None:
        """Ends the thread within a part of a band; what it has not made is left to the map's writing."""
        self._resting.set()
        self._ready.put(-1)  # wakes it
        if self._thread.ident is not None:
            self._thread.join()

    def _finished(self, tiles: Iterable[int]) -> None:
        """Called by the canvas's thread: their pixels are on the canvas, for all heads."""
        for tile in set(tiles) - self._done:  # a batch that is done again whole has tiles that were finished
            self._done.add(tile)
            for band in self._bands_of(tile):
                self._lacking[band] -= 1
                if self._lacking[band] == 0:
                    self._ready.put(band)

    def _bands_of(self, tile: int) -> range:
        core = self._grid[tile].core
        return range(core.row // BLOCK, (core.row + core.height - 1) // BLOCK + 1)

    def _work(self) -> None:
        try:
            # Of this thread alone on Linux: the engine and the decoder go first.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            while (band := self._ready.get()) >= 0:
                for layers, bands in zip(self._canvas.heads, self.heads, strict=True):
                    bands.keep(band, bands.make(band, layers.classes.read, self._resting.is_set))
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001 -- nothing depends on this thread but the time
            # The map's writing meets it again, and says so to whoever waits for the map.
            log.warning("blocks of the map are not made ahead any more: %s", error)
