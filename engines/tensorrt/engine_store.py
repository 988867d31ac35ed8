"""Finds a model's TensorRT engine for this device among the built ones, or builds it first."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from engines.backend import Backend
from engines.cache_dirs import engines_dir
from engines.engine import Engine, EngineOptions
from engines.errors import BackendUnavailable, EngineDamaged, EngineElsewhere
from engines.manifest import Manifest
from engines.tensorrt.build import build_engine
from engines.tensorrt.driver import check_package, open_driver
from engines.tensorrt.engine_file import SUFFIX, Batches, BuiltEngine, build_command, engine_name
from engines.tensorrt.runner import TensorRtEngine
from engines.tensorrt.runtime import BACKEND, Device, Runtime, runtime, this_device

log = logging.getLogger(__name__)


def open_built(manifest: Manifest, folder: Path, options: EngineOptions) -> Engine:
    """Opens the model's engine on this machine's GPU.

    Raises:
        BackendUnavailable: no TensorRT, no GPU, or no engine and none is to be built.
        EngineElsewhere: the engine found was built for another device or TensorRT version.
        EngineDamaged: the engine found has changed since it was built.
        BuildFailed: TensorRT cannot build an engine of the model.
    """
    tensorrt, device = runtime(), this_device()
    check_package()
    path = engine_for(manifest, folder, options, tensorrt, device)
    return TensorRtEngine(manifest, folder, path, tensorrt, open_driver(), options)


def engine_for(manifest: Manifest, folder: Path, options: EngineOptions, tensorrt: Runtime, device: Device) -> Path:
    """Path of an undamaged engine for this model, device and TensorRT; built first where `options.build` is set.

    Raises:
        As open_built.
    """
    built = options.built or engines_dir()
    batches = Batches()
    # Without its batch sizes: the runner cuts a call into chunks of what the engine was built for.
    fitting = engine_name(manifest, tensorrt, device, batches).rpartition("_b")[0]
    # An engine for the architecture (`engines build --target`) serves where none was built on this very GPU.
    anywhere = engine_name(manifest, tensorrt, replace(device, name="any", l4t=""), batches).rpartition("_b")[0]
    found = [sorted(built.glob(f"{name}_b*{SUFFIX}"), key=_changed) for name in dict.fromkeys((anywhere, fitting))]
    candidates = [path for paths in found for path in paths]
    refusal: EngineDamaged | EngineElsewhere | None = None
    for path in reversed(candidates):  # this GPU's first, of several batch profiles the newest
        try:
            BuiltEngine.load(path).check(path, manifest, folder, tensorrt, device)
        except (EngineDamaged, EngineElsewhere) as error:  # noqa: PERF203 -- there are one or two
            # No reason to give up: an engine of other batch sizes may be whole, or one is built anew.
            refusal = refusal or error
            log.warning("%s", error)
        else:
            return path
    if refusal is not None and not options.build:
        raise refusal
    if options.build:
        log.warning(
            "building %s for %s with %s %s: takes minutes", manifest.name, device.slug, tensorrt.name, tensorrt.version
        )
        return build_engine(manifest, folder, built, tensorrt, device, batches=batches)
    for path in sorted(built.glob(f"{manifest.name}_*{SUFFIX}")):
        try:
            BuiltEngine.load(path).check(path, manifest, folder, tensorrt, device)
        except (EngineDamaged, EngineElsewhere) as error:  # noqa: PERF203 -- there are one or two
            refusal = refusal or error  # says what differs
        else:
            return path  # it was renamed, and fits all the same
    if refusal is not None:
        raise refusal
    remedy = build_command(manifest, folder, built)
    raise BackendUnavailable(BACKEND, f"{built} holds no engine of {manifest.name} for {device.slug}", remedy)


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


def tensorrt_version() -> str:
    """Version of TensorRT, and the name of the GPU it would run on.

    Raises:
        BackendUnavailable: TensorRT, the GPU, or the package that reaches it is missing.
    """
    tensorrt, device = runtime(), this_device()
    check_package()
    return f"{tensorrt.version} ({tensorrt.name}) on {device.name}"


TENSORRT = Backend(BACKEND, tensorrt_version, open_built)
