"""CUDA's driver as the TensorRT backend needs it: a thin seam, and the two packages that can stand behind it.

PyCUDA is the first choice; cuda-python takes its place where only that is installed. Neither is imported before a
driver is opened, and neither makes a context of its own: the device's primary one is retained, pushed on the thread
that opens and popped when it closes.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.errors import BackendUnavailable, one_line

# PyCUDA's setup finds CUDA by nvcc on the path, or by a file of settings; it reads no variable (2026.1, setup.py).
REMEDY = (
    f"PATH=/usr/local/cuda/bin:$PATH {sys.executable} -m pip install pycuda (docs/jetson-operations.md), "
    "or take onnxruntime"
)
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


class CudaError(Exception):
    """A call of the driver failed; `retryable` where memory was short and nothing else is wrong."""

    def __init__(self, problem: str, *, retryable: bool) -> None:
        self.retryable = retryable
        super().__init__(problem)


@dataclass(frozen=True)
class Pinned:
    """Page-locked memory of the host.

    Attributes:
        array: uint8 (bytes,), as the CPU sees it.
        device: the address under which the GPU sees the same bytes.
        owner: what must be kept and freed.
    """

    array: NDArray[np.uint8]
    device: int
    owner: Any


class Driver(Protocol):
    """The calls that are made, each on the thread that opened the driver. All but the last four may raise CudaError.

    Attributes:
        name: of the package behind it.
        unified: CPU and GPU share their memory, as on Jetson.
    """

    @property
    def name(self) -> str:
        """Of the package."""

    @property
    def unified(self) -> bool:
        """CPU and GPU share memory."""

    def alloc(self, size: int) -> Any:
        """Device memory; `int` of it is its address."""

    def pinned(self, size: int) -> Pinned:
        """Page-locked host memory, mapped for the device."""

    def stream(self) -> Any:
        """A queue of work."""

    def handle(self, stream: Any) -> int:
        """A stream's address, for TensorRT."""

    def event(self) -> Any:
        """A mark in a stream, without timing. Who waits for it sleeps: a core that spins meanwhile costs power."""

    def record(self, event: Any, stream: Any) -> None:
        """Marks what is in the stream by now."""

    def wait(self, stream: Any, event: Any) -> None:
        """The stream goes on when the mark is reached."""

    def synchronize(self, event: Any) -> None:
        """This thread goes on when the mark is reached."""

    def copy_in(self, device: int, pinned: Pinned, size: int, stream: Any) -> None:
        """Host to device, in the stream."""

    def copy_out(self, pinned: Pinned, device: int, size: int, stream: Any) -> None:
        """Device to host, in the stream."""

    def drain(self) -> None:
        """Waits for everything, whatever came of it."""

    def free(self, memory: Any) -> None:
        """Of `alloc`."""

    def free_pinned(self, pinned: Pinned) -> None:
        """Of `pinned`."""

    def close(self) -> None:
        """Gives the context back; streams and events are gone before."""


def check_package() -> None:
    """Passes where one of the packages is installed; loads none.

    Raises:
        BackendUnavailable: none is. An engine could be built for minutes, and then not be run.
    """
    for name in ("pycuda", "cuda.bindings"):
        # ModuleNotFoundError: there is no package "cuda" to look into.
        with suppress(ModuleNotFoundError):
            if find_spec(name) is not None:
                return
    raise BackendUnavailable("tensorrt", "neither pycuda nor cuda-python is installed", REMEDY)


def open_driver() -> Driver:
    """The first package that loads and finds a GPU, its primary context current on this thread.

    Raises:
        BackendUnavailable: none does; names what each said.
    """
    refusals = []
    for kind in (PyCuda, CudaPython):
        try:
            return kind()
        except (ImportError, OSError, RuntimeError, CudaError) as error:  # noqa: PERF203 - two packages
            refusals.append(f"{kind.name}: {one_line(error)}")
    raise BackendUnavailable("tensorrt", f"no CUDA here ({'; '.join(refusals)})", REMEDY)


class PyCuda:
    """PyCUDA; keeps the Driver contract."""

    name = "pycuda"

    def __init__(self, module: ModuleType | None = None) -> None:
        self._cuda: Any = module or importlib.import_module("pycuda.driver")
        with self._translated():
            self._cuda.init()
            device = self._cuda.Device(0)
            self.unified = bool(device.get_attribute(self._cuda.device_attribute.INTEGRATED))
            self._context = device.retain_primary_context()
            # TensorRT works in the context that is current on the calling thread.
            try:
                self._context.push()
            except self._cuda.Error:
                self._context.detach()
                raise

    def alloc(self, size: int) -> Any:
        """See Driver."""
        with self._translated():
            return self._cuda.mem_alloc(size)

    def pinned(self, size: int) -> Pinned:
        """See Driver."""
        with self._translated():
            # DEVICEMAP gives the same bytes an address on the device: where memory is shared, nothing need be copied.
            flags = self._cuda.host_alloc_flags.DEVICEMAP
            array = self._cuda.pagelocked_empty(size, np.uint8, mem_flags=flags)
            return Pinned(array, int(array.base.get_device_pointer()), array.base)

    def stream(self) -> Any:
        """See Driver."""
        with self._translated():
            return self._cuda.Stream()

    def handle(self, stream: Any) -> int:
        """See Driver."""
        return int(stream.handle)

    def event(self) -> Any:
        """See Driver."""
        with self._translated():
            flags = self._cuda.event_flags
            return self._cuda.Event(int(flags.DISABLE_TIMING) | int(flags.BLOCKING_SYNC))

    def record(self, event: Any, stream: Any) -> None:
        """See Driver."""
        with self._translated():
            event.record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        """See Driver."""
        with self._translated():
            stream.wait_for_event(event)

    def synchronize(self, event: Any) -> None:
        """See Driver."""
        with self._translated():
            event.synchronize()

    def copy_in(self, device: int, pinned: Pinned, size: int, stream: Any) -> None:
        """See Driver."""
        with self._translated():
            self._cuda.memcpy_htod_async(device, pinned.array[:size], stream)

    def copy_out(self, pinned: Pinned, device: int, size: int, stream: Any) -> None:
        """See Driver."""
        with self._translated():
            self._cuda.memcpy_dtoh_async(pinned.array[:size], device, stream)

    def drain(self) -> None:
        """See Driver."""
        with self._quiet():
            self._context.synchronize()

    def free(self, memory: Any) -> None:
        """See Driver."""
        with self._quiet():
            memory.free()

    def free_pinned(self, pinned: Pinned) -> None:
        """See Driver."""
        with self._quiet():
            pinned.owner.free()

    def close(self) -> None:
        """See Driver."""
        with self._quiet():
            self._cuda.Context.pop()
            self._context.detach()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            short = isinstance(error, self._cuda.MemoryError)
            raise CudaError(f"{self.name}: {one_line(error)}", retryable=short) from error

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """What frees must go on: after a failed launch every call fails, and the process still has to let go."""
        try:
            yield
        except self._cuda.Error:
            return


class CudaPython:
    """NVIDIA's cuda-python; keeps the Driver contract."""

    name = "cuda-python"

    def __init__(self, module: ModuleType | None = None) -> None:
        self._cuda: Any = module or importlib.import_module("cuda.bindings.driver")
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", 0)
        integrated = self._cuda.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED
        self.unified = bool(self._call("cuDeviceGetAttribute", integrated, self._device))
        context = self._call("cuDevicePrimaryCtxRetain", self._device)
        try:
            self._call("cuCtxPushCurrent", context)
        except CudaError:
            self._quiet("cuDevicePrimaryCtxRelease", self._device)
            raise
        # cuda-python does not destroy what it made when the object goes; PyCUDA does.
        self._made: list[tuple[str, Any]] = []

    def alloc(self, size: int) -> Any:
        """See Driver."""
        return self._call("cuMemAlloc", size)

    def pinned(self, size: int) -> Pinned:
        """See Driver."""
        address = int(self._call("cuMemHostAlloc", size, self._cuda.CU_MEMHOSTALLOC_DEVICEMAP))
        # NumPy does not own these bytes: free_pinned gives them back by their address.
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return Pinned(array, int(self._call("cuMemHostGetDevicePointer", address, 0)), address)

    def stream(self) -> Any:
        """See Driver."""
        # Without this flag a stream waits for work that a library puts into the default stream.
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        return self._registered("cuStreamDestroy", self._call("cuStreamCreate", flags))

    def handle(self, stream: Any) -> int:
        """See Driver."""
        return int(stream)

    def event(self) -> Any:
        """See Driver."""
        flags = self._cuda.CUevent_flags
        asked = int(flags.CU_EVENT_DISABLE_TIMING) | int(flags.CU_EVENT_BLOCKING_SYNC)
        return self._registered("cuEventDestroy", self._call("cuEventCreate", asked))

    def record(self, event: Any, stream: Any) -> None:
        """See Driver."""
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        """See Driver."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronize(self, event: Any) -> None:
        """See Driver."""
        self._call("cuEventSynchronize", event)

    def copy_in(self, device: int, pinned: Pinned, size: int, stream: Any) -> None:
        """See Driver."""
        self._call("cuMemcpyHtoDAsync", device, pinned.array.ctypes.data, size, stream)

    def copy_out(self, pinned: Pinned, device: int, size: int, stream: Any) -> None:
        """See Driver."""
        self._call("cuMemcpyDtoHAsync", pinned.array.ctypes.data, device, size, stream)

    def drain(self) -> None:
        """See Driver."""
        self._quiet("cuCtxSynchronize")

    def free(self, memory: Any) -> None:
        """See Driver."""
        self._quiet("cuMemFree", memory)

    def free_pinned(self, pinned: Pinned) -> None:
        """See Driver."""
        self._quiet("cuMemFreeHost", pinned.owner)

    def close(self) -> None:
        """See Driver."""
        for call, made in reversed(self._made):
            self._quiet(call, made)
        self._made.clear()
        self._quiet("cuCtxPopCurrent")
        self._quiet("cuDevicePrimaryCtxRelease", self._device)

    def _registered(self, destroy: str, made: Any) -> Any:
        self._made.append((destroy, made))
        return made

    def _call(self, name: str, *given: Any) -> Any:
        function: Callable[..., tuple[Any, ...]] = getattr(self._cuda, name)
        # Each call gives a tuple: a CUresult and then its results, and raises nothing.
        code, *results = function(*given)
        if int(code) != 0:
            raise CudaError(f"{name} failed: {code}", retryable=int(code) == _OUT_OF_MEMORY)
        return results[0] if results else None

    def _quiet(self, name: str, *given: Any) -> None:
        """Frees: their failure is not looked at, see PyCuda."""
        getattr(self._cuda, name)(*given)
