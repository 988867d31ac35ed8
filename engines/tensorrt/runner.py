"""Runs a built TensorRT engine through CUDA's driver API.

One compute stream and one copy stream. The tiles of a call are split into chunks of the batch size that the engine was
tuned for, and pass through two slots of buffers: while one chunk is computed, the next one is copied in and the
previous one is copied out. All buffers are allocated when the engine is opened; a call allocates only the arrays that
it returns.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.engine import ClosesOnExit, EngineOptions, Prediction, Tiles, checked_tiles, engine_digest
from engines.errors import BackendUnavailable, EngineError, InferenceFailed, ModelMismatch, one_line
from engines.manifest import Manifest
from engines.outputs import OutputPort, output_ports, prediction_of
from engines.tensorrt.driver import CudaError, Driver, Pinned
from engines.tensorrt.engine_file import BuiltEngine, build_command
from engines.tensorrt.runtime import BACKEND, Runtime

# Two, within a call only: overlap across calls would gain under a millisecond (docs/decisions/0007-engines.md).
_SLOTS = 2
_TRIALS = 5  # calls of each kind of memory where both are possible


class TensorRtEngine(ClosesOnExit):
    """A built engine on this machine's GPU; keeps the Engine contract.

    Args:
        manifest: of the model.
        folder: of the model, for its golden tile.
        path: of the engine, which was checked to fit model, device and TensorRT.
        runtime: that built it.
        driver: open on this thread; closed with the engine.
        options: largest batch of a call. It may be larger than the engine's, which runs in chunks.

    Attributes:
        memory: "copied" where tiles cross a bus, "mapped" where the GPU reads the host's own memory.

    Raises:
        BackendUnavailable: TensorRT does not load the engine, or memory does not suffice.
        ModelMismatch: its inputs and outputs are not the manifest's.
    """

    backend = BACKEND

    def __init__(
        self, manifest: Manifest, folder: Path, path: Path, runtime: Runtime, driver: Driver,
        options: EngineOptions | None = None,
    ) -> None:  # fmt: skip
        options = options or EngineOptions()
        self.manifest = manifest
        self.folder: Path | None = folder
        self.precision: str = manifest.precision
        self.max_batch = options.max_batch
        self._thread = threading.get_ident()
        self._execution: _Execution | None = None
        try:
            built = BuiltEngine.load(path)
            self.digest = engine_digest(
                model=manifest.model.sha256, backend=f"{runtime.name} {runtime.version}", precision=self.precision,
                engine=built.sha256,
            )  # fmt: skip
            self._execution = _Execution(manifest, folder, path, built, runtime, driver)
            self.memory = self._execution.choose_memory()
        # The driver belongs to the engine from here on: whatever fails, its context leaves this thread.
        except BaseException as error:
            driver.close() if self._execution is None else self.close()
            if not isinstance(error, CudaError):
                raise
            remedy = "free memory on the GPU, or build the engine for fewer tiles (--batches)"
            raise BackendUnavailable(BACKEND, f"cannot open {path}: {error}", remedy) from error

    def infer(self, tiles: Tiles) -> Prediction:
        """See Engine."""
        if self._execution is None:
            raise InferenceFailed(BACKEND, "the engine is closed", retryable=False)
        tiles = checked_tiles(tiles, self.manifest, max_batch=self.max_batch)
        if threading.get_ident() != self._thread:
            raise InferenceFailed(BACKEND, "a CUDA context belongs to the thread that opened it", retryable=False)
        try:
            outputs = self._execution.run(tiles)
        except CudaError as error:
            raise InferenceFailed(BACKEND, str(error), retryable=error.retryable) from error
        return prediction_of(output_ports(self.manifest), outputs)

    def close(self) -> None:
        """See Engine."""
        execution, self._execution = self._execution, None
        if execution is not None:
            execution.close()


@dataclass
class _Port:
    """One tensor of a slot: pinned host memory, and device memory where it is copied."""

    name: str
    host: Pinned
    device: Any
    tile_bytes: int

    def address(self, *, mapped: bool) -> int:
        return self.host.device if mapped else int(self.device)


@dataclass
class _Slot:
    """Buffers of one chunk, and the CUDA events that order its three steps: copy in, compute, copy out."""

    tiles: _Port
    outputs: list[_Port]
    arrived: Any
    computed: Any
    left: Any


@dataclass
class _Execution:
    """Deserialised engine, execution context, streams and buffers; freed in reverse order of creation."""

    manifest: Manifest
    folder: Path
    path: Path
    built: BuiltEngine
    runtime: Runtime
    driver: Driver
    mapped: bool = False
    slots: list[_Slot] = field(default_factory=list)
    _shape: int = 0
    _allocated: list[_Port] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._engine: Any = None
        self._context: Any = None
        self._logger = _logger(self.runtime.module)
        try:
            self._runtime = self.runtime.module.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(self.path.read_bytes())
            if self._engine is None:
                remedy = f"build it again here: {build_command(self.manifest, self.folder, self.path.parent)}"
                problem = self._logger.last_error or "TensorRT refuses it"
                raise BackendUnavailable(BACKEND, f"{self.path}: {problem}", remedy)
            _check_ports(self._engine, self.runtime.module, self.manifest, self.path)
            # TensorRT allocates the activations here, and returns None where memory is short.
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise CudaError(self._logger.last_error or "no memory for the network's activations", retryable=True)
            self._compute, self._copies = self.driver.stream(), self.driver.stream()
            for _ in range(_SLOTS):
                self.slots.append(self._slot())
        except BaseException:
            self._free()
            raise

    @property
    def chunk(self) -> int:
        """Batch size that the engine was tuned for."""
        return self.built.batches[1]

    def choose_memory(self) -> str:
        """How tiles reach the GPU: "mapped" where CPU and GPU share memory and it measures faster, else "copied"."""
        if self.driver.unified:
            size = self.manifest.input.tile_size
            tiles = np.zeros((self.chunk, len(self.manifest.input.bands), size, size), np.uint8)
            took = {}
            # Measured on the device: this has not run on a Jetson here, so no rule is known which is faster.
            for self.mapped in (False, True):
                self.run(tiles)
                # The first run of each kind does not count: it pays for what is set up once.
                begin = time.perf_counter()
                for _ in range(_TRIALS):
                    self.run(tiles)
                took[self.mapped] = time.perf_counter() - begin
            self.mapped = took[True] < took[False]
        return "mapped" if self.mapped else "copied"

    def run(self, tiles: Tiles) -> list[NDArray[Any]]:
        """Tiles (N, bands, S, S) to the arrays of the manifest's outputs, in their order.

        Raises:
            CudaError: a call failed; all work in the streams has ended.
        """
        # New arrays for each call: the caller may keep them while the slots are filled again.
        outputs = [port.empty(len(tiles)) for port in output_ports(self.manifest)]
        waiting: deque[tuple[_Slot, slice]] = deque()
        with self._drained():
            for number, first in enumerate(range(0, len(tiles), self.chunk)):
                # Both slots are under way: the older one comes out before its buffers are filled again.
                if len(waiting) == _SLOTS:
                    self._take(*waiting.popleft(), outputs)
                slot, part = self.slots[number % _SLOTS], slice(first, min(first + self.chunk, len(tiles)))
                self._submit(slot, tiles[part])
                waiting.append((slot, part))
            while waiting:
                self._take(*waiting.popleft(), outputs)
        return outputs

    def _submit(self, slot: _Slot, tiles: Tiles) -> None:
        count, port = len(tiles), slot.tiles
        size = count * port.tile_bytes
        port.host.array[:size] = tiles.reshape(-1)
        if not self.mapped:
            self.driver.copy_in(int(port.device), port.host, size, self._copies)
            self.driver.record(slot.arrived, self._copies)
            # The wait is the device's: this thread goes on and fills the next slot while the copy runs.
            self.driver.wait(self._compute, slot.arrived)
        # The context keeps the shape; only the last chunk of a call is smaller.
        if count != self._shape:
            if not self._context.set_input_shape(port.name, (count, *self._tile_shape())):
                raise CudaError(f"the engine was not built for {count} tiles in one call", retryable=False)
            self._shape = count
        for tensor in (port, *slot.outputs):
            self._context.set_tensor_address(tensor.name, tensor.address(mapped=self.mapped))
        if not self._context.execute_async_v3(self.driver.handle(self._compute)):
            raise CudaError(self._logger.last_error or "TensorRT refused to run", retryable=False)
        self.driver.record(slot.computed, self._compute)

    def _take(self, slot: _Slot, part: slice, outputs: list[NDArray[Any]]) -> None:
        count = part.stop - part.start
        if self.mapped:
            self.driver.synchronize(slot.computed)
        else:
            # Queued after the next chunk's copy in, which would otherwise wait behind this copy out.
            self.driver.wait(self._copies, slot.computed)
            for port in slot.outputs:
                self.driver.copy_out(port.host, int(port.device), count * port.tile_bytes, self._copies)
            self.driver.record(slot.left, self._copies)
            self.driver.synchronize(slot.left)
        for port, whole in zip(slot.outputs, outputs, strict=True):
            # Copied out of the pinned memory, which the chunk after the next overwrites.
            read = port.host.array[: count * port.tile_bytes].view(whole.dtype)
            whole[part] = read.reshape(count, *whole.shape[1:])

    @contextmanager
    def _drained(self) -> Iterator[None]:
        """Waits for all work after a failure, so that nothing writes into buffers that the next call uses."""
        try:
            yield
        except BaseException:
            self.driver.drain()
            raise

    def close(self) -> None:
        """Frees everything, the driver's context last."""
        self.driver.drain()
        self._free()
        self.driver.close()

    def _free(self) -> None:
        # PyCUDA destroys events and streams where the last reference goes; their context is still current.
        self.slots.clear()
        for port in reversed(self._allocated):
            self.driver.free(port.device)
            self.driver.free_pinned(port.host)
        self._allocated.clear()
        self._compute = self._copies = None
        self._context = self._engine = self._runtime = None

    def _slot(self) -> _Slot:
        size = self.manifest.input.tile_size
        tiles = self._port(self.manifest.input.name, len(self.manifest.input.bands) * size * size)
        outputs = [self._port(port.name, port.tile_bytes) for port in output_ports(self.manifest)]
        return _Slot(tiles, outputs, self.driver.event(), self.driver.event(), self.driver.event())

    def _port(self, name: str, tile_bytes: int) -> _Port:
        size = self.chunk * tile_bytes
        device = self.driver.alloc(size)
        try:
            host = self.driver.pinned(size)
        except BaseException:
            self.driver.free(device)
            raise
        port = _Port(name, host, device, tile_bytes)
        # Noted at once: an opening that fails half-way frees what it had.
        self._allocated.append(port)
        return port

    def _tile_shape(self) -> tuple[int, int, int]:
        size = self.manifest.input.tile_size
        return len(self.manifest.input.bands), size, size


def _check_ports(engine: Any, trt: Any, manifest: Manifest, path: Path) -> None:
    size, bands = manifest.input.tile_size, len(manifest.input.bands)
    ports = [OutputPort("", manifest.input.name, "uint8", (bands, size, size)), *output_ports(manifest)]
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    given = {name: (engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))[1:]) for name in names}
    required = {port.name: (trt.uint8 if port.dtype == "uint8" else trt.float32, port.shape) for port in ports}
    if given != required:
        raise ModelMismatch(path, "inputs and outputs", given=str(given), required=str(required))


def _logger(trt: Any) -> Any:
    """A logger that keeps TensorRT's last error message: its calls only return None or False."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        last_error = ""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.last_error = one_line(EngineError(message))

    return Logger()
