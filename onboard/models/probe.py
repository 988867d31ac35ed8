"""Opens a received model in a process of its own, with limits: `python -m onboard.models.probe FOLDER`.

A runtime may crash on a graph, take all memory, or never end; what it does, it does to this process. It opens the model
as the worker will, with all of its heads, holds each head to its golden answer, and measures speed and memory; one line
of JSON says what came of it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from engines.engine import Engine, Prediction
from engines.errors import EngineError, one_line
from engines.manifest import Manifest
from engines.open import manifest_path, open_engine
from engines.verify import golden_tiles, pixel_agreement, read_answers, verify_golden
from onboard.parent import end_with_parent
from onboard.settings import Settings, read_settings

_TIMED = 3
"""Tiles that are timed, after one that is not."""


def probe(settings: Settings, folder: Path) -> dict[str, Any]:
    """What the model is here, all of its heads opened: backend, precision, agreements, seconds a tile, memory.

    Of a model of one graph the name of the head is "".

    Raises:
        EngineError: it cannot be opened, or computes wrong.
    """
    names = Manifest.load(manifest_path(str(folder))).head_names
    begun = time.monotonic()
    # With all heads, though scenes may ask for fewer: each must answer right before the model flies.
    with _opened(settings, folder, names) as engine:
        opened = time.monotonic()
        golden = verify_golden(engine)
        tiles = golden_tiles(engine, 1)
        seconds = []
        for _ in range(_TIMED):
            before = time.monotonic()
            prediction = engine.infer(tiles)
            # The golden tile has warmed the engine up; of these the fastest counts, for scenes are mapped beside it.
            seconds.append(time.monotonic() - before)
        return {
            "backend": engine.backend, "precision": engine.precision,
            "golden_agreement": None if golden is None else round(golden.agreement, 6),
            "opening_s": round(opened - begun, 3), "tile_s": round(min(seconds), 4),
            "memory_bytes": most_memory(),
            "heads": _agreements(engine, prediction), "unknown_codes": _unknown_codes(engine.manifest, prediction),
        }  # fmt: skip


def most_memory() -> int:
    """The most bytes that this process has held in memory."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    # Without /proc: exec leaves in it what the process that started this one had held, an engine among it.
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reason_of(settings: Settings, folder: Path, error: EngineError) -> str:
    """Why a model is refused, in one line: names the head at fault where one fails that is opened alone."""
    try:
        names = Manifest.load(manifest_path(str(folder))).head_names
    except EngineError:
        return one_line(error)
    # Only after a failure: each opening takes seconds, and a sound model is opened once.
    for name in names if len(names) > 1 else ():
        if (problem := _problem_of(settings, folder, name)) is not None:
            return f"head {name}: {problem}"
    return one_line(error)


def _problem_of(settings: Settings, folder: Path, head: str) -> str | None:
    """What is wrong with a head that is opened alone; None where nothing is."""
    try:
        with _opened(settings, folder, (head,)) as engine:
            verify_golden(engine)
    except EngineError as error:
        return one_line(error)
    return None


def _opened(settings: Settings, folder: Path, heads: tuple[str, ...]) -> Engine:
    return open_engine(
        str(folder), heads=heads, backend=settings.backend, threads=settings.threads, max_batch=max(settings.batch, 1),
        built=settings.data_dir / "engines", build=settings.build_engine, choices=settings.data_dir / "backends.json",
    )  # fmt: skip


def _agreements(engine: Engine, prediction: Prediction) -> dict[str, float]:
    """By head, the share of the golden tile's pixels that have the recorded class; empty without a golden tile."""
    manifest = engine.manifest
    if manifest.golden is None or engine.folder is None:
        return {}
    answers = zip(manifest.golden_answers, read_answers(manifest, engine.folder), prediction.heads, strict=True)
    return {name: round(pixel_agreement(head.classes[0], answer), 6) for name, answer, head in answers}


def _unknown_codes(manifest: Manifest, prediction: Prediction) -> dict[str, list[int]]:
    """By head, codes in a prediction that are no class of it; heads without such codes are left out."""
    tables = {head.name: head.classes for head in manifest.opened_heads} or {"": manifest.classes}
    unknown = {}
    for (name, table), head in zip(tables.items(), prediction.heads, strict=True):
        codes = {int(code) for code in np.unique(head.classes)} - {item.code for item in table}
        if codes:
            unknown[name] = sorted(codes)
    return unknown


def main() -> None:
    """Writes the verdict: {"figures": ...} or {"refused": ...}."""
    parent, folder = int(sys.argv[1]), Path(sys.argv[2])
    end_with_parent(parent)
    os.nice(10)
    # No limit of address space: CUDA and OpenVINO reserve far more than they use. The parent watches resident memory
    # (docs/decisions/0015).
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # where memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # The service's own environment: backend, threads and built engines are those that the worker will use.
    settings = read_settings()
    try:
        verdict: dict[str, Any] = {"figures": probe(settings, folder)}
    except EngineError as error:
        verdict = {"refused": reason_of(settings, folder, error)}
    sys.stdout.write(json.dumps(verdict) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a runtime's threads are not waited for


if __name__ == "__main__":
    main()
