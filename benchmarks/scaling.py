"""Cost per pixel from 1 to 400 megapixels, with a free engine and the installed one, by pipeline stage."""

from __future__ import annotations

import cProfile
import json
import pstats
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pipeline import made_landscape
from benchmarks.spread import spread
from engines.engine import Engine, Prediction, Tiles
from engines.manifest_fields import SIDE_STEP
from engines.open import open_engine
from engines.testing import ConstantEngine
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.grid import Grid, tile_shape
from onboard.scene.probe import Probes

SIDES = (1_000, 2_000, 4_000, 8_000, 12_000, 20_000)
GRID_SIDES = (600, 1_000, 1_025, 1_100, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 12_000)
GRID_RANGES = ((513, 1_024), (1_025, 2_000), (2_001, 4_000), (4_001, 12_000))
"""Sides of square scenes over which means are taken: every seventh."""
CELL = 16
STEPS = {
    "judge": "probe in a process of its own, which stands ready",
    "digests_of": "SHA-256 of the scene",
    "map_tiles": "tiles: read, infer, write side by side",
    "repair_canvas": "canvas read once more, for flipped bits",
    "write_map": "COG: what was not made ahead",
    "check_written": "map read back and compared",
    "write_quicklook": "quicklook",
    "write_item": "STAC item",
    "publish_folder": "sync and rename",
}


class CellEngine(ConstantEngine):
    """Classes by the brightness of cells of 16 pixels: a map that compresses about as real ones do, for nothing."""

    def _predicted(self, tiles: Tiles) -> Prediction:
        # The two highest bits: codes 1 to 4, patches of a size that maps have.
        cells = (tiles[:, 0, ::CELL, ::CELL] >> 6) + np.uint8(1)
        return Prediction(np.repeat(np.repeat(cells, CELL, axis=1), CELL, axis=2))


def cost_per_pixel(folder: Path, *, quick: bool) -> None:
    """Prints tiles by size; prints and draws nanoseconds a pixel against size, and where the largest's time goes."""
    sides = SIDES[:4] if quick else SIDES
    with open_engine() as engine:
        tiles_by_size(engine)
    tiles_by_step()
    rows = []
    for side in sides:
        scene = made_landscape(folder, width=side, height=side)
        with Probes() as probes:
            _steps(scene, folder / "maps", probes)  # has it ready
            rounds = [_steps(scene, folder / "maps", probes) for _ in range(1 if quick else 3)]
        costs = [1e9 * result["seconds"] / side**2 for result in rounds]
        print(f"{side:>6} x {side:<6} {spread(costs)} ns a pixel")
        rows.append({"side": side, "ns": costs, "steps": rounds[-1]})
    print(f"\nwhere {sides[-1]:,} x {sides[-1]:,} pixels spend their time, one run:")
    steps = rows[-1]["steps"]
    for name, title in STEPS.items():
        print(f"  {title:<42}{steps[name]:7.2f} s")  # type: ignore[index]
    print(f"  {'all':<42}{steps['seconds']:7.2f} s")  # type: ignore[index]
    if not quick:
        for row, more in zip(rows, _as_installed(folder, sides), strict=True):
            row.update(more)
            print(f"{row['side']:>6} x {row['side']:<6} {row['installed_ns']:6.0f} ns a pixel as installed "
                  f"({row['installed']}), {row['tiles']} tiles of {row['tile']}, {row['computed']:.2f} pixels computed "
                  "for one of the map")  # fmt: skip
        Path("docs/benchmarks/scaling.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        draw(rows, Path("docs/benchmarks/scaling.png"))


def _as_installed(folder: Path, sides: tuple[int, ...]) -> list[dict[str, Any]]:
    """Once each, by the default model on the backend that `auto` takes: what a user waits for."""
    rows = []
    with Probes() as probes, open_engine() as engine:
        for side in (sides[0], *sides):  # the first time has it ready
            scene = made_landscape(folder, width=side, height=side)
            shutil.rmtree(folder / "maps", ignore_errors=True)
            summary = map_scene(MapRequest(scene, folder / "maps"), engine, judge=probes.judge)
            cost = 1e9 * summary.seconds / summary.scene_pixels
            grid = grid_of(side, engine)
            rows.append({"installed": f"{engine.backend} {engine.precision}", "installed_ns": cost,
                         "tiles": summary.tiles, "tile": f"{grid.tile_width} x {grid.tile_height}",
                         "computed": grid.computed_pixels / side**2})  # fmt: skip
    return rows[1:]


def grid_of(side: int, engine: Engine) -> Grid:
    """The tiles in which a square scene is mapped at the model's own halo."""
    halo = engine.manifest.halo
    return Grid(side, side, tile_size=tile_shape(side, side, engine.tile_sides, halo=halo), halo=halo)


def tiles_by_size(engine: Engine) -> None:
    """Prints, for square scenes, tiles and pixels computed for one of the map, beside those of tiles of one size."""
    size = engine.manifest.input.tile_size
    sides = ", ".join(map(str, engine.tile_sides))
    print(f"{engine.manifest.name}, halo {engine.manifest.halo}, sides {sides}: pixels computed for one of the map")
    for side in GRID_SIDES:
        grid, fixed = grid_of(side, engine), Grid(side, side, tile_size=size, halo=engine.manifest.halo)
        print(f"{side:>6} x {side:<6} {len(grid):>4} of {grid.tile_width} x {grid.tile_height}: "
              f"{grid.computed_pixels / side**2:5.2f}; of {size} alone {fixed.computed_pixels / side**2:5.2f}; "
              f"{grid.computed_pixels / fixed.computed_pixels:.2f} of them")  # fmt: skip


def tiles_by_step() -> None:
    """Prints the same as means over square scenes, for sides from 512 to 1,024 in steps of so many pixels."""
    steps = (256, SIDE_STEP)
    print(f"means over square scenes, sides 512 to 1024 in steps of {', '.join(map(str, steps))}; 1024 alone")
    for low, high in GRID_RANGES:
        means = []
        for sides in (*(tuple(range(512, 1025, step)) for step in steps), (1024,)):
            grids = ((side, Grid(side, side, tile_size=tile_shape(side, side, sides, halo=64), halo=64))
                     for side in range(low, high + 1, 7))  # fmt: skip
            means.append(float(np.mean([grid.computed_pixels / side**2 for side, grid in grids])))
        print(f"{low:>6,} to {high:<6,} {'; '.join(f'{mean:.2f}' for mean in means)}")


def _steps(scene: Path, out: Path, probes: Probes) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    profile = cProfile.Profile()
    # Opened before the clock: what an engine costs is not the pipeline's.
    with CellEngine() as engine:
        # cProfile sees this thread alone; what the stages beside it do is in stages_s, as time in which they were busy.
        profile.enable()
        summary = map_scene(MapRequest(scene, out, halo=64), engine, judge=probes.judge)
        profile.disable()
    totals = dict.fromkeys(STEPS, 0.0)
    for (file, _, name), (_, _, _, seconds, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        # The fourth number is cumulative: what a step calls counts as the step.
        if name in totals and "onboard" in file:
            totals[name] = max(totals[name], seconds)
    if unseen := [name for name, seconds in totals.items() if seconds == 0]:
        raise RuntimeError(f"nothing called {', '.join(unseen)} ran: it has another name now, give it in STEPS")
    return totals | {"seconds": summary.seconds, **{f"{key} (busy)": value for key, value in summary.stages_s.items()}}


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Cost against size, and its parts, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), constrained_layout=True)
    pixels = [row["side"] ** 2 / 1e6 for row in rows]  # type: ignore[operator]
    middle = [float(np.median(row["ns"])) for row in rows]  # type: ignore[call-overload]
    left.plot(pixels, middle, "o-", color="#0072b2")
    left.plot(pixels, [row["installed_ns"] for row in rows], "s-", color="#d55e00")
    left.set(xscale="log", yscale="log", xlabel="scene, megapixels", ylabel="ns a pixel, file to map")
    for axis, at in ((left.xaxis, (1, 4, 16, 64, 144, 400)), (left.yaxis, (20, 50, 100, 200, 500, 1000))):
        axis.set_ticks(at, [f"{value:,}" for value in at])
        axis.set_minor_locator(NullLocator())
    left.legend(["free engine", f"as installed ({rows[-1]['installed']})"])
    left.grid(alpha=0.3)
    steps = rows[-1]["steps"]
    names = list(STEPS)[::-1]
    right.barh([STEPS[name] for name in names], [steps[name] for name in names], color="#0072b2")  # type: ignore[index]
    right.set_xlabel(f"seconds, {rows[-1]['side']:,} pixels a side")
    figure.savefig(path, dpi=100)
    plt.close(figure)
