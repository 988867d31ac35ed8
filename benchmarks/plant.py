"""A simulated board for the governor: power by load, and heat by one thermal resistance and one capacity.

What the governor sees of it is late, noisy and sometimes missing; what the constants are, it is not told.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onboard.power.governor import Governor, Limits, Measurement


@dataclass(frozen=True)
class Plant:
    """Constants of a board.

    Attributes:
        rest_w, work_w: power without and with work (the paper measured 5.74 W and 18.95 W).
        ambient_c: around it.
        k_per_w: thermal resistance, kelvin a watt.
        j_per_k: heat capacity.
        noise_w: deviation of a power reading.
        delay_s: age of a reading when it arrives.
        lost: share of readings that never come; every hour one silence of a minute besides.
    """

    rest_w: float = 5.74
    work_w: float = 18.95
    ambient_c: float = 25.0
    k_per_w: float = 2.2
    j_per_k: float = 60.0
    noise_w: float = 0.4
    delay_s: float = 1.0
    lost: float = 0.05


@dataclass
class Trace:
    """What happened, a value a step of one second."""

    power_w: NDArray[np.float64]
    heat_c: NDArray[np.float64]
    work: NDArray[np.bool_]
    states: list[str] = field(default_factory=list)


def simulate(plant: Plant, limits: Limits, seconds: int, seed: int = 0, *, sees_power: bool = True) -> Trace:
    """Runs governor against plant, one decision a second: a batch takes about so long."""
    rng = np.random.default_rng(seed)
    governor = Governor(limits, seconds_of_day=lambda: now % 86400.0)
    power, heat = np.empty(seconds), np.empty(seconds)
    work = np.empty(seconds, bool)
    states: list[str] = []
    noise, lost = rng.normal(0, plant.noise_w, seconds), rng.random(seconds) < plant.lost
    jitter = rng.normal(0, 0.03, seconds)
    coming: deque[Measurement] = deque()
    temperature, now = plant.ambient_c + plant.k_per_w * plant.rest_w, 0.0
    for step in range(seconds):
        now = float(step)
        # The governor hears of a reading late, with the time at which it was taken.
        while coming and now - coming[0].at_s >= plant.delay_s:
            governor.add_measurement(coming.popleft())
        decision = governor.decide(now)
        drawn = (plant.work_w if decision.work else plant.rest_w) * (1 + jitter[step])
        # Euler's rule with steps of one second: the time constant is 132 s (2.2 K/W times 60 J/K).
        temperature += (drawn - (temperature - plant.ambient_c) / plant.k_per_w) / plant.j_per_k
        power[step], heat[step], work[step] = drawn, temperature, decision.work
        states.append(decision.state)
        # A minute without any reading, in the middle of each hour.
        silent = 1800 <= step % 3600 < 1860
        if not silent and not lost[step]:
            seen = drawn + noise[step] if sees_power else None
            coming.append(Measurement(now, seen, temperature + rng.normal(0, 0.3)))
    return Trace(power, heat, work, states)


def window_means(power_w: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean over every window of so many seconds."""
    # Differences of a running sum: every window in one pass.
    total = np.concatenate([[0.0], np.cumsum(power_w)])
    means: NDArray[np.float64] = (total[window:] - total[:-window]) / window
    return means


def best_duty(plant: Plant, limits: Limits) -> float:
    """Largest constant share of work that keeps mean power, orbit and heat, by the plant's own constants."""
    allowed = [plant.work_w]
    if limits.mean_w is not None:
        allowed.append(limits.mean_w)
    if limits.orbit_j is not None:
        allowed.append(limits.orbit_j / limits.orbit_s)
    if limits.hot_c is not None:
        # In a steady state heat above ambient is power times resistance.
        allowed.append((limits.hot_c - plant.ambient_c) / plant.k_per_w)
    duty = (min(allowed) - plant.rest_w) / (plant.work_w - plant.rest_w)
    return float(min(1.0, max(0.0, duty)))


def turns(work: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Seconds between one beginning of work and the next."""
    begins = np.flatnonzero(np.diff(work.astype(int)) == 1)
    return np.diff(begins)
