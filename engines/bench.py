"""How fast an engine is on tiles already in memory."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.engine import Engine, Tiles
from engines.errors import SettingRefused
from engines.verify import golden_tiles

_LEAST_CALLS = 3


@dataclass(frozen=True)
class BatchTiming:
    """Calls of one batch size, after one call of warm-up; latencies are of a whole call."""

    batch: int
    calls: int
    tiles_per_s: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_min_ms: float


def time_batches(engine: Engine, batches: Sequence[int], *, seconds: float) -> list[BatchTiming]:
    """Times each batch size for about `seconds` and three calls at least, all on the same tiles.

    Raises:
        SettingRefused: a batch the engine does not take, or no time.
    """
    if not seconds > 0:
        raise SettingRefused("seconds", seconds, "more than 0")
    for batch in batches:
        if not 1 <= batch <= engine.max_batch:
            raise SettingRefused("batch", batch, f"a whole number from 1 to {engine.max_batch}")
    tiles = golden_tiles(engine, max(batches))
    return [_timed(engine, tiles[:batch], seconds) for batch in batches]


def machine() -> str:
    """Processor, cores and load: a busy machine's figures are not its figures."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{processor()}, {os.cpu_count()} cores{load}, {platform.system()} {platform.machine()}"


def _timed(engine: Engine, tiles: Tiles, seconds: float) -> BatchTiming:
    engine.infer(tiles)
    latencies: list[float] = []
    begin = time.perf_counter()
    while len(latencies) < _LEAST_CALLS or time.perf_counter() - begin < seconds:
        started = time.perf_counter()
        engine.infer(tiles)
        latencies.append(time.perf_counter() - started)
    p50, p95 = np.percentile(latencies, (50, 95)) * 1e3
    return BatchTiming(
        batch=len(tiles),
        calls=len(latencies),
        tiles_per_s=len(tiles) * len(latencies) / sum(latencies),
        latency_p50_ms=float(p50),
        latency_p95_ms=float(p95),
        latency_min_ms=min(latencies) * 1e3,
    )


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Its name."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"
