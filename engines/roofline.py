"""How fast a model could run on a named device: a bound from what the device can do, an expectation from what was seen.

The bound is the roofline: no faster than its arithmetic, no faster than its memory. Source: Williams, Waterman,
Patterson, "Roofline: An Insightful Visual Performance Model", CACM 2009. The expectation, for Orin NX only, is the
rate at which the paper's model ran there: 2.5 tiles/s of 548 GFLOP counted whole = 1.37 TFLOP/s (Shu et al. 2026).
Neither is a measurement of this software.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engines.manifest import Cost, Manifest

PAPER_FLOPS_PER_S = 1.37e12
_LEAST_CALLS = 3


@dataclass(frozen=True)
class Rates:
    """What a device can do at most.

    Attributes:
        flops_per_s: dense, FP16 with tensor cores (FP32 for this CPU).
        bytes_per_s: of its memory.
        seen_flops_per_s: at which a comparable model was seen to run, None where none was.
        source: of the numbers.
        number_bytes: of one value there; costs are counted at two.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    seen_flops_per_s: float | None
    source: str
    number_bytes: int = 2


def _orin(mode: str, clock_mhz: int) -> Rates:
    # 8 SM x 4 tensor cores, dense: 16.3 GFLOP/s a MHz, that is 15 TFLOP/s at 918 MHz.
    return Rates(
        f"Orin NX 16 GB, {mode}, GPU {clock_mhz} MHz", clock_mhz * 15.0e12 / 918, 102e9, PAPER_FLOPS_PER_S,
        "NVIDIA's clocks by mode as others measured them; 15 TFLOP/s dense FP16 at 918 MHz; 102 GB/s",
    )  # fmt: skip


DEVICES = (
    _orin("25W", 408), _orin("MAXN", 918), _orin("40W", 1173),
    Rates("H200", 989e12, 4.8e12, None, "NVIDIA H200 data sheet, dense FP16"),
)  # fmt: skip


@dataclass(frozen=True)
class Roof:
    """Of one model on one device; expected_tiles_per_s is None where nothing comparable was seen."""

    device: str
    bound_tiles_per_s: float
    limit: str
    expected_tiles_per_s: float | None


def roof(cost: Cost, rates: Rates) -> Roof:
    """The bound, what sets it ("arithmetic" or "memory"), and the expectation, which never exceeds the bound."""
    arithmetic, memory = cost.flops / rates.flops_per_s, cost.bytes_moved / 2 * rates.number_bytes / rates.bytes_per_s
    bound = 1 / max(arithmetic, memory)
    expected = None if rates.seen_flops_per_s is None else min(bound, rates.seen_flops_per_s / cost.flops)
    return Roof(rates.name, bound, "arithmetic" if arithmetic >= memory else "memory", expected)


def useful_pixels(manifest: Manifest) -> int:
    """Pixels of a tile that reach the map once the halo is cut."""
    return (manifest.input.tile_size - 2 * manifest.halo) ** 2


def this_cpu(seconds: float = 1.0) -> Rates:
    """Measured now: FP32 matrix products by NumPy's BLAS on the cores it may use, and copying in memory."""
    side = 1536
    one, other = (np.random.default_rng(seed).random((side, side), np.float32) for seed in (0, 1))
    product = np.empty_like(one)
    best = _best(lambda: np.matmul(one, other, out=product), seconds / 2)
    source = np.ones(1 << 24, np.float32)
    target = np.empty_like(source)
    copy = _best(lambda: np.copyto(target, source), seconds / 2)
    told = "measured: GEMM FP32, and memory copy on touched pages"
    return Rates("this CPU", 2 * side**3 / best, 2 * source.nbytes / copy, None, told, number_bytes=4)


def _best(work: Callable[[], object], seconds: float) -> float:
    """Least of three calls or more, after one that does not count: it touches pages for the first time.

    The kernel hands such pages out one by one; where that is slow, a copy onto them measures the kernel (0.25 GB/s in a
    sandbox whose memory copies at 36).
    """
    work()
    begin, took = time.perf_counter(), list[float]()
    while len(took) < _LEAST_CALLS or time.perf_counter() - begin < seconds:
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)
