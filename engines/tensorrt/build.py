"""Builds a TensorRT engine from ONNX; works with TensorRT 10.3 (JetPack 6.2) to 11 and with TensorRT-RTX.

The network is strongly typed: the ONNX file decides the precision, no build flag changes it. An engine runs only on
the GPU model, TensorRT version and Jetson Linux it was built with. All three are part of its file name and of the JSON
beside it; an engine that was built for another device is refused with the command that builds the right one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.errors import BackendUnavailable, BuildFailed, EngineDamaged, EngineNotWritten, SettingRefused
from engines.files import replace_file
from engines.graph_sides import of_side
from engines.heads_graph import graph_of
from engines.manifest import Manifest
from engines.tensorrt.engine_file import Batches, BuiltEngine, engine_name
from engines.tensorrt.graph_io import uint8_at_the_edges
from engines.tensorrt.runtime import Device, Runtime

WORKSPACE_BYTES = 2 << 30


def build_engine(
    manifest: Manifest,
    folder: Path,
    out: Path,
    runtime: Runtime,
    device: Device,
    *,
    batches: Batches | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Builds an engine; writes it, its JSON, the log and the layer report into ``out``; returns the engine's path.

    An existing undamaged engine that was built with the same workspace is returned at once. The engine file appears by
    one rename, after its JSON.

    Args:
        manifest: of the model.
        folder: where its ONNX file lies.
        out: folder, made if missing; keeps a timing cache, which makes the next build quicker.
        runtime: that builds.
        device: to build for; one whose name is "any" takes TensorRT-RTX, which can build without it.
        batches: profile of batch sizes.
        workspace_bytes: most scratch memory.
        progress: called with (phase, step, steps).

    Raises:
        BackendUnavailable: the package cannot build for this device, or onnx is missing.
        BuildFailed: TensorRT could not parse or build it.
        EngineNotWritten: ``out`` cannot be written, or is full.
        SettingRefused: the graph takes one tile in a call, and ``batches`` are tuned for more.
    """
    try:
        return _built(manifest, folder, out, runtime, device, batches or Batches(), workspace_bytes, progress)
    except OSError as error:
        # Files of the model are read by functions that raise errors of their own: this one is of `out`.
        raise EngineNotWritten(out, error.strerror or str(error)) from error


def _built(
    manifest: Manifest,
    folder: Path,
    out: Path,
    runtime: Runtime,
    device: Device,
    batches: Batches,
    workspace_bytes: int,
    progress: Callable[[str, int, int], None] | None,
) -> Path:
    """See build_engine; an OSError is of ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / engine_name(manifest, runtime, device, batches)
    if path.exists():
        with suppress(EngineDamaged):  # it is built anew
            existing = BuiltEngine.load(path)
            existing.check(path, manifest, folder, runtime, device)
            # With other scratch memory TensorRT may choose other kernels: that is another build.
            if existing.workspace_bytes == workspace_bytes:
                return path
    # Fixed sides: an engine of one shape needs no profile for others, and TensorRT picks the kernels for that one.
    content = of_side(uint8_at_the_edges(graph_of(manifest, folder)), manifest.input.tile_size)
    log_path = path.with_suffix(".log")
    begin = time.monotonic()
    with log_path.open("w", encoding="utf-8") as log:
        build = _Build(runtime.module, log.write, progress)
        network = build.parsed(content, f"{manifest.name} {manifest.version}", log_path)
        layers = build.layers(network)
        config = build.config(network, device, batches, workspace_bytes)
        # Timings of another GPU or TensorRT would choose the wrong kernels, so both are in the cache's name.
        cache = out / f"timing_{runtime.name}{runtime.version}_{device.slug}.cache"
        build.use_cache(config, cache)
        plan = build.builder.build_serialized_network(network, config)
        # A failure is None and no exception; why it failed is in the log alone.
        if plan is None:
            raise BuildFailed(f"{manifest.name} {manifest.version}", "TensorRT made no engine of it", log_path)
        build.keep_cache(config, cache)
    data = bytes(plan)
    built = BuiltEngine(
        f"{manifest.name} {manifest.version}", manifest.model.sha256, str(manifest.precision), runtime.name,
        runtime.version, device, (batches.least, batches.usual, batches.most), workspace_bytes, len(data),
        hashlib.sha256(data).hexdigest(), round(time.monotonic() - begin, 2), len(layers),
    )  # fmt: skip
    # The engine comes last: a power cut before it leaves facts without an engine, or beside the old engine, whose
    # digest then does not fit. Both are built anew.
    replace_file(path.with_suffix(".layers.json"), json.dumps(layers, indent=1).encode())
    replace_file(path.with_suffix(".json"), (json.dumps(asdict(built), indent=1) + "\n").encode())
    replace_file(path, data)
    return path


class _Build:
    """TensorRT's objects of one build; each must live as long as those created after it."""

    def __init__(
        self, trt: ModuleType, log: Callable[[str], Any], progress: Callable[[str, int, int], None] | None
    ) -> None:
        self.trt, self._progress = trt, progress

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            # pybind11 refuses an object whose overridden __init__ does not call that of its C++ class.
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                # The graver, the smaller: internal errors are 0, verbose messages 4.
                if severity <= trt.ILogger.Severity.INFO:
                    log(f"{severity.name}: {message}\n")

        self.logger = Logger()
        self.builder = trt.Builder(self.logger)
        # TensorRT 10 needs this flag; in 11 strong typing is the only mode and the name may be gone.
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        self._flags = 0 if flag is None else 1 << int(flag)

    def parsed(self, content: bytes, model: str, log: Path) -> Any:
        """Parses the ONNX file into a network."""
        network = self.builder.create_network(self._flags)
        # An attribute, not a local variable: until the build has ended the network reads weights that the parser holds.
        self._parser = self.trt.OnnxParser(network, self.logger)
        if not self._parser.parse(content):
            errors = [self._parser.get_error(index) for index in range(self._parser.num_errors)]
            reasons = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
            raise BuildFailed(model, f"TensorRT cannot parse it: {'; '.join(reasons)[:300]}", log)
        return network

    def config(self, network: Any, device: Device, batches: Batches, workspace_bytes: int) -> Any:
        """The build configuration: workspace, optimisation profile, target device and progress monitor."""
        trt = self.trt
        config = self.builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        if hasattr(config, "profiling_verbosity"):
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layers keep their names in reports
        profile = self.builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            rest = tuple(tensor.shape)[1:]
            if tensor.shape[0] == -1:
                counts = (batches.least, batches.usual, batches.most)
                profile.set_shape(tensor.name, *((count, *rest) for count in counts))
            elif batches.usual > tensor.shape[0]:
                # It would be built all the same, and fail at its first call.
                required = f"{tensor.shape[0]} as the usual number: the graph takes no more tiles in one call"
                raise SettingRefused("batches", f"{batches.least},{batches.usual},{batches.most}", required)
        config.add_optimization_profile(profile)
        self._aim(config, device)
        if self._progress is not None and hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = self._monitor()
        return config

    def use_cache(self, config: Any, path: Path) -> None:
        """Loads timings of earlier builds. TensorRT-RTX keeps none: it tunes on the device when the engine is run."""
        if self.trt.__name__ != "tensorrt":
            return
        try:
            content = path.read_bytes()
        except OSError:
            # No bytes make a new cache, which this build fills.
            content = b""
        # Timings of another device or driver are refused, though the name fits, and so is a damaged file. A new cache
        # takes its place: without one there would be none to keep, and that file would stay.
        for given in (content, b""):
            cache = config.create_timing_cache(given)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return

    def keep_cache(self, config: Any, path: Path) -> None:
        """Saves this build's timings for the next one."""
        cache = config.get_timing_cache() if self.trt.__name__ == "tensorrt" else None
        if cache is not None:
            replace_file(path, bytes(cache.serialize()))

    def layers(self, network: Any) -> list[dict[str, Any]]:
        """Name and type of each layer, with type and shape of its outputs."""
        rows = []
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
            tensors = [{"dtype": tensor.dtype.name, "shape": _shape(tensor)} for tensor in outputs]
            rows.append({"name": layer.name, "kind": layer.type.name, "outputs": tensors})
        return rows

    def _aim(self, config: Any, device: Device) -> None:
        """Targets a GPU architecture by name where the device itself is absent; only TensorRT-RTX can."""
        if device.name != "any":
            return
        name = f"SM{device.capability.replace('.', '')}"
        capability = getattr(getattr(self.trt, "ComputeCapability", None), name, None)
        if capability is None:
            remedy = "build on the device itself, or take tensorrt_rtx and an architecture it knows (7.5 to 8.9, 12.0)"
            problem = f"it cannot build for {device.capability} without that device"
            raise BackendUnavailable(self.trt.__name__, problem, remedy)
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)

    def _monitor(self) -> Any:
        trt, report = self.trt, self._progress

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self.steps: dict[str, int] = {}

            def phase_start(self, phase: str, parent: str | None, count: int) -> None:  # noqa: ARG002
                self.steps[phase] = count

            def step_complete(self, phase: str, step: int) -> bool:
                if report is not None:
                    report(phase, step, self.steps.get(phase, 0))
                # False would cancel the build.
                return True

            def phase_finish(self, phase: str) -> None:
                self.steps.pop(phase, None)

        self._monitor_reference = Monitor()  # TensorRT holds no reference of its own
        return self._monitor_reference


def _shape(tensor: Any) -> list[int] | None:
    """None where TensorRT does not know even the number of dimensions."""
    try:
        return [int(size) for size in tensor.shape]
    except ValueError:
        return None
