"""Telemetry of a board that never was, as `ground telemetry` lays it down: for the demonstration and its benchmark.

Power follows the paper's 5.74 W at rest and 18.95 W at work, heat one resistance and one capacity; both by
`benchmarks.plant`, whose constants are assumed. Nothing here was measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.plant import Plant

STEP_S = 60.0
ORBIT_S = 5700.0
PAGE_ROWS = 2000
SHARES = {"VDD_IN": 1.0, "VDD_CPU_GPU_CV": 0.55, "VDD_SOC": 0.2}
ZONES = {"tj-thermal": 2.0, "gpu-thermal": 1.0, "cpu-thermal": 0.0}
TILES_PER_S = 0.55


def write_history(folder: Path, *, end_s: float, days: float, seed: int = 1, step_s: float = STEP_S) -> int:
    """Writes FOLDER/history/000-*.parquet and a state that goes on after it; gives the rows."""
    columns = _columns(end_s - days * 86400, round(days * 86400 / step_s), step_s, np.random.default_rng(seed))
    history = folder / "history"
    history.mkdir(parents=True, exist_ok=True)
    ticks = columns["tick"]
    # Pages and names as ground.telemetry writes them: the console must not tell the difference.
    for begin in range(0, len(ticks), PAGE_ROWS):
        page = {name: values[begin : begin + PAGE_ROWS] for name, values in columns.items()}
        first, last = int(page["tick"][0]), int(page["tick"][-1])
        table = pa.table({name: pa.array(values) for name, values in page.items()})
        pq.write_table(table.replace_schema_metadata({"step_s": f"{step_s:g}"}), _path(history, first, last))
    # The service's own history is another axis: its files come as the next epoch.
    (folder / "state.json").write_text('{"tick": null, "event": 0, "epoch": 1}')
    return len(ticks)


def _path(history: Path, first: int, last: int) -> Path:
    return history / f"000-{first:015d}-{last:015d}.parquet"


def _columns(begin_s: float, rows: int, step_s: float, chance: np.random.Generator) -> dict[str, NDArray[Any]]:
    plant, seconds = Plant(), np.arange(rows) * step_s
    # Work in a part of each orbit, now and then none at all; half a day in which nothing was measured.
    phase, orbit = (seconds % ORBIT_S) / ORBIT_S, (seconds // ORBIT_S).astype(int)
    shares = chance.uniform(0.15, 0.5, orbit.max() + 1) * (chance.random(orbit.max() + 1) > 0.2)
    busy = (phase < shares[orbit]).astype(np.float64)
    watts = np.where(busy > 0, plant.work_w, plant.rest_w) * (1 + chance.normal(0, 0.02, rows))
    heat = np.empty(rows)
    temperature = plant.ambient_c
    # The exact answer for power that is constant over a step: stable for steps of any length.
    decay = np.exp(-step_s / (plant.k_per_w * plant.j_per_k))
    for row in range(rows):
        goal = plant.ambient_c + plant.k_per_w * watts[row]
        temperature = goal + (temperature - goal) * decay
        heat[row] = temperature
    # Samples a row at 10 Hz, as the sampler takes them.
    columns: dict[str, NDArray[Any]] = {
        "tick": (1000 * seconds).astype(np.int64) + round(1000 * step_s), "utc_s": begin_s + seconds,
        "samples": np.full(rows, round(10 * step_s), np.int64),
    }  # fmt: skip
    for rail, share in SHARES.items():
        columns |= _field(f"power_w:{rail}", watts * share, 0.06, chance)
    for zone, above in ZONES.items():
        columns |= _field(f"temperature_c:{zone}", heat + above, 0.01, chance)
    columns |= _field("work:busy", busy, 0.0, chance)
    columns |= _field("work:tiles_per_s", busy * TILES_PER_S * (1 + chance.normal(0, 0.03, rows)), 0.1, chance)
    # The gap: the page has to show that nothing was measured, not zero.
    kept = (seconds < 0.55 * seconds[-1]) | (seconds > 0.55 * seconds[-1] + min(43_200, 0.1 * seconds[-1]))
    return {name: values[kept] for name, values in columns.items()}


def _field(
    name: str, mean: NDArray[np.float64], spread: float, chance: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    swing = np.abs(chance.normal(0, spread, len(mean))) * np.abs(mean)
    parts = {"min": mean - swing, "mean": mean, "max": mean + swing}
    return {f"{name}.{part}": values.astype(np.float32) for part, values in parts.items()}
