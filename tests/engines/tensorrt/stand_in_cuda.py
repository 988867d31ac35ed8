"""Stands in for CUDA and TensorRT where there is no GPU: it proves the order of things, never their results or speed.

Work in a stream is done late and in any order that streams and events allow, drawn from a seed. A missing event, a
buffer used again too early or one freed too soon gives wrong classes or an error on some seed. Sources for what is
promised: CUDA Driver API reference (streams, events, mapped memory), TensorRT's IExecutionContext.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.manifest import Manifest
from engines.tensorrt.driver import CudaError, Pinned
from engines.tensorrt.engine_file import BuiltEngine
from engines.tensorrt.runtime import Device, Runtime
from tests.tiny_model import tiny_classes, tiny_familiarity

DEVICE = Device("Stand-in", "8.7", "36.4.0")


class StandInCuda:
    """A driver whose device is this process's memory; keeps engines.tensorrt.driver.Driver.

    Attributes:
        log: name of each call, in order.
        alive: live allocations by address.
        fails_at: (call, how many times it works first, whether a retry may help), or None.
    """

    name = "stand-in"

    def __init__(self, *, unified: bool = False, seed: int = 0, slow_copies: bool = False) -> None:
        self.unified, self.slow_copies = unified, slow_copies
        self.log: list[str] = []
        self.alive: dict[int, NDArray[np.uint8]] = {}
        self.closed = False
        self.fails_at: tuple[str, int, bool] | None = None
        self._random = np.random.default_rng(seed)
        self._next = 0x1000
        self._streams: list[deque[Callable[[], bool]]] = []
        self._reached: dict[int, int] = {}
        self._asked: dict[int, int] = {}

    def alloc(self, size: int) -> int:
        self._call("alloc")
        return self._placed(np.full(size, 0xCD, np.uint8))

    def pinned(self, size: int) -> Pinned:
        self._call("pinned")
        array = np.full(size, 0xCD, np.uint8)
        address = self._placed(array)
        return Pinned(array, address, address)

    def stream(self) -> int:
        self._call("stream")
        self._streams.append(deque())
        return len(self._streams) - 1

    def handle(self, stream: int) -> int:
        return stream

    def event(self) -> int:
        self._call("event")
        number = len(self._reached)
        self._reached[number] = self._asked[number] = 0
        return number

    def record(self, event: int, stream: int) -> None:
        self._call("record")
        self._asked[event] += 1
        asked = self._asked[event]

        def reach() -> bool:
            self._reached[event] = max(self._reached[event], asked)
            return True

        self._streams[stream].append(reach)

    def wait(self, stream: int, event: int) -> None:
        self._call("wait")
        asked = self._asked[event]  # an event that was never recorded holds nobody up
        self._streams[stream].append(lambda: self._reached[event] >= asked)

    def synchronize(self, event: int) -> None:
        self._call("synchronize")
        asked = self._asked[event]
        while self._reached[event] < asked:
            self._one()
        for _ in range(int(self._random.integers(0, 3))):  # the device may be further on than anyone asked
            self._one()

    def copy_in(self, device: int, pinned: Pinned, size: int, stream: int) -> None:
        self._call("copy_in")

        def copy() -> bool:
            self._at(device)[:size] = self._at(pinned.device)[:size]
            return True

        self._streams[stream].append(copy)

    def copy_out(self, pinned: Pinned, device: int, size: int, stream: int) -> None:
        self._call("copy_out")

        def copy() -> bool:
            self._at(pinned.device)[:size] = self._at(device)[:size]
            return True

        self._streams[stream].append(copy)

    def drain(self) -> None:
        self.log.append("drain")
        while any(self._streams):
            self._one()

    def free(self, memory: int) -> None:
        self.log.append("free")
        del self.alive[memory]

    def free_pinned(self, pinned: Pinned) -> None:
        self.log.append("free_pinned")
        del self.alive[pinned.owner]

    def close(self) -> None:
        assert not self.closed, "the context is given back once"
        assert not self.alive, "memory outlives its context"
        assert not any(self._streams), "work outlives its context"
        self.log.append("close")
        self.closed = True

    def enqueue(self, stream: int, work: Callable[[Callable[[int], NDArray[np.uint8]]], None]) -> None:
        """TensorRT's way in."""

        def compute() -> bool:
            work(self._at)
            return True

        self._streams[stream].append(compute)

    def _call(self, name: str) -> None:
        assert not self.closed, f"{name} after the context was given back"
        if self.fails_at is not None and self.fails_at[0] == name and self.log.count(name) == self.fails_at[1]:
            again = self.fails_at[2]
            self.fails_at = None
            raise CudaError(f"{name} failed on purpose", retryable=again)
        self.log.append(name)

    def _placed(self, array: NDArray[np.uint8]) -> int:
        address, self._next = self._next, self._next + len(array) + 256
        self.alive[address] = array
        return address

    def _at(self, address: int) -> NDArray[np.uint8]:
        assert address in self.alive, "work touches memory that was freed"
        return self.alive[address]

    def _one(self) -> None:
        """One step of one stream that can go on."""
        ready = [stream for stream in self._streams if stream]
        order = self._random.permutation(len(ready))
        for index in order:
            work = ready[index][0]
            if work():
                ready[index].popleft()
                return
        assert not ready, "all streams wait for each other"


def stand_in_tensorrt(cuda: StandInCuda, manifest: Manifest) -> Runtime:
    """TensorRT whose engines say what the tiny model says."""
    size, bands = manifest.input.tile_size, len(manifest.input.bands)
    shapes = {manifest.input.name: (-1, bands, size, size), "classes": (-1, size, size), "confidence": (-1, size, size)}
    if manifest.familiarity is not None:
        shapes[manifest.familiarity.output] = (-1,)

    class Context:
        def __init__(self) -> None:
            self.addresses: dict[str, int] = {}
            self.count = 0
            self.refuses = False
            self.most = 64

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert name == manifest.input.name
            assert shape[1:] == shapes[name][1:]
            if shape[0] > self.most:
                return False
            self.count = shape[0]
            return True

        def set_tensor_address(self, name: str, address: int) -> None:
            self.addresses[name] = address

        def execute_async_v3(self, stream: int) -> bool:
            cuda.log.append("execute")
            if self.refuses:
                return False
            count, at = self.count, dict(self.addresses)
            assert count > 0, "no input shape was set"

            def work(memory: Callable[[int], NDArray[np.uint8]]) -> None:
                given = memory(at[manifest.input.name])[: count * bands * size * size]
                classes = tiny_classes(given.reshape(count, bands, size, size).copy())
                memory(at["classes"])[: classes.size] = classes.reshape(-1)
                memory(at["confidence"])[: classes.size] = classes.reshape(-1) * 50
                if manifest.familiarity is not None:
                    values = tiny_familiarity(given.reshape(count, bands, size, size))
                    memory(at[manifest.familiarity.output])[: values.nbytes] = values.view(np.uint8)

            cuda.enqueue(stream, work)
            return True

    class Engine:
        num_io_tensors = len(shapes)

        def get_tensor_name(self, index: int) -> str:
            return list(shapes)[index]

        def get_tensor_dtype(self, name: str) -> str:
            return "float32" if len(shapes[name]) == 1 else "uint8"

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return shapes[name]

        def create_execution_context(self) -> Context | None:
            module.contexts.append(Context())
            return module.contexts[-1]  # type: ignore[no-any-return]

    class Runtime_:  # noqa: N801 - TensorRT's own name but for the clash
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            if content != b"an engine":
                self.logger.log(1, "Serialization assertion failed: magic tag")
                return None
            return Engine()

    class Logger:
        Severity = SimpleNamespace(ERROR=1, INFO=3)

        def __init__(self) -> None:
            pass

    module = ModuleType("stand_in_tensorrt")
    module.Runtime, module.ILogger, module.uint8 = Runtime_, Logger, "uint8"  # type: ignore[attr-defined]
    module.float32 = "float32"  # type: ignore[attr-defined]
    module.contexts = []  # type: ignore[attr-defined]
    return Runtime("tensorrt", "10.3.0", module)


def write_engine(folder: Path, manifest: Manifest, *, usual: int = 2, content: bytes = b"an engine") -> Path:
    """A file that the stand-in takes for an engine, with its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.engine"
    path.write_bytes(content)
    built = BuiltEngine(
        f"{manifest.name} {manifest.version}", manifest.model.sha256, str(manifest.precision), "tensorrt", "10.3.0",
        DEVICE, (1, usual, 8), 1 << 30, len(content), hashlib.sha256(content).hexdigest(), 1.0, 12,
    )  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(asdict(built)))
    return path
