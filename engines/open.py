"""From a model's name to an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.engine import Engine, EngineOptions
from engines.errors import BackendUnavailable, ModelNotFound, SettingRefused
from engines.manifest import MANIFEST_NAME, Manifest
from engines.verify import verify_golden

SHIPPED = Path(__file__).parent / "shipped"
AUTO = "auto"


@dataclass(frozen=True)
class BackendState:
    """A backend as it is on this machine: `version` where it loads, else `problem` says why not and what to do."""

    name: str
    version: str | None
    problem: str | None


def open_engine(
    model: str | Path | None = None,
    *,
    backend: str = AUTO,
    threads: int | None = None,
    spinning: bool = True,
    max_batch: int = 8,
    check_golden: bool = True,
) -> Engine:
    """Opens a model on a backend of this machine, and holds it to its golden tile (one tile is run).

    Args:
        model: shipped name (it wins over a folder of that name; write ./name for the folder), model folder or
            manifest.json; None for the default of the shipped ones.
        backend: name, or "auto" for the first that is usable here.
        threads: the backend computes with; None for the cores this process may use.
        spinning: idle threads wait awake.
        max_batch: most tiles in one call.
        check_golden: False leaves the golden tile out; for benchmarks and for measuring an engine that fails it.

    Raises:
        ModelNotFound, ManifestError, ModelMismatch, BackendUnavailable, SettingRefused: nothing was opened.
        GoldenFailed: opened and closed again, for it computes wrong.
        InferenceFailed: the runtime failed on the golden tile.
    """
    options = EngineOptions(threads=threads, spinning=spinning, max_batch=max_batch)
    if backend not in (AUTO, *_OPENERS):
        raise SettingRefused("backend", backend, f"one of {', '.join((AUTO, *_OPENERS))}")
    file = manifest_path(model)
    manifest = Manifest.load(file)
    engine = _first_usable(tuple(_OPENERS) if backend == AUTO else (backend,), manifest, file.parent, options)
    if check_golden:
        try:
            verify_golden(engine)
        except BaseException:
            engine.close()
            raise
    return engine


def _first_usable(names: tuple[str, ...], manifest: Manifest, folder: Path, options: EngineOptions) -> Engine:
    refusals: list[BackendUnavailable] = []
    for name in names:
        try:
            return _OPENERS[name](manifest, folder, options)
        except BackendUnavailable as error:  # noqa: PERF203 - a few backends, each may refuse
            refusals.append(error)
    raise refusals[0]


def manifest_path(model: str | Path | None = None, shipped: Path = SHIPPED) -> Path:
    """Where the manifest of a model lies: shipped name, folder, manifest.json, or None for the default.

    Raises:
        ModelNotFound: there is none.
    """
    if model is None:
        model = default_model(shipped)
    if isinstance(model, str) and model in (models := shipped_models(shipped)):
        return models[model] / MANIFEST_NAME
    path = Path(model)
    if path.is_dir() and (path / MANIFEST_NAME).is_file():
        return path / MANIFEST_NAME
    if path.is_file():
        return path
    problem = f"the folder has no {MANIFEST_NAME}" if path.is_dir() else "no such model"
    raise ModelNotFound(model, problem, f"name a model folder, its {MANIFEST_NAME}, or {_choice(shipped)}")


def shipped_models(shipped: Path = SHIPPED) -> dict[str, Path]:
    """Name to folder of the models that came with this software, in order of name."""
    return {file.parent.name: file.parent for file in sorted(shipped.glob(f"*/{MANIFEST_NAME}"))}


def default_model(shipped: Path = SHIPPED) -> str:
    """Name of the shipped model that is used where none is named (first line of shipped/default.txt).

    Raises:
        ModelNotFound: there is none.
    """
    file = shipped / "default.txt"
    try:
        name = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ModelNotFound("default model", f"{file} is not there", f"name {_choice(shipped)}") from error
    if name not in shipped_models(shipped):
        raise ModelNotFound("default model", f"{file} names {name!r}, not shipped", f"name {_choice(shipped)}")
    return name


def backend_states() -> tuple[BackendState, ...]:
    """Every backend this software knows, in the order "auto" tries them; loads each runtime to ask it."""
    return tuple(_state(name, version) for name, version in _VERSIONS.items())


def _state(name: str, version: Callable[[], str]) -> BackendState:
    try:
        return BackendState(name, version(), None)
    except BackendUnavailable as error:
        return BackendState(name, None, f"{error.problem}; {error.remedy}")


def _choice(shipped: Path) -> str:
    names = list(shipped_models(shipped))
    return f"a shipped model ({', '.join(names)})" if names else "a model of your own (none is shipped here)"


def _open_onnxruntime(manifest: Manifest, folder: Path, options: EngineOptions) -> Engine:
    from engines.onnxrt import OnnxRuntimeEngine

    return OnnxRuntimeEngine(manifest, folder, options)


def _onnxruntime_version() -> str:
    from engines.onnxrt import onnxruntime_version

    return onnxruntime_version()


def _open_openvino(manifest: Manifest, folder: Path, options: EngineOptions) -> Engine:
    from engines.openvino import OpenVinoEngine

    return OpenVinoEngine(manifest, folder, options)


def _open_openvino_bf16(manifest: Manifest, folder: Path, options: EngineOptions) -> Engine:
    from engines.openvino import OpenVinoEngine

    return OpenVinoEngine(manifest, folder, options, precision="bf16")


def _openvino_version() -> str:
    from engines.openvino import openvino_version

    return openvino_version()


# In the order "auto" tries them: the reference first, which is everywhere.
_OPENERS: Mapping[str, Callable[[Manifest, Path, EngineOptions], Engine]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "openvino-bf16": _open_openvino_bf16,
}
_VERSIONS: Mapping[str, Callable[[], str]] = {"onnxruntime": _onnxruntime_version, "openvino": _openvino_version}
