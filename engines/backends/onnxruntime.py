"""The ONNX Runtime backend on the CPU: runs everywhere, and is the reference that other backends are compared with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from engines.backend import Backend
from engines.cpu import usable_cores
from engines.engine import ClosesOnExit, EngineOptions, Prediction, Tiles, checked_tiles, engine_digest
from engines.errors import BackendUnavailable, InferenceFailed, ModelMismatch, one_line
from engines.heads_graph import graph_of
from engines.loading import load_package
from engines.manifest import Manifest
from engines.outputs import check_sides_are_open, output_ports, prediction_of

BACKEND = "onnxruntime"
GRAPH_OPTIMISATION = "ORT_ENABLE_ALL"
# Errors are raised as exceptions; the runtime's log (0 verbose .. 3 error, 4 fatal) would print them a second time.
_FATAL_ONLY = 4
# A model loaded from bytes looks for external weights in the working folder, where no digest covers them. This path
# does not exist, so such a model is refused.
_NOWHERE = "/dev/null/external"


class _Port(NamedTuple):
    """One input or output of the graph: its name and what the manifest says of its type and its shape after N."""

    kind: str
    name: str
    shape: tuple[int, ...]
    type: str = "tensor(uint8)"


def onnxruntime_version() -> str:
    """Version of the installed runtime.

    Raises:
        BackendUnavailable: it is not installed or does not load.
    """
    return str(_runtime().__version__)


class OnnxRuntimeEngine(ClosesOnExit):
    """A model on ONNX Runtime's CPU provider; keeps the Engine contract.

    Buffers: the graph writes into arrays allocated for the call (IO binding) and returned to the caller without a
    copy. No reference to the caller's tiles is kept after the call.

    Threads: one thread only, because all calls share one IO binding.

    Args:
        manifest: of the model.
        folder: with the model's file.
        options: threads, spinning, largest batch. A graph whose N is fixed to 1 has max_batch 1.

    Raises:
        ModelMismatch: the file is not the manifest's (checked before the runtime sees it), or its inputs and outputs.
        BackendUnavailable: no runtime here, or it does not take this model.
    """

    backend = BACKEND

    def __init__(self, manifest: Manifest, folder: Path, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        content = graph_of(manifest, folder)
        ort = _runtime()
        self.manifest = manifest
        self.folder: Path | None = folder
        self.precision: str = manifest.precision
        self.threads = options.threads or usable_cores()
        self._faults = _faults(ort)
        self._session: Any = self._opened(ort, content, folder / manifest.model.file, spinning=options.spinning)
        fixed_batch = _check_ports(self._session, manifest, folder / manifest.model.file)
        self.max_batch = 1 if fixed_batch else options.max_batch
        self._binding = self._session.io_binding()
        self._outputs = output_ports(manifest)
        self.digest = engine_digest(
            model=manifest.model.sha256,
            backend=BACKEND,
            version=str(ort.__version__),
            precision=self.precision,
            graph_optimisation=GRAPH_OPTIMISATION,
        )

    def _opened(self, ort: ModuleType, content: bytes, path: Path, *, spinning: bool) -> Any:
        settings = ort.SessionOptions()
        settings.log_severity_level = _FATAL_ONLY
        settings.intra_op_num_threads = self.threads
        # In sequential mode the runtime uses the threads within an operator only: others would stand idle.
        settings.inter_op_num_threads = 1
        settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, GRAPH_OPTIMISATION)
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
        try:
            # Bytes and no path: the file may change between its check and the runtime's reading. The provider is named,
            # so that a build of the runtime with further ones computes on the CPU too.
            return ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        except self._faults as error:
            raise BackendUnavailable(
                f"{BACKEND} {ort.__version__}",
                f"cannot load {path}: {one_line(error)}",
                "update onnxruntime if the model is newer, else export the model again in one file",
            ) from error

    def infer(self, tiles: Tiles) -> Prediction:
        """See Engine."""
        if self._session is None:
            raise InferenceFailed(BACKEND, "the engine is closed", retryable=False)
        tiles = checked_tiles(tiles, self.manifest, max_batch=self.max_batch, sides=self.tile_sides)
        height, width = tiles.shape[2:]
        try:
            buffers = [port.empty(len(tiles), (height, width)) for port in self._outputs]
            self._binding.bind_cpu_input(self.manifest.input.name, tiles)
            for port, buffer in zip(self._outputs, buffers, strict=True):
                self._binding.bind_output(port.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
            self._session.run_with_iobinding(self._binding)
        except self._faults as error:
            raise InferenceFailed(BACKEND, one_line(error), retryable=_is_memory(error)) from error
        finally:
            # Also after a failure: the binding would hold the addresses of arrays that the caller may let go.
            self._binding.clear_binding_inputs()
            self._binding.clear_binding_outputs()
        return prediction_of(self._outputs, buffers)

    @property
    def tile_sides(self) -> tuple[int, ...]:
        """See Engine."""
        return self.manifest.input.sides

    def close(self) -> None:
        """See Engine."""
        self._binding = None
        self._session = None


def _runtime() -> ModuleType:
    try:
        return load_package("onnxruntime")
    except (ImportError, OSError) as error:
        remedy = f"{sys.executable} -m pip install onnxruntime"
        raise BackendUnavailable(BACKEND, f"it does not load here ({one_line(error)})", remedy) from error


def _faults(ort: ModuleType) -> tuple[type[Exception], ...]:
    """All exception types of the runtime. Its own have no common base class but Exception, and their list grows."""
    own = vars(ort.capi.onnxruntime_pybind11_state).values()
    named = [kind for kind in own if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*named, RuntimeError, ValueError, TypeError, MemoryError)


def _check_ports(session: Any, manifest: Manifest, path: Path) -> bool:
    """Checks the graph's inputs and outputs against the manifest; True where the batch size N is fixed to 1."""
    size, bands = manifest.input.tile_size, len(manifest.input.bands)
    if manifest.input.tile_sides is not None:
        ports = [*session.get_inputs(), *(port for port in session.get_outputs() if len(port.shape) > 1)]
        shapes = {port.name: tuple(side if isinstance(side, int) else None for side in port.shape) for port in ports}
        check_sides_are_open(shapes, manifest, path)
    inputs = [_Port("input", manifest.input.name, (bands, size, size))]
    outputs = [
        _Port("output", port.name, port.shape, "tensor(uint8)" if port.dtype == "uint8" else "tensor(float)")
        for port in output_ports(manifest)
    ]
    fixed = [_is_batch_fixed(port, session.get_inputs(), inputs, path) for port in inputs]
    fixed += [_is_batch_fixed(port, session.get_outputs(), outputs, path) for port in outputs]
    return any(fixed)


def _is_batch_fixed(port: _Port, nodes: Sequence[Any], expected: Sequence[_Port], path: Path) -> bool:
    names, wanted = sorted(node.name for node in nodes), sorted(item.name for item in expected)
    if names != wanted:
        raise ModelMismatch(path, f"{port.kind}s", given=", ".join(names) or "none", required=", ".join(wanted))
    node = next(node for node in nodes if node.name == port.name)
    given = f"{node.type} {node.shape}"
    # Dynamic sizes are strings or None; ONNX Runtime checks them against our buffers when it runs.
    batch, *rest = [size if isinstance(size, int) else None for size in node.shape] or [0]
    agrees = len(rest) == len(port.shape) and all(a is None or a == b for a, b in zip(rest, port.shape, strict=True))
    if node.type != port.type or not agrees or batch not in (None, 1):
        required = f"{port.type} [{', '.join(('N or 1', *map(str, port.shape)))}]"
        raise ModelMismatch(path, f"{port.kind} {port.name}", given=given, required=required)
    return batch == 1


def _is_memory(error: Exception) -> bool:
    # The runtime has no exception for it: a failed allocation is told by its text alone.
    text = str(error).lower()
    return isinstance(error, MemoryError) or "allocate" in text or "bad_alloc" in text or "out of memory" in text


ONNXRUNTIME = Backend(BACKEND, onnxruntime_version, OnnxRuntimeEngine, weights_in_process=True)
