"""Compares scene, canvas and written map with their checksums before a map is published.

Data that differ are made again, or the scene is refused.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from engines.command_line import counted
from onboard.errors import SceneRefused
from onboard.mapping.canvas import Canvas, Layer
from onboard.mapping.control import MapObserver
from onboard.mapping.journal import TileRecord, checksum
from onboard.mapping.scene_files import scene_sha256
from onboard.scene.grid import Grid, Window
from onboard.scene.mosaic import files_of

ATTEMPTS = 3
"""How often a map is made again whose canvas or files were found changed."""
_ROWS = 512
"""Rows of a map compared at once: the blocks of its file."""
_KEPT_PIXELS = 32 << 20
"""Of one row of tiles that are held in memory, all layers together; wider scenes are read by windows."""


class ProductDamaged(Exception):
    """A map that was just written does not hold what the canvas holds; it is written again."""


def forget_damaged(canvas: Canvas, grid: Grid) -> list[int]:
    """Compares every finished tile of a canvas with its record; those that differ count as unfinished from now on.

    No write may be under way. Reads the canvas once: 1 to 2 GB/s.

    Returns:
        the tiles that differed.
    """
    canvas.commit()
    rows = _Rows(sum(1 + (head.confidence is not None) for head in canvas.heads))
    # By number, which is row by row: the tiles of a row share what is read.
    finished = sorted(canvas.records.items())
    damaged = [index for index, record in finished if not _is_whole(canvas, rows, grid, index, record)]
    for index in damaged:
        # A tile without data is done again by writing nothing: what the damage left there has to go here.
        core = grid[index].core
        zeros: NDArray[np.uint8] = np.zeros((core.height, core.width), np.uint8)
        # All heads: the journal finishes a tile for all of them at once.
        for head in range(len(canvas.heads)):
            canvas.write(core, zeros, zeros, head)
    if damaged:
        canvas.forget(damaged)
    return sorted(damaged)


def repair_canvas(canvas: Canvas, grid: Grid, observer: MapObserver) -> bool:
    """Whether tiles of the canvas were found changed; they are to be done again. The observer gets a report."""
    damaged = forget_damaged(canvas, grid)
    if damaged:
        observer.repaired("canvas-damaged", f"{counted(len(damaged), 'tile')} changed on the disk, done again")
    return bool(damaged)


class _Rows:
    """Whole rows of layers, kept until others are asked for: a window by itself takes one call of the system a row."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._kept: dict[Path, tuple[tuple[int, int], NDArray[np.uint8]]] = {}

    def window(self, layer: Layer, where: Window) -> NDArray[np.uint8]:
        """Pixels (h, w) of a window.

        Raises:
            StorageError: the file was shortened.
        """
        if where.height * layer.width * self._layers > _KEPT_PIXELS:
            return layer.read_window(where)
        wanted = (where.row, where.height)
        kept = self._kept.get(layer.path)
        if kept is None or kept[0] != wanted:
            kept = self._kept[layer.path] = (wanted, layer.read(*wanted))
        return kept[1][:, where.cols]


def _is_whole(canvas: Canvas, rows: _Rows, grid: Grid, index: int, record: TileRecord) -> bool:
    for number, head in enumerate(canvas.heads):
        written = record.of_head(number)
        for layer, expected in ((head.classes, written.classes_crc), (head.confidence, written.confidence_crc)):
            if layer is None:
                continue
            pixels = rows.window(layer, grid[index].core)
            # A tile that was not written has no checksum: its core must still be the zeros of the allocation.
            if not (checksum(pixels) == expected if expected else not pixels.any()):
                return False
    return True


def stored_digest(scene: Path) -> str:
    """SHA-256 of a scene's files as they are in storage, in hex; what the system holds of them is given up first.

    Raises:
        SceneRefused, OSError: as :func:`onboard.mapping.scene_files.scene_digests`.
    """
    for path in files_of(scene):
        with path.open("rb") as file:
            # Else the page cache would answer, with the flipped bit that is being looked for.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return scene_sha256(scene)


def check_scene(path: Path, digest: str, expected: str) -> None:
    """Compares a scene's digest with the one it was accepted by; in case of doubt it is read from storage once more.

    Raises:
        SceneRefused: it is another file.
    """
    if digest != expected and stored_digest(path) != expected:
        raise SceneRefused(
            path, "its bytes are not those that were accepted", "deliver the scene again; look at the disk"
        )


def check_written(layer: Layer, path: Path) -> None:
    """Compares the pixels of a map's file with the raster it was written from.

    Raises:
        ProductDamaged: they differ, or the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pixels are compared, not places
            written = rasterio.open(path, driver="GTiff", NUM_THREADS="ALL_CPUS")
        with written:
            for row in range(0, layer.height, _ROWS):
                rows = min(_ROWS, layer.height - row)
                pixels = written.read(1, window=RasterWindow(0, row, layer.width, rows))
                if not np.array_equal(pixels, layer.read(row, rows)):
                    raise ProductDamaged(f"{path.name} differs from the canvas in rows {row} to {row + rows}")
    except RasterioError as error:
        raise ProductDamaged(f"{path.name} cannot be read back: {error}") from error
