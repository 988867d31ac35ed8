"""Discrete NVIDIA GPUs by NVML (package nvidia-ml-py, optional): power, temperature, load, clock, throttling.

On Jetson NVML may start and answer NotSupported to each of these: such a reading has no value and says so.
Source: NVML API reference, device queries and nvmlClocksThrottleReasons.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from telemetry.readings import Reading, SourceState

NAME = "nvml"
RETRY_S = 30.0
# What is no throttling: nothing to do, and clocks that an application asked for.
_HARMLESS = 0x1 | 0x2
_NO_DRIVER = "install the NVIDIA driver, or run without it; in a container hand the GPU in"
_NOTHING = "the GPU answers NotSupported to everything", "on a Jetson this is so; other sources measure"


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
        self._handles: dict[int, Any] = {}
        self._lost = False
        self._trouble = _NOTHING
        self._tried = float("-inf")

    def state(self) -> SourceState:
        """Which GPUs there are."""
        rails = tuple(dict.fromkeys(reading.rail for reading in self.read() if reading.value is not None))
        if rails:
            return SourceState(NAME, rails)
        problem, remedy = self._trouble
        return SourceState(NAME, problem=problem, remedy=remedy)

    def read(self) -> list[Reading]:
        """Of each GPU watts, degrees Celsius, load as a share, SM clock in hertz, and 1 where it is held back, else 0.

        A GPU that is lost says so once; it is looked for again every RETRY_S, while the others go on.
        """
        if (not self._handles or self._lost) and self._clock() - self._tried >= RETRY_S:
            self._search()
        # A copy: a GPU that is lost is taken out meanwhile.
        return [reading for index, handle in list(self._handles.items()) for reading in self._readings(index, handle)]

    def close(self) -> None:
        """Lets the library go."""
        if self._nvml is not None:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            self._nvml = None
        self._handles = {}

    def _search(self) -> None:
        # NVML counts its users: only after the last one's shutdown does it look for a lost GPU again.
        self.close()
        self._tried, self._lost = self._clock(), False
        pynvml = _package()
        if pynvml is None:
            self._trouble = "nvidia-ml-py is not installed", f"{sys.executable} -m pip install nvidia-ml-py"
            return
        try:
            pynvml.nvmlInit()
            self._nvml = pynvml
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self._trouble = _said(error), _NO_DRIVER
            return
        self._trouble = _NOTHING if count else ("NVML shows no GPU", _NO_DRIVER)
        for index in range(count):
            try:
                self._handles[index] = pynvml.nvmlDeviceGetHandleByIndex(index)
            except pynvml.NVMLError as error:  # noqa: PERF203 -- a handful
                self._lose(index, error)

    def _readings(self, index: int, handle: Any) -> Iterator[Reading]:
        nvml, rail = self._nvml, f"gpu-{index}"
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
                yield Reading(quantity, None, NAME, rail, reason=_said(error))
                if getattr(error, "value", None) in _lost(nvml):
                    self._lose(index, error)
            except AttributeError as error:  # releases of the package rename functions
                yield Reading(quantity, None, NAME, rail, reason=f"nvml: {error}")

    def _lose(self, index: int, error: Exception) -> None:
        self._handles.pop(index, None)
        self._lost = True
        self._trouble = f"gpu-{index}: {_said(error)}", "reset the GPU or restart the machine"


def _package() -> Any:
    """The package; None where it is not there, or is a folder that an uninstallation left."""
    try:
        import pynvml  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return pynvml if hasattr(pynvml, "nvmlInit") else None


def _said(error: Exception) -> str:
    return f"NVML: {error}".lower()


def _lost(nvml: Any) -> tuple[int, ...]:
    names = ("NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_UNINITIALIZED", "NVML_ERROR_DRIVER_NOT_LOADED")
    return tuple(getattr(nvml, name) for name in names if hasattr(nvml, name))


def ecc_state() -> str:
    """Error correction of the first GPU's memory: "on", "off", or why that is not known.

    Source: NVML API reference, nvmlDeviceGetEccMode.
    """
    pynvml = _package()
    if pynvml is None:
        return "not known (nvidia-ml-py is not installed)"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"not known ({error})"
    try:
        current, _ = pynvml.nvmlDeviceGetEccMode(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        return f"not known ({error})"
    else:
        return "on" if current else "off"
    finally:
        with suppress(pynvml.NVMLError):
            # NVML counts its users: Nvml above keeps the library.
            pynvml.nvmlShutdown()
