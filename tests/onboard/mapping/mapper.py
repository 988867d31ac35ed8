"""A process for the kill tests: maps a scene with the identity engine and SIGKILLs itself at a chosen call.

usage: mapper.py SCENE OUT [DIE_AT [GSD|MODEL|changes:FOLDER]]
DIE_AT: number of the durable step (sync, rename, product write) to
die at; GSD: metres that the model is made for, and a map on the scene's grid; MODEL: folder of a model, whose heads are
all mapped, with their confidence; FOLDER: of an earlier map, to compare with;
prints the number of tiles inferred and of durable steps taken when it lives to the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.manifest import Manifest
from engines.open import open_engine
from engines.testing import IdentityEngine
from onboard.mapping import canvas, job, publish, run
from onboard.mapping.changes import EarlierMaps, read_earlier_map
from onboard.scene.reader import SceneOptions
from onboard.scene.resolution import ResolutionOptions
from products import map_file

TILE = 64
GROUP = 4
steps = 0


def counted(function: Callable[..., Any], die_at: int, *, after: bool) -> Callable[..., Any]:
    """Counts a call as a step; dies before it, or half-way (after it, before anyone learns of it)."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        global steps  # noqa: PLW0603 - one counter over all patched functions
        steps += 1
        dies = steps == die_at  # decided now: steps within this one count on
        if dies and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if dies and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapper


def few_classes(manifest: Manifest) -> Manifest:
    """The manifest with its first five classes: pairs of 255 are not counted."""
    return manifest.model_copy(update={"classes": manifest.classes[:5]})


def main() -> None:
    scene, out = Path(sys.argv[1]), Path(sys.argv[2])
    die_at = int(sys.argv[3]) if len(sys.argv) > 3 else -1
    canvas.GROUP_TILES = GROUP
    for owner, name in (
        (os, "fdatasync"),
        (os, "fsync"),
        (Path, "rename"),
        (publish, "enlarge"),
        (publish, "write_map"),
        (publish, "compare"),
        (publish, "write_changes"),
        (map_file.MapBands, "keep"),
        (map_file.MapBands, "write"),
        (publish, "write_quicklook"),
        (publish, "write_item"),
        (run, "probe_scene"),
        (shutil, "rmtree"),
        (job.Job, "clean"),
    ):
        setattr(owner, name, counted(getattr(owner, name), die_at, after=die_at % 2 == 0))
    request = run.MapRequest(scene, out, halo=8, scene_options=SceneOptions(collar=False))
    if len(sys.argv) > 4 and Path(sys.argv[4]).is_dir():
        names = Manifest.load(Path(sys.argv[4])).head_names
        with open_engine(sys.argv[4], heads=names, backend="onnxruntime", threads=1) as heads_engine:
            summary = run.map_scene(replace(request, confidence=True), heads_engine)
        print(summary.tiles, steps)
        return
    with IdentityEngine(tile_size=TILE, familiarity=True) as engine:
        if len(sys.argv) > 4 and sys.argv[4].startswith("changes:"):
            engine.manifest = few_classes(engine.manifest)
            earlier = read_earlier_map(Path(sys.argv[4].removeprefix("changes:")))
            request = replace(
                request, earlier=EarlierMaps(lambda: [earlier] if earlier else [], "first", any_time=True)
            )
        elif len(sys.argv) > 4:
            engine.manifest = engine.manifest.model_copy(update={"gsd_m": float(sys.argv[4])})
            request = replace(request, resolution=ResolutionOptions(grid="scene"))
        summary = run.map_scene(request, engine)
    inferred = 0 if summary.already_mapped else summary.tiles - summary.tiles_resumed - summary.tiles_empty
    print(inferred, steps)


if __name__ == "__main__":
    main()
