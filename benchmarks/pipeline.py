"""The pipeline compared with its bounds: the engine alone, rasterio alone, and memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterioWindow

from benchmarks.spread import spread
from engines.command_line import counted
from engines.cpu import usable_cores
from engines.engine import Engine
from engines.manifest import ClassInfo
from engines.open import open_engine
from engines.testing import IdentityEngine
from onboard.mapping.run import Judge, MapRequest, MapSummary, map_scene
from onboard.scene.gdal_env import GDAL_ENV
from onboard.scene.grid import Grid
from onboard.scene.probe import Probes
from onboard.scene.reader import Scene, SceneOptions
from products.gdal_copy import COG_OPTIONS
from products.map_blocks import bits_of, overview_factors
from trainer.data.landscape import write_landscape


def against_bare_engine(folder: Path, *, quick: bool) -> None:
    """Tiles/s of the pipeline over tiles/s of the same engine on tiles already in memory.

    First the engine has all cores, which reading, writing and packing then take away from it; then it leaves one to
    them, as an engine on a GPU leaves all.
    """
    cores = usable_cores()
    for threads in (cores, cores - 1) if cores > 1 else (cores,):
        _against_bare_engine(folder, threads, quick=quick)


def _against_bare_engine(folder: Path, threads: int, *, quick: bool) -> None:
    columns, rows = (3, 2) if quick else (6, 5)
    rounds = 1 if quick else 5
    # As the service has them: the process that looks at a scene first stands ready.
    with open_engine(None, threads=threads) as engine, Probes() as probes:
        size, halo = engine.manifest.input.tile_size, engine.manifest.halo
        step = size - 2 * halo
        # Sizes that tiles fill exactly: they overlap by their halos and no more.
        scene = made_landscape(folder, width=(columns - 1) * step + size, height=(rows - 1) * step + size)
        grid = Grid((columns - 1) * step + size, (rows - 1) * step + size, tile_size=size, halo=halo)
        tiles = _tiles_in_memory(scene, grid)
        # The first call allocates memory: it is nobody's time.
        engine.infer(tiles[0])
        _mapped(scene, folder / "maps", engine, probes.judge)
        bare, piped, whole = [], [], []
        for _ in range(rounds):
            # In turns, so that a machine that slows down slows both.
            bare.append(_bare_rate(engine, tiles))
            summary = _mapped(scene, folder / "maps", engine, probes.judge)
            piped.append(summary.tiles / summary.mapping_s)
            whole.append(summary.tiles / summary.seconds)
    ratios = [a / b for a, b in zip(piped, bare, strict=True)]
    ratios_whole = [a / b for a, b in zip(whole, bare, strict=True)]
    print(f"engine {engine.backend} {engine.precision} on {counted(threads, 'core')} of {usable_cores()}, "
          f"model {engine.manifest.name}, {len(grid)} tiles, {rounds} rounds")  # fmt: skip
    print(f"bare engine       {spread(bare)} tiles/s")
    print(f"pipeline          {spread(piped)} tiles/s")
    print(f"with publishing   {spread(whole)} tiles/s")
    print(f"pipeline / bare   {spread(ratios)}   (wanted: 0.97 or more)")
    print(f"published / bare  {spread(ratios_whole)}   (wanted: 0.90 or more)\n")


def against_rasterio(folder: Path, *, quick: bool) -> None:
    """Pixels/s from file to published map with a free engine, over rasterio doing the bare minimum by hand."""
    side = 4096 if quick else 12_000
    rounds = 1 if quick else 3
    scene = made_landscape(folder, width=side, height=side)
    ours, theirs = [], []
    with IdentityEngine(tile_size=1024) as engine:
        halo, classes = engine.manifest.halo, tuple(engine.manifest.classes)
        for _ in range(rounds):
            # Both read the same windows and write a COG by the same options: what differs is what we add.
            theirs.append(side * side / 1e6 / _by_hand(scene, folder / "by_hand", halo=halo, classes=classes))
            ours.append(side * side / 1e6 / _mapped(scene, folder / "maps", engine).seconds)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"{side} x {side} pixels, JPEG tiles, first band as the map, {rounds} rounds")
    print(f"rasterio by hand  {spread(theirs)} Mpx/s (same windows read, one band written, copied to the same COG)")
    print(f"pipeline          {spread(ours)} Mpx/s (probe, digest, canvas with journal, COG, quicklook, item)")
    print(f"pipeline / hand   {spread(ratios)}   (wanted: 0.70 or more)")


def peak_memory(folder: Path, *, quick: bool) -> None:
    """Peak resident memory of a whole run with a free engine, at two sizes, each in a process of its own."""
    sides = (4096, 8192) if quick else (12_000, 24_000)
    peaks = []
    for side in sides:
        scene = made_landscape(folder, width=side, height=side)
        code = (
            "import json,sys\nfrom pathlib import Path\nfrom benchmarks.memory import peak_mib\n"
            "from engines.testing import ConstantEngine\n"
            "from onboard.mapping.run import MapRequest, map_scene\n"
            "s = map_scene(MapRequest(Path(sys.argv[1]), Path(sys.argv[2])), ConstantEngine())\n"
            "print(json.dumps([peak_mib(), s.seconds]))"
        )
        shutil.rmtree(folder / "maps", ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-c", code, scene, folder / "maps"], check=True, capture_output=True, text=True
        )
        peak, seconds = json.loads(done.stdout)
        peaks.append(peak)
        print(f"{side:>6} x {side:<6} peak RSS {peak:6.0f} MiB   {side * side / 1e6 / seconds:6.1f} Mpx/s")
    print(f"growth            {peaks[1] / peaks[0] - 1:+.1%}   (wanted: under 10 %, each under 600 MB)")


def made_landscape(folder: Path, *, width: int, height: int) -> Path:
    """A made scene of this size, kept in the folder."""
    path = folder / f"landscape_{width}x{height}.tif"
    if not path.exists():
        partial = path.with_suffix(".part.tif")
        # A repeated block: the content of a benchmark scene matters less than its making in minutes.
        write_landscape(partial, seed=7, width=width, height=height, period=4096)
        # A run that is broken off while it writes must leave no scene that the next one takes for whole.
        partial.rename(path)
    return path


def _tiles_in_memory(path: Path, grid: Grid) -> list[np.ndarray]:
    with rasterio.Env(**GDAL_ENV), Scene.open(path, SceneOptions()) as scene:
        return [scene.read(tile.source).pixels[np.newaxis].copy() for tile in grid]


def _bare_rate(engine: Engine, tiles: list[np.ndarray]) -> float:
    begin = time.perf_counter()
    for tile in tiles:
        engine.infer(tile)
    return len(tiles) / (time.perf_counter() - begin)


def _mapped(scene: Path, out: Path, engine: Engine, judge: Judge | None = None) -> MapSummary:
    # Else the run would find its map of before, and have nothing to do.
    shutil.rmtree(out, ignore_errors=True)
    return map_scene(MapRequest(scene, out), engine, judge=judge)


def _by_hand(scene: Path, folder: Path, *, halo: int, classes: tuple[ClassInfo, ...]) -> float:
    """Seconds for the bare minimum: read every window, write its first band, copy that to a COG."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begin = time.perf_counter()
    with rasterio.Env(**GDAL_ENV):
        with rasterio.open(scene, driver="GTiff") as source:
            profile = {"driver": "GTiff", "width": source.width, "height": source.height, "count": 1, "dtype": "uint8"}
            georeference = {"crs": source.crs, "transform": source.transform, "nodata": 0}
            with rasterio.open(folder / "plain.tif", "w", **profile, **georeference) as target:
                for tile in Grid(source.width, source.height, tile_size=1024, halo=halo):
                    read, core, inside = tile.source, tile.core, tile.core_in_tile
                    pixels = source.read((1, 2, 3), window=RasterioWindow(read.col, read.row, read.width, read.height))
                    target.write(
                        pixels[0][inside.rows, inside.cols], 1,
                        window=RasterioWindow(core.col, core.row, core.width, core.height),
                    )  # fmt: skip
        with rasterio.open(folder / "plain.tif", "r+") as target:
            target.build_overviews(overview_factors(target.width, target.height), Resampling.mode)
        options = {**COG_OPTIONS, "NBITS": str(bits_of(max(item.code for item in classes)))}
        rasterio.shutil.copy(folder / "plain.tif", folder / "map.tif", driver="COG", **options)
    return time.perf_counter() - begin
