"""What tiles of several sides save, and what they change: time, classes and familiarity beside tiles of one size."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from benchmarks.pipeline import made_landscape
from benchmarks.spread import spread
from engines.engine import Engine
from engines.open import open_engine
from engines.wrapped import WrappedEngine
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.probe import Probes
from trainer.data.sets import data_root

Pixels = NDArray[np.uint8]
"""(3, H, W)."""
SCENES = (600, 1100, 2000)
KNOWN = ("dubai/scenes/scene_1.tif", "dubai/scenes/scene_3.tif",
         *(f"openearthmap_tokyo/images/tokyo_{number}.tif" for number in (53, 54, 62, 69, 70)))  # fmt: skip
"""Places that the familiarity of `landcover` was not fitted on."""
SEA = "geotiffs/rio-glui__16-21560-29773_small_ycbcr.tif"


class OneSize(WrappedEngine):
    """An engine that takes the manifest's own size alone."""

    @property
    def tile_sides(self) -> tuple[int, ...]:
        """See Engine."""
        return (self.manifest.input.tile_size,)


def saved_and_changed(folder: Path, *, quick: bool) -> None:
    """Prints all three, for the default model on the backend that `auto` takes."""
    with open_engine(None) as engine:
        print(f"{engine.manifest.name} {engine.manifest.version}, {engine.backend}, sides {engine.tile_sides}")
        with Probes() as probes:
            for side in SCENES[:1] if quick else SCENES:
                _time(folder, engine, probes, side, rounds=1 if quick else 5)
        root = data_root()
        if not (root / KNOWN[0]).exists():
            print(f"no real scenes in {root}: classes and familiarity are left out")
            return
        _classes(engine, root / KNOWN[0])
        _familiarity(engine, root)


def _time(folder: Path, engine: Engine, probes: Probes, side: int, *, rounds: int) -> None:
    scene, one_size = made_landscape(folder, width=side, height=side), OneSize(engine)
    ratios, spent = [], []
    for number in range(rounds + 1):
        took = []
        for each in (engine, one_size):
            shutil.rmtree(folder / "maps", ignore_errors=True)
            wall, cpu = time.perf_counter(), time.process_time()
            map_scene(MapRequest(scene, folder / "maps"), each, judge=probes.judge)
            took.append((time.perf_counter() - wall, time.process_time() - cpu))
        if number:  # the first has memory and kernels ready
            ratios.append(took[0][0] / took[1][0])
            spent.append(took[0][1] / took[1][1])
    print(f"{side:>6} x {side:<6} file to map, over tiles of one size: {spread(ratios)} of the time, "
          f"{spread(spent)} of the processor's")  # fmt: skip


def _classes(engine: Engine, scene: Path) -> None:
    """Pixels at least a halo from a smaller tile's edge that get another class than in the largest tile."""
    halo, size = engine.manifest.halo, engine.manifest.input.tile_size
    tile = next(_tiles(scene, size))
    whole = engine.infer(tile[np.newaxis]).classes[0]
    for side in engine.tile_sides[:-1]:
        part = engine.infer(np.ascontiguousarray(tile[np.newaxis, :, :side, :side])).classes[0]
        # The tile's own first rows and columns are those of the larger one too.
        inner = (slice(0, side - halo), slice(0, side - halo))
        print(f"tiles of {side}: {(part[inner] != whole[:side, :side][inner]).mean():.2%} of the pixels that are kept "
              "have another class")  # fmt: skip


def _familiarity(engine: Engine, root: Path) -> None:
    facts, size = engine.manifest.familiarity, engine.manifest.input.tile_size
    if facts is None:
        return
    noise = np.random.default_rng(0).integers(0, 256, (6, 3, size, size), dtype=np.uint8)
    known = [tile for name in KNOWN for tile in _tiles(root / name, size)]
    kinds: dict[str, list[Pixels]] = {
        "places not fitted on": known,
        "noise": list(noise),
        "open sea": list(_tiles(root / SEA, size)),
        "red and blue exchanged": [tile[::-1] for tile in known],
    }
    for kind, tiles in kinds.items():
        said = []
        for side in engine.tile_sides:
            begin = (size - side) // 2
            middle = slice(begin, begin + side)
            figures = [
                float(prediction.familiarity[0])
                for tile in tiles
                if (prediction := engine.infer(np.ascontiguousarray(tile[np.newaxis, :, middle, middle]))).familiarity
                is not None
            ]
            said.append(f"{side}: {np.mean(np.array(figures) < facts.threshold):.2f}, median {np.median(figures):.3f}")
        print(f"{kind}, {len(tiles)} tiles, share below {facts.threshold:g} at {'; '.join(said)}")


def _tiles(scene: Path, size: int) -> Iterator[Pixels]:
    """All whole tiles of a scene, side by side."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # Dubai's scenes lie nowhere; that is known
        with rasterio.open(scene) as source:
            for row in range(0, source.height - size + 1, size):
                for column in range(0, source.width - size + 1, size):
                    yield source.read((1, 2, 3), window=Window(column, row, size, size))
