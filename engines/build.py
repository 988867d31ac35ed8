"""ONNX to a TensorRT engine: one code for TensorRT 10.3 (JetPack 6.2) to 11, and for TensorRT-RTX.

The network is strongly typed: precision stands in the ONNX file, no flag changes it. An engine runs on the GPU,
TensorRT and Jetson Linux it was built with and nowhere else, so all of them stand in its name and in the JSON beside
it, and an engine from elsewhere is refused with the command that builds the right one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.edges import uint8_at_the_edges
from engines.errors import BackendUnavailable, BuildFailed, EngineDamaged, EngineElsewhere, SettingRefused
from engines.files import write_durably
from engines.manifest import Manifest
from engines.trt import Device, Runtime

SUFFIX = ".engine"
WORKSPACE_BYTES = 2 << 30


@dataclass(frozen=True)
class Batches:
    """Tiles in one call: least, usual (what the engine is tuned for), most.

    The least is 1: the golden tile comes alone, and so may the last one of a scene.
    """

    least: int = 1
    usual: int = 1
    most: int = 8

    def __post_init__(self) -> None:
        if not 1 == self.least <= self.usual <= self.most:
            given = f"{self.least},{self.usual},{self.most}"
            raise SettingRefused("batches", given, "1, usual and most, in order: the last tile of a scene comes alone")


@dataclass(frozen=True)
class BuiltEngine:
    """What stands in the JSON beside an engine.

    Attributes:
        model: name and version; ``model_sha256`` of the ONNX file.
        precision: of the ONNX file.
        runtime, runtime_version: package that built it and the only one that runs it.
        device: it runs on.
        batches: (least, usual, most).
        workspace_bytes: most scratch memory while building.
        bytes, sha256: of the engine's file.
        seconds: the build took.
        layers: of the network.
    """

    model: str
    model_sha256: str
    precision: str
    runtime: str
    runtime_version: str
    device: Device
    batches: tuple[int, int, int]
    workspace_bytes: int
    bytes: int
    sha256: str
    seconds: float
    layers: int

    @classmethod
    def load(cls, path: Path) -> BuiltEngine:
        """Of the JSON beside an engine.

        Raises:
            EngineDamaged: it is missing or no such thing.
        """
        try:
            told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            return cls(**{**told, "device": Device(**told["device"]), "batches": tuple(told["batches"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise EngineDamaged(path, f"its facts cannot be read ({error})") from error

    def check(self, path: Path, manifest: Manifest, runtime: Runtime, device: Device) -> None:
        """Passes if it is this model's, for this device and TensorRT, and its bytes are whole.

        Raises:
            EngineElsewhere: it is not; names the command that builds the right one.
            EngineDamaged: its bytes are not those that were built.
        """
        wanted = {
            "model": (self.model_sha256[:12], manifest.model.sha256[:12]),
            "precision": (self.precision, str(manifest.precision)),
            "TensorRT": (f"{self.runtime} {self.runtime_version}", f"{runtime.name} {runtime.version}"),
            "compute capability": (self.device.capability, device.capability),
            "Jetson Linux": (self.device.l4t or "none", device.l4t or "none"),
        }
        if self.device.name != "any":
            wanted["GPU"] = (self.device.name, device.name)
        differences = [f"its {what} is {is_}, here it is {here}" for what, (is_, here) in wanted.items() if is_ != here]
        if differences:
            raise EngineElsewhere(path, differences, f"engines build {manifest.name} --out {path.parent}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise EngineDamaged(path, f"its SHA-256 is {digest[:12]}, {self.sha256[:12]} was built")


def engine_name(manifest: Manifest, runtime: Runtime, device: Device, batches: Batches) -> str:
    """The file's name: everything that decides whether an engine runs here, and by what batches."""
    parts = (
        manifest.name, manifest.model.sha256[:12], manifest.precision, device.slug, f"{runtime.name}{runtime.version}",
        f"b{batches.least}.{batches.usual}.{batches.most}",
    )  # fmt: skip
    return "_".join(str(part) for part in parts) + SUFFIX


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
    """Builds, and puts engine, JSON, log and layer report into ``out``; gives the engine's path.

    An engine that is there already, whole and built with so much scratch memory is given at once. The file appears by
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
    """
    batches = batches or Batches()
    out.mkdir(parents=True, exist_ok=True)
    path = out / engine_name(manifest, runtime, device, batches)
    if path.exists():
        with suppress(EngineDamaged):  # it is built anew
            there = BuiltEngine.load(path)
            there.check(path, manifest, runtime, device)
            if there.workspace_bytes == workspace_bytes:
                return path
    content = uint8_at_the_edges(manifest.model.read_verified(folder))
    log_path = path.with_suffix(".log")
    begin = time.monotonic()
    with log_path.open("w", encoding="utf-8") as log:
        build = _Build(runtime.module, log.write, progress)
        network = build.parsed(content, f"{manifest.name} {manifest.version}", log_path)
        layers = build.layers(network)
        config = build.config(network, device, batches, workspace_bytes)
        cache = out / f"timing_{runtime.name}{runtime.version}_{device.slug}.cache"
        build.use_cache(config, cache)
        plan = build.builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildFailed(f"{manifest.name} {manifest.version}", "TensorRT made no engine of it", log_path)
        build.keep_cache(config, cache)
    data = bytes(plan)
    built = BuiltEngine(
        f"{manifest.name} {manifest.version}", manifest.model.sha256, str(manifest.precision), runtime.name,
        runtime.version, device, (batches.least, batches.usual, batches.most), workspace_bytes, len(data),
        hashlib.sha256(data).hexdigest(), round(time.monotonic() - begin, 2), len(layers),
    )  # fmt: skip
    write_durably(path.with_suffix(".layers.json"), json.dumps(layers, indent=1).encode())
    write_durably(path.with_suffix(".json"), (json.dumps(asdict(built), indent=1) + "\n").encode())
    write_durably(path, data)
    return path


class _Build:
    """One build: TensorRT's objects, which must outlive each other in the order they are made."""

    def __init__(
        self, trt: ModuleType, log: Callable[[str], Any], progress: Callable[[str, int, int], None] | None
    ) -> None:
        self.trt, self._progress = trt, progress

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.Severity.INFO:
                    log(f"{severity.name}: {message}\n")

        self.logger = Logger()
        self.builder = trt.Builder(self.logger)
        # Version 10 needs the flag, 11 knows nothing else and may have lost the name.
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        self._flags = 0 if flag is None else 1 << int(flag)

    def parsed(self, content: bytes, model: str, log: Path) -> Any:
        """The network of an ONNX file."""
        network = self.builder.create_network(self._flags)
        self._parser = self.trt.OnnxParser(network, self.logger)
        if not self._parser.parse(content):
            errors = [self._parser.get_error(index) for index in range(self._parser.num_errors)]
            reasons = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
            raise BuildFailed(model, f"TensorRT cannot parse it: {'; '.join(reasons)[:300]}", log)
        return network

    def config(self, network: Any, device: Device, batches: Batches, workspace_bytes: int) -> Any:
        """How to build."""
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
        config.add_optimization_profile(profile)
        self._aim(config, device)
        if self._progress is not None and hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = self._monitor()
        return config

    def use_cache(self, config: Any, path: Path) -> None:
        """Timings of earlier builds. TensorRT-RTX has the functions but keeps none: it tunes on the device, later."""
        if self.trt.__name__ != "tensorrt":
            return
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        cache = config.create_timing_cache(content)
        if cache is not None:
            config.set_timing_cache(cache, ignore_mismatch=False)

    def keep_cache(self, config: Any, path: Path) -> None:
        """Keeps this build's timings."""
        cache = config.get_timing_cache() if self.trt.__name__ == "tensorrt" else None
        if cache is not None:
            write_durably(path, bytes(cache.serialize()))

    def layers(self, network: Any) -> list[dict[str, Any]]:
        """Name, kind, and type and shape of what each layer gives."""
        found = []
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
            told = [{"dtype": one.dtype.name, "shape": _shape(one)} for one in outputs]
            found.append({"name": layer.name, "kind": layer.type.name, "outputs": told})
        return found

    def _aim(self, config: Any, device: Device) -> None:
        """For a device that is not here: TensorRT-RTX builds for an architecture by its name."""
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
        trt, tell = self.trt, self._progress

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self.steps: dict[str, int] = {}

            def phase_start(self, phase: str, parent: str | None, count: int) -> None:  # noqa: ARG002
                self.steps[phase] = count

            def step_complete(self, phase: str, step: int) -> bool:
                if tell is not None:
                    tell(phase, step, self.steps.get(phase, 0))
                return True

            def phase_finish(self, phase: str) -> None:
                self.steps.pop(phase, None)

        self._kept_monitor = Monitor()  # TensorRT holds no reference of its own
        return self._kept_monitor


def _shape(tensor: Any) -> list[int] | None:
    """None where TensorRT does not know even the number of dimensions."""
    try:
        return [int(size) for size in tensor.shape]
    except ValueError:
        return None
