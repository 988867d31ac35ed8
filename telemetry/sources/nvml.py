"""Discrete NVIDIA GPUs by NVML (package nvidia-ml-py, optional): power, temperature, load, clock, throttling.

On Jetson NVML may start and answer NotSupported to each of these: such a reading has no value and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from telemetry.readings import Reading, SourceState

NAME = "nvml"
RETRY_S = 30.0
# What is no throttling: nothing to do, and clocks that an application asked for.
_HARMLESS = 0x1 | 0x2


class Nvml:
    """All GPUs that NVML shows. Never raises while reading.

    Args:
        clock: monotonic seconds.
    """

    name = NAME
    period_s = 0.1

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nvml: Any = None
        self._handles: list[Any] = []
        self._problem = self._remedy = ""
        self._tried = float("-inf")

    def state(self) -> SourceState:
        """Which GPUs there are."""
        rails = tuple(dict.fromkeys(one.rail for one in self.read() if one.value is not None))
        if rails:
            return SourceState(NAME, rails)
        problem = self._problem or "the GPU answers NotSupported to everything"
        remedy = self._remedy or "on a Jetson this is so; other sources measure"
        return SourceState(NAME, problem=problem, remedy=remedy)

    def read(self) -> list[Reading]:
        """Readings of each GPU."""
        if not self._handles and not self._found():
            return []
        return [one for index, handle in enumerate(self._handles) for one in self._readings(f"gpu-{index}", handle)]

    def close(self) -> None:
        """Lets the library go."""
        if self._nvml is not None:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            self._nvml = None
        self._handles = []

    def _found(self) -> bool:
        if self._clock() - self._tried < RETRY_S:
            return False
        self._tried = self._clock()
        try:
            import pynvml  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            self._problem, self._remedy = "nvidia-ml-py is not installed", "pip install 'onboard-landcover[gpu]'"
            return False
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except pynvml.NVMLError as error:
            self._problem, self._remedy = f"NVML: {error}".lower(), "install the NVIDIA driver, or run without it"
            return False
        self._nvml = pynvml
        self._problem = "" if self._handles else "NVML shows no GPU"
        return bool(self._handles)

    def _readings(self, rail: str, handle: Any) -> Iterator[Reading]:
        nvml = self._nvml
        asked: tuple[tuple[str, Callable[[], float]], ...] = (
            ("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            ("temperature_c", lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            ("load", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            ("clock_hz", lambda: 1e6 * nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            ("throttle_state", lambda: float(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) & ~_HARMLESS > 0)),
        )
        for quantity, ask in asked:
            try:
                yield Reading(quantity, ask(), NAME, rail)
            except nvml.NVMLError as error:  # noqa: PERF203 -- a handful
                yield Reading(quantity, None, NAME, rail, reason=f"NVML: {error}".lower())
                if getattr(error, "value", None) in _lost(nvml):
                    self._handles = []  # found again later, if it comes back


def _lost(nvml: Any) -> tuple[int, ...]:
    names = ("NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_UNINITIALIZED", "NVML_ERROR_DRIVER_NOT_LOADED")
    return tuple(getattr(nvml, name) for name in names if hasattr(nvml, name))
