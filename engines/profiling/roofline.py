"""How fast a model could run on named devices: a bound from what a device can do, an expectation layer by layer.

The bound is the roofline: no faster than its arithmetic, no faster than its memory. Source: Williams, Waterman,
Patterson, "Roofline: An Insightful Visual Performance Model", CACM 2009. The expectation, for Orin only, takes each
layer for itself: the longer of its products at the rate that layers of its kind reach and its bytes at the rate that
memory is read at, and the time to start it. Neither is a measurement of this software.

The rates were chosen by four published latencies on a Jetson AGX Orin (EfficientViT B0, B1, L1, L2 for segmentation,
1024 x 2048, TensorRT, FP16); they meet those within 10 %, and seven that they were not chosen by within 12 %:
`python -m benchmarks roofline` prints the table, tests/engines/profiling/test_roofline.py holds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from engines.manifest import Cost, Manifest
from engines.profiling.layers import Kind, Layer

_LEAST_CALLS = 3
# FLOP a clock of one SM: dense FP16 on its tensor cores (8 SM at 918 MHz: 15 TFLOP/s), and FP16 on its CUDA cores
# (128 cores, fused multiply-add, two numbers at once). 8-bit products run at twice the former.
TENSOR_FLOPS_A_CLOCK, CUDA_FLOPS_A_CLOCK = 15.0e12 / 918e6 / 8, 512
# Shares of these peaks that layers of a kind reach.
REACHED: dict[Kind, float] = {"dense": 0.65, "thin": 0.22, "pointwise": 0.60, "matmul": 0.30, "depthwise": 0.10}
# Share of the memory's peak at which layers read and write what is counted here: formats are changed between layers,
# and not every activation is fused, so more is moved than counted.
MEMORY_REACHED = 0.39
# To start a kernel and drain it, at AGX Orin's clock; it grows as the clock falls.
START_S, START_CLOCK_HZ = 9e-6, 1.3e9


@dataclass(frozen=True)
class Orin:
    """An Orin's GPU as it is clocked.

    Attributes:
        sms: streaming multiprocessors.
        clock_hz: of them.
        bytes_per_s: of the memory, at most.
    """

    sms: int
    clock_hz: float
    bytes_per_s: float

    @property
    def flops_per_s(self) -> float:
        """Dense FP16 on tensor cores, at most."""
        return self.sms * self.clock_hz * TENSOR_FLOPS_A_CLOCK

    def seconds(self, layer: Layer) -> float:
        """Expected of one layer."""
        products = 0.0
        if layer.kind != "memory":
            peak = TENSOR_FLOPS_A_CLOCK * (1 + layer.int8) if layer.kind != "depthwise" else CUDA_FLOPS_A_CLOCK
            products = layer.flops / (self.sms * self.clock_hz * peak * REACHED[layer.kind])
        moved = layer.bytes_moved / (self.bytes_per_s * MEMORY_REACHED)
        return max(products, moved) + START_S * START_CLOCK_HZ / self.clock_hz

    def tiles_per_s(self, layers: Iterable[Layer]) -> float:
        """Expected of all layers, one after the other."""
        return 1 / sum(self.seconds(layer) for layer in layers)

    def cautious_tiles_per_s(self, layers: Iterable[Layer]) -> float:
        """The same if what waits for memory on AGX Orin waits for its GPU in truth, and so follows the clock too."""
        return AGX_ORIN.tiles_per_s(layers) * min(1.0, self.flops_per_s / AGX_ORIN.flops_per_s)


AGX_ORIN = Orin(sms=16, clock_hz=1.3e9, bytes_per_s=204.8e9)
"""Jetson AGX Orin 64 GB, MAXN. Source: NVIDIA's data sheet DS-10662-001."""


@dataclass(frozen=True)
class Rates:
    """What a device can do at most.

    Attributes:
        flops_per_s: dense, FP16 with tensor cores (FP32 for this CPU).
        bytes_per_s: of its memory.
        source: of the numbers.
        orin: where layers can be expected one by one; None elsewhere.
        number_bytes: of one value there; costs are counted at two.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    source: str
    orin: Orin | None = None
    number_bytes: int = 2


def _orin(mode: str, clock_mhz: int) -> Rates:
    orin = Orin(sms=8, clock_hz=clock_mhz * 1e6, bytes_per_s=102e9)
    return Rates(
        f"Orin NX 16 GB, {mode}, GPU {clock_mhz} MHz", orin.flops_per_s, orin.bytes_per_s,
        "NVIDIA's clocks by mode as others measured them; 15 TFLOP/s dense FP16 at 918 MHz; 102 GB/s", orin,
    )  # fmt: skip


DEVICES = (
    _orin("25W", 408), _orin("MAXN", 918), _orin("40W", 1173),
    Rates("H200", 989e12, 4.8e12, "NVIDIA H200 data sheet, dense FP16"),
)  # fmt: skip


@dataclass(frozen=True)
class Roof:
    """Of one model on one device; expectations are None where there is nothing to expect by."""

    device: str
    bound_tiles_per_s: float
    limit: str
    expected_tiles_per_s: float | None
    cautious_tiles_per_s: float | None


def roof(cost: Cost, rates: Rates, layers: Iterable[Layer] = ()) -> Roof:
    """The bound, what sets it ("arithmetic" or "memory"), and what is expected of the layers, where they are given."""
    arithmetic, memory = cost.flops / rates.flops_per_s, cost.bytes_moved / 2 * rates.number_bytes / rates.bytes_per_s
    expected = cautious = None
    if rates.orin is not None and (each := tuple(layers)):
        expected, cautious = rates.orin.tiles_per_s(each), rates.orin.cautious_tiles_per_s(each)
    limit = "arithmetic" if arithmetic >= memory else "memory"
    return Roof(rates.name, 1 / max(arithmetic, memory), limit, expected, cautious)


def useful_pixels(manifest: Manifest) -> int:
    """Pixels of a tile that reach the map once the halo is cut."""
    return (manifest.input.tile_size - 2 * manifest.halo) ** 2


def this_cpu(seconds: float = 1.0) -> Rates:
    """Measured now: FP32 matrix products by NumPy's BLAS on the cores it may use, and copying in memory."""
    side = 1536
    left, right = (np.random.default_rng(seed).random((side, side), np.float32) for seed in (0, 1))
    product = np.empty_like(left)
    best = _best(lambda: np.matmul(left, right, out=product), seconds / 2)
    # 64 MiB each, so that most of it lies outside the caches.
    source = np.ones(1 << 24, np.float32)
    target = np.empty_like(source)
    copy = _best(lambda: np.copyto(target, source), seconds / 2)
    method = "measured: GEMM FP32, and memory copy on touched pages"
    # A copy reads each byte and writes it.
    return Rates("this CPU", 2 * side**3 / best, 2 * source.nbytes / copy, method, number_bytes=4)


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
