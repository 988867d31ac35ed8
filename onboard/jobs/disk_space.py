"""Disk space for scenes that wait: the most that their canvas and map take, and whether that is free."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onboard.errors import NoRoom
from onboard.jobs.heads import with_wanted_heads
from products.map_blocks import bits_of

if TYPE_CHECKING:
    from engines.manifest import Manifest
    from onboard.jobs.scene_store import SceneRow
    from onboard.settings import Settings

_QUICKLOOK_PIXELS = 1 << 20
_POLYGONS_TO_PIXELS = 2
"""Bytes of polygons a pixel, of maps as they are; a map of noise may take more, and then fails for want of room."""
_SMALL = 1 << 17
"""Item, journal, headers of the files, and the blocks of a map that is smaller than one."""


@dataclass(frozen=True)
class Demand:
    """Bytes that mapping a scene takes at most: its canvas, which goes again, and its map's files."""

    canvas: int
    product: int

    @property
    def bytes(self) -> int:
        """Both."""
        return self.canvas + self.product


def demand_of(pixels: int, settings: Settings, manifest: Manifest) -> Demand:
    """The most bytes that canvas and map of a scene with so many pixels take, whatever the scene shows.

    Zstandard makes noise no smaller, and longer by less than 1 % (its blocks have three bytes of head); overviews by 8,
    32, ... are a 48th of the pixels each way, first beside the canvas and then in the map. On the scene's grid a scene
    that is read at another resolution has its map beside its canvas. ``pixels`` are the scene's, or those of its
    enlargement for the model where that has more.
    """
    # Each head has a raster of its own, with a confidence beside it where that is set.
    legends = (manifest.classes, *(head.classes for head in manifest.further_heads))
    layers = len(legends) * (1 + settings.confidence)
    maps = [bits_of(max(item.code for item in legend)) for legend in legends]
    bits = sum(maps) + len(maps) * 8 * settings.confidence
    overviews = layers * pixels // 32
    enlarged_layers = layers if settings.resolution == "scene" and manifest.gsd_m is not None else 0
    canvas = (layers + enlarged_layers + len(legends) * (settings.sieve_px > 0)) * pixels + overviews
    # Blocks that are made ahead of the map's file; 101 / 100 as below, for each head by itself.
    canvas += sum(each * pixels // 8 * 101 // 100 for each in maps)
    # 101 / 100: the 1 % by which Zstandard can make noise longer.
    product = (bits * pixels // 8 + overviews) * 101 // 100 + 4 * len(legends) * min(pixels, _QUICKLOOK_PIXELS)
    if settings.changes:
        canvas += len(legends) * pixels
        product += len(legends) * pixels * 101 // 100
    if settings.polygons:
        product += len(legends) * _POLYGONS_TO_PIXELS * pixels
    # The sum errs on the side of too much: a scene that was accepted must not fail for want of room later.
    return Demand(canvas, product + len(legends) * _SMALL)


def check_demand(
    settings: Settings, manifest: Manifest, pixels: int, free_up: Callable[[int], object] | None = None
) -> None:
    """At intake: passes if canvas and map of the scene would leave the reserve untouched.

    Args:
        settings: whose data folder and reserve count.
        manifest: of the model.
        pixels: of the scene.
        free_up: called with the bytes wanted before they are looked for.

    Raises:
        NoRoom: they would not.
    """
    needed = demand_of(pixels, settings, manifest).bytes
    if free_up is not None:
        free_up(needed)
    free = shutil.disk_usage(settings.data_dir).free
    if free - needed < settings.disk_reserve_bytes:
        use = " for its canvas and map"
        raise NoRoom(settings.data_dir, wanted=needed, free=free, reserve=settings.disk_reserve_bytes, use=use)


def missing_bytes(settings: Settings, manifest: Manifest, row: SceneRow) -> int:
    """Bytes that an accepted scene still needs; part of its canvas may exist already."""
    demand = demand_of(row.pixels, settings, with_wanted_heads(manifest, row.heads) if row.heads else manifest)
    canvas = settings.canvases_dir / row.id / "canvas"
    try:
        # st_blocks counts 512 bytes whatever the file system's block is (stat(2)). What the canvas has is there.
        held = sum(path.stat().st_blocks * 512 for path in canvas.glob("*.raw"))
    except OSError:  # it goes while we look
        held = 0
    return max(0, demand.canvas - held) + demand.product


def floor_of(settings: Settings) -> int:
    """Bytes that work which is begun leaves free.

    Half the reserve: scenes are taken above all of it, and under a quarter maps go to let running work end. So what was
    taken can be begun, and beginning it alone never comes to that quarter.
    """
    return settings.disk_reserve_bytes // 2
