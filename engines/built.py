"""From a model to its TensorRT engine on this device: found, or built first."""

from __future__ import annotations

import logging
from pathlib import Path

from engines.build import SUFFIX, Batches, BuiltEngine, build_engine, engine_name
from engines.cuda import open_driver
from engines.engine import Engine, EngineOptions
from engines.errors import BackendUnavailable, EngineDamaged
from engines.manifest import Manifest
from engines.places import built_folder
from engines.tensorrt import TensorRtEngine
from engines.trt import BACKEND, Device, Runtime, runtime, this_device

log = logging.getLogger(__name__)


def open_built(manifest: Manifest, folder: Path, options: EngineOptions) -> Engine:
    """Opens the model's engine on this machine's GPU.

    Raises:
        BackendUnavailable: no TensorRT, no GPU, or no engine and none is to be built.
        EngineElsewhere: there is one, of another device or TensorRT.
        EngineDamaged: there is one, not as it was built.
        BuildFailed: TensorRT makes no engine of the model.
    """
    found, device = runtime(), this_device()
    path = engine_for(manifest, folder, options, found, device)
    return TensorRtEngine(manifest, folder, path, found, open_driver(), options)


def engine_for(manifest: Manifest, folder: Path, options: EngineOptions, found: Runtime, device: Device) -> Path:
    """The engine's file, whole and of this model, device and TensorRT; built first where `options` says so.

    Raises:
        As open_built.
    """
    built = options.built or built_folder()
    batches = Batches()
    fitting = engine_name(manifest, found, device, batches).rpartition("_b")[0]
    candidates = sorted(built.glob(f"{fitting}_b*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
    damaged: EngineDamaged | None = None
    for path in reversed(candidates):  # of several profiles the one built last
        try:
            BuiltEngine.load(path).check(path, manifest, found, device)
        except EngineDamaged as error:  # noqa: PERF203 -- there are one or two
            damaged = damaged or error
            log.warning("%s", error)
        else:
            return path
    if damaged is not None and not options.build:
        raise damaged
    if options.build:
        log.warning("building %s for %s with %s %s: minutes", manifest.name, device.slug, found.name, found.version)
        return build_engine(manifest, folder, built, found, device, batches=batches)
    for path in sorted(built.glob(f"{manifest.name}_*{SUFFIX}")):
        BuiltEngine.load(path).check(path, manifest, found, device)  # says what differs
    remedy = f"engines build {manifest.name} --out {built}"
    raise BackendUnavailable(BACKEND, f"{built} holds no engine of {manifest.name} for {device.slug}", remedy)


def tensorrt_version() -> str:
    """Version of TensorRT, and the GPU it would run on.

    Raises:
        BackendUnavailable: one of both is missing.
    """
    found, device = runtime(), this_device()
    return f"{found.version} ({found.name}) on {device.name}"
