"""Throughput, latency and energy of an engine on tiles that are already in memory."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engines.command_line import counted
from engines.cpu import processor
from engines.engine import Engine, Tiles
from engines.errors import BackendUnavailable, EngineDamaged, EngineElsewhere, InferenceFailed, SettingRefused
from engines.manifest import Manifest
from engines.open import backend_states, manifest_path, open_engine
from engines.profiling.layer_report import LayerReport, layers_or_problem
from engines.profiling.power import Wattmeter, joules_between, power_meter
from engines.profiling.roofline import Rates, Roof, roof, useful_pixels
from engines.verify import golden_tiles

_LEAST_CALLS = 3
_MOST_SECONDS = 86400.0


@dataclass(frozen=True)
class BatchTiming:
    """Timing of one batch size after one warm-up call; latencies are of a whole call, not of a tile."""

    batch: int
    calls: int
    tiles_per_s: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_min_ms: float
    joules_per_tile: float | None = None


def time_batches(
    engine: Engine, batches: Sequence[int], *, seconds: float, meter: Wattmeter | None = None
) -> list[BatchTiming]:
    """Times each batch size for about `seconds` and three calls at least, all on the same tiles.

    Raises:
        SettingRefused: a batch the engine does not take, or no time.
    """
    # NaN is neither; to infinity a bench would never end.
    if not 0 < seconds <= _MOST_SECONDS:
        raise SettingRefused("seconds", seconds, f"more than 0, {_MOST_SECONDS:g} at most")
    for batch in batches:
        if not 1 <= batch <= engine.max_batch:
            raise SettingRefused("batch", batch, f"a whole number from 1 to {engine.max_batch}")
    tiles = golden_tiles(engine, max(batches))
    return [_timed(engine, tiles[:batch], seconds, meter) for batch in batches]


@dataclass(frozen=True)
class Row:
    """One model on one backend: its timings, or why there are none."""

    model: str
    engine: str
    pixels: int
    flops: int | None
    timings: list[BatchTiming]
    problem: str = ""


@dataclass
class Bench:
    """Results of one run, of a part of it if `interrupted`.

    `peak` is this machine's own; `roofs` and `layers` are computed, not measured.
    """

    peak: Rates
    rows: list[Row] = field(default_factory=list)
    roofs: list[tuple[str, int, Roof]] = field(default_factory=list)
    layers: list[LayerReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False

    def count(self, model: str | Path | None, manifest: Manifest, devices: Sequence[Rates]) -> None:
        """Adds a model's roofline bounds on `devices`, and the expected time of its layers."""
        name = f"{manifest.name} {manifest.version}"
        layers, problem = layers_or_problem(model)
        if manifest.cost is not None:
            pixels = useful_pixels(manifest)
            self.roofs += [(name, pixels, roof(manifest.cost, rates, layers)) for rates in devices]
        if layers:
            self.layers.append(LayerReport(name, layers))
        else:
            self.problems.append(f"{name}: layers are not counted: {problem}")

    def facts(self) -> dict[str, Any]:
        """For machines."""
        roofs = [{"model": model, "pixels": pixels, **asdict(roof)} for model, pixels, roof in self.roofs]
        return {"peak": asdict(self.peak), "rows": [asdict(row) for row in self.rows], "roofs": roofs} | (
            {"interrupted": True} if self.interrupted else {}
        )

    def table(self) -> str:
        """For people: a line for each batch, then the roofs."""
        width = max(len(f"{row.model}, {row.engine}") for row in self.rows)
        lines = [f"{'':<{width}}  batch  tiles/s  useful Mpx/s  p50 ms  p95 ms  of FP32 peak  J/tile"]
        for row in self.rows:
            name = f"{row.model}, {row.engine}"
            if row.problem:
                lines.append(f"{name:<{width}}  {row.problem}")
            for timing in row.timings:
                rate = timing.tiles_per_s
                share = "" if row.flops is None else f"{rate * row.flops / self.peak.flops_per_s:.0%}"
                joules = "-" if timing.joules_per_tile is None else f"{timing.joules_per_tile:.2f}"
                lines.append(
                    f"{name:<{width}}  {timing.batch:5} {rate:8.3f} {rate * row.pixels / 1e6:13.2f} "
                    f"{timing.latency_p50_ms:7.0f} {timing.latency_p95_ms:7.0f} {share:>13} {joules:>7}"
                )
        if self.roofs:
            lines += ["", "counted, not timed: bound by the device's peak; expected layer by layer (see --layers)"]
            for model, pixels, roof in self.roofs:
                expected = "nothing to expect by"
                if roof.expected_tiles_per_s is not None:
                    rate, least = roof.expected_tiles_per_s, roof.cautious_tiles_per_s
                    useful = f"{rate * pixels / 1e6:.1f} useful Mpx/s"
                    expected = f"expected {rate:.1f} tiles/s, {useful} (cautious {least:.1f} tiles/s)"
                bound = f"bound {roof.bound_tiles_per_s:.1f} tiles/s ({roof.limit})"
                lines.append(f"  {model} on {roof.device}: {bound}; {expected}")
        lines += [f"\n{report.short_table()}" for report in self.layers] + self.problems
        return "\n".join(lines)


def bench(
    models: Sequence[str | Path | None], backends: Sequence[str] | None, cpu: Rates, *, batches: Sequence[int],
    seconds: float, threads: int | None = None, spinning: bool = True, devices: Sequence[Rates] = (),
) -> Bench:  # fmt: skip
    """Times each model on each backend, one after the other, and counts what bounds them.

    A model with heads is timed twice: with its first head, and with all.

    Args:
        models: names, folders, or None for the shipped default.
        backends: names; None for all of this machine, those left out that cannot run a model.
        cpu: this machine's peak.
        batches: tiles in a call.
        seconds: for each of them.
        threads: of the engines.
        spinning: idle threads wait awake.
        devices: to count bounds for.

    Raises:
        OpeningRefused: a model or a backend that was named cannot be opened.
        KeyboardInterrupt: before anything was measured; afterwards the rows are given back.
    """
    result = Bench(cpu)
    named = backends or [state.name for state in backend_states() if state.version]
    if not named:
        raise BackendUnavailable("bench", "no backend is usable here", "`engines list` says why")
    with power_meter() as meter:
        try:
            for model in models:
                manifest = Manifest.load(manifest_path(model))
                for backend, heads in itertools.product(named, _sets_of_heads(manifest)):
                    opened = manifest.with_heads(heads)
                    name = " + ".join([f"{manifest.name} {manifest.version}", *heads[1:]])
                    pixels, flops = useful_pixels(opened), None if opened.cost is None else opened.cost.flops
                    try:
                        with open_engine(
                            model, heads=heads, backend=backend, threads=threads, spinning=spinning,
                            # The golden tile decides what flies, not what may be timed.
                            max_batch=max(8, *batches, 1), check_golden=False,
                        ) as engine:  # fmt: skip
                            timings = time_batches(engine, batches, seconds=seconds, meter=meter)
                            engine_name = f"{engine.backend} {engine.precision}"
                            result.rows.append(Row(name, engine_name, pixels, flops, timings))
                    except (BackendUnavailable, EngineElsewhere, EngineDamaged, InferenceFailed) as error:
                        # A backend that the user named is an error; one of "all" is a row with the reason, beside what
                        # was measured of the others.
                        if backends is not None:
                            raise
                        problem = getattr(error, "problem", str(error))
                        result.rows.append(Row(name, backend, pixels, flops, [], problem))
                if devices:
                    result.count(model, manifest, (*devices, cpu))
        except KeyboardInterrupt:
            # What was measured took minutes; where nothing was, there is nothing to show.
            if not result.rows:
                raise
            result.interrupted = True
            result.problems.append("interrupted: what comes after these rows was not measured")
    return result


def _sets_of_heads(manifest: Manifest) -> list[tuple[str, ...]]:
    """Heads that are timed together: the first alone, and all at once."""
    names = manifest.head_names
    return [names[:1]] if len(names) < 2 else [names[:1], names]


def machine() -> str:
    """Processor, cores and load: figures from a busy machine cannot be compared."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{processor()}, {counted(os.cpu_count() or 1, 'core')}{load}, {platform.system()} {platform.machine()}"


def _timed(engine: Engine, tiles: Tiles, seconds: float, meter: Wattmeter | None) -> BatchTiming:
    # Not timed: the first call allocates, and some runtimes compile in it.
    engine.infer(tiles)
    before = None if meter is None else meter.energy()
    latencies: list[float] = []
    begin = time.perf_counter()
    while len(latencies) < _LEAST_CALLS or time.perf_counter() - begin < seconds:
        started = time.perf_counter()
        engine.infer(tiles)
        latencies.append(time.perf_counter() - started)
    took = time.perf_counter() - begin
    joules = None if meter is None or before is None else joules_between(before, meter.energy(), took)
    p50, p95 = np.percentile(latencies, (50, 95)) * 1e3
    return BatchTiming(
        batch=len(tiles),
        calls=len(latencies),
        # Over the time spent in calls: the loop around them is not the engine's.
        tiles_per_s=len(tiles) * len(latencies) / sum(latencies),
        latency_p50_ms=float(p50),
        latency_p95_ms=float(p95),
        latency_min_ms=min(latencies) * 1e3,
        joules_per_tile=None if joules is None else joules / (len(tiles) * len(latencies)),
    )
