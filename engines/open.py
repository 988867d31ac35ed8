"""From a model's name to an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engines.cores import processor, usable_cores
from engines.engine import Engine, EngineOptions
from engines.errors import BackendUnavailable, ModelNotFound, SettingRefused
from engines.manifest import MANIFEST_NAME, Manifest, Precision
from engines.places import cache_folder
from engines.selection import Choice, note_choice, open_by_rule, reason_of, rule_order, verified

SHIPPED = Path(__file__).parent / "shipped"
AUTO, FASTEST, REFERENCE = "auto", "fastest", "onnxruntime"


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
    built: Path | None = None,
    build: bool = False,
    choices: Path | None = None,
) -> Engine:
    """Opens a model on a backend of this machine, and holds it to its golden tile (one tile is run).

    Args:
        model: shipped name (it wins over a folder of that name; write ./name for the folder), model folder or
            manifest.json; None for the default of the shipped ones.
        backend: name; "auto" for the first by a fixed rule that is usable here, computes in a precision that the
            manifest accepts and passes the golden tile; "fastest" for the fastest of these, measured at the first
            opening and kept from then on. Unchecked both are the reference.
        threads: the backend computes with; None for the cores this process may use.
        spinning: idle threads wait awake.
        max_batch: most tiles in one call.
        check_golden: False leaves the golden tile out; for benchmarks and for measuring an engine that fails it.
        built: folder of TensorRT engines, see EngineOptions.
        build: whether to make one where there is none.
        choices: file that keeps what "fastest" chose; None for the one in the user's cache.

    Raises:
        ModelNotFound, ManifestError, ModelMismatch, BackendUnavailable, SettingRefused: nothing was opened.
        GoldenFailed: opened and closed again, for it computes wrong.
        InferenceFailed: the runtime failed on the golden tile.
    """
    options = EngineOptions(threads=threads, spinning=spinning, max_batch=max_batch, built=built, build=build)
    if backend not in (AUTO, FASTEST, *_OPENERS):
        raise SettingRefused("backend", backend, f"one of {', '.join((AUTO, FASTEST, *_OPENERS))}")
    file = manifest_path(model)
    manifest = Manifest.load(file)
    if backend in (AUTO, FASTEST) and check_golden:
        return _open_chosen(manifest, file.parent, options, choices, measure=backend == FASTEST)
    backend = REFERENCE if backend in (AUTO, FASTEST) else backend
    engine = _OPENERS[backend](manifest, file.parent, options)
    return verified(engine) if check_golden else engine


def _open_chosen(
    manifest: Manifest, folder: Path, options: EngineOptions, choices: Path | None, *, measure: bool
) -> Engine:
    states = {state.name: state for state in backend_states()}
    openers, passed_over = {}, {}
    for name in sorted(_OPENERS, key=_rank):
        precision = _PRECISIONS.get(name, manifest.precision)
        if not states[name].version:
            passed_over[name] = reason_of(str(states[name].problem).partition(";")[0])
        elif not manifest.accepts(precision):
            passed_over[name] = f"the manifest does not accept {precision}"
        else:
            openers[name] = partial(_OPENERS[name], manifest, folder, options)
    if not openers or manifest.golden is None:
        # Nothing to choose from, or nothing to hold the others to: the reference, or what it says.
        unheld = {name: "the model has no golden tile to hold it to" for name in openers if name != REFERENCE}
        engine = verified(_OPENERS[REFERENCE](manifest, folder, options))
        return note_choice(engine, Choice("rule", passed_over | unheld))
    if not measure:
        return open_by_rule(openers, passed_over)
    from engines.fastest import choice_key, open_fastest

    key = choice_key(
        model=manifest.model.sha256, threads=options.threads, processor=processor(), cores=usable_cores(),
        **{f"backend {name}": states[name].version for name in _OPENERS if name in openers},
    )  # fmt: skip
    return open_fastest(openers, key, choices or cache_folder() / "backends.json")


def _rank(name: str) -> int:
    order = rule_order()
    return order.index(name) if name in order else len(order)


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
    """Every backend this software knows; loads each runtime to ask it."""
    return tuple(_state(name, version) for name, version in _VERSIONS.items())


def load_runtime(backend: str = AUTO) -> None:
    """Imports the runtime of a backend, all of them for "auto"; one that is not here is left to the opening."""
    for name in _VERSIONS if backend == AUTO else {backend} & set(_VERSIONS):
        _state(name, _VERSIONS[name])


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


def _openvino_bf16_version() -> str:
    from engines.openvino import bf16_version

    return bf16_version()


def _open_tensorrt(manifest: Manifest, folder: Path, options: EngineOptions) -> Engine:
    from engines.built import open_built

    return open_built(manifest, folder, options)


def _tensorrt_version() -> str:
    from engines.built import tensorrt_version

    return tensorrt_version()


_OPENERS: Mapping[str, Callable[[Manifest, Path, EngineOptions], Engine]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "openvino-bf16": _open_openvino_bf16,
    "tensorrt": _open_tensorrt,
}
_VERSIONS: Mapping[str, Callable[[], str]] = {
    "onnxruntime": _onnxruntime_version, "openvino": _openvino_version, "openvino-bf16": _openvino_bf16_version,
    "tensorrt": _tensorrt_version,
}  # fmt: skip
# Of the backends that do not take it from the model.
_PRECISIONS: Mapping[str, Precision] = {"openvino-bf16": "bf16"}
