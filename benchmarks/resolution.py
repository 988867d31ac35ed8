"""Time and memory of mapping a fine scene at the model's resolution, compared with its own resolution."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from benchmarks.memory import peak_mib
from benchmarks.pipeline import made_landscape
from benchmarks.spread import spread
from engines.engine import Engine
from engines.open import open_engine
from engines.testing import ConstantEngine
from onboard.mapping.run import MapRequest, MapSummary, map_scene
from onboard.scene.probe import Probes
from onboard.scene.resolution import ResolutionOptions

MODEL_M, SCENE_M = 1.0, 0.5
"""Metres a pixel: what the model is made for, and what the scene has."""


class MadeFor:
    """An engine whose model says that it is made for one ground resolution and for no other."""

    def __init__(self, engine: Engine, gsd_m: float) -> None:
        self._engine = engine
        self.manifest = engine.manifest.model_copy(update={"gsd_m": gsd_m, "gsd_range_m": (gsd_m, gsd_m)})

    # All else is the engine's own: the wrapped one is the same engine, told otherwise.
    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def at_the_models_resolution(folder: Path, *, quick: bool) -> None:
    """Prints both times and their ratio in one run, with the default model, and peak memory with a free engine."""
    # Sizes that fill a whole number of tiles either way, 16 and 4 of them or 64 and 16.
    side, rounds = (3712, 1) if quick else (7296, 3)
    scene = made_landscape(folder, width=side, height=side)
    taken: dict[float, list[tuple[MapSummary, float]]] = {MODEL_M: [], SCENE_M: []}
    with open_engine() as engine, Probes() as probes:
        made_for = cast("Engine", MadeFor(engine, MODEL_M))
        for turn in range(rounds + 1):
            for gsd_m, summaries in taken.items():
                begin = time.process_time()
                summary = _mapped(scene, folder / "maps", made_for, gsd_m, probes)
                if turn:  # the first time has all ready
                    summaries.append((summary, time.process_time() - begin))
    (plain, plain_cpu), (reduced, reduced_cpu) = (tuple(zip(*rows, strict=True)) for rows in taken.values())
    ratios = [b.seconds / a.seconds for a, b in zip(plain, reduced, strict=True)]
    cpu = [b / a for a, b in zip(plain_cpu, reduced_cpu, strict=True)]
    print(f"{side} x {side} pixels of {SCENE_M:g} m, a model of {MODEL_M:g} m, {engine.backend} {engine.precision}")
    print(f"as it is            {spread([run.seconds for run in plain])} s, {plain[0].tiles} tiles")
    print(f"read at {MODEL_M:g} m         {spread([run.seconds for run in reduced])} s, {reduced[0].tiles} tiles")
    print(f"read at / as it is  {spread(ratios)}   (wanted: 0.35 or less)")
    print(f"processor time      {spread(cpu)}")
    reading = [run.stages_s["read"] for run in reduced], [run.stages_s["read"] for run in plain]
    print(f"reader busy         {spread(reading[0])} s, as it is {spread(reading[1])} s")
    _memory(folder, side=4096 if quick else 12_000)


def _mapped(scene: Path, out: Path, engine: Engine, gsd_m: float, probes: Probes) -> MapSummary:
    shutil.rmtree(out, ignore_errors=True)
    request = MapRequest(scene, out, resolution=ResolutionOptions(gsd_m=gsd_m))
    return map_scene(request, engine, judge=probes.judge)


def _memory(folder: Path, *, side: int) -> None:
    """Each in a process of its own."""
    scene = made_landscape(folder, width=side, height=side)
    peaks = {}
    for gsd_m in (MODEL_M, SCENE_M, SCENE_M / 4):
        shutil.rmtree(folder / "maps", ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.resolution", str(scene), str(folder / "maps"), str(gsd_m)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[gsd_m] = float(done.stdout)
        print(f"{side} x {side} as if of {gsd_m:<5g} m  peak RSS {peaks[gsd_m]:6.0f} MiB, free engine")
    highest = max(peaks[SCENE_M], peaks[SCENE_M / 4])
    print(f"read at / as it is  {highest / peaks[MODEL_M]:.2f}   (wanted: 1 or less)")


def _peak_of(scene: str, out: str, gsd_m: str) -> None:
    # An engine that costs nothing: the model's own memory would hide the pipeline's.
    engine = cast("Engine", MadeFor(ConstantEngine(), MODEL_M))
    map_scene(MapRequest(Path(scene), Path(out), resolution=ResolutionOptions(gsd_m=float(gsd_m))), engine)
    print(peak_mib())


if __name__ == "__main__":
    _peak_of(*sys.argv[1:])
