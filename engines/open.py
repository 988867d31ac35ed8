"""Opens a model, by its name or folder, on a backend of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from engines.backend import BackendState
from engines.backends.registry import BACKENDS
from engines.cache_dirs import cache_dir
from engines.cpu import processor, usable_cores
from engines.engine import Engine, EngineOptions
from engines.errors import ModelNotFound, SettingRefused
from engines.manifest import MANIFEST_NAME, Manifest
from engines.selection import Choice, note_choice, open_by_rule, reason_of, rule_order, verified

SHIPPED = Path(__file__).parent / "shipped"
AUTO, FASTEST, REFERENCE = "auto", "fastest", "onnxruntime"


def open_engine(  # noqa: PLR0913 -- options of one thing, all by name
    model: str | Path | None = None,
    *,
    heads: Sequence[str] = (),
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
        heads: of a model with heads, those whose maps are wanted; its first one with none.
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
    if backend not in (AUTO, FASTEST, *BACKENDS):
        raise SettingRefused("backend", backend, f"one of {', '.join((AUTO, FASTEST, *BACKENDS))}")
    file = manifest_path(model)
    manifest = Manifest.load(file).with_heads(heads)
    if backend in (AUTO, FASTEST) and check_golden:
        return _open_chosen(manifest, file.parent, options, choices, measure=backend == FASTEST)
    backend = REFERENCE if backend in (AUTO, FASTEST) else backend
    engine = BACKENDS[backend].open(manifest, file.parent, options)
    return verified(engine) if check_golden else engine


def _open_chosen(
    manifest: Manifest, folder: Path, options: EngineOptions, choices: Path | None, *, measure: bool
) -> Engine:
    states = {state.name: state for state in backend_states()}
    openers, passed_over = {}, {}
    for name in sorted(BACKENDS, key=_rank):
        precision = BACKENDS[name].precision or manifest.precision
        if not states[name].version:
            # Without the remedy behind the semicolon: the reason goes into every item, and so over the downlink.
            passed_over[name] = reason_of(str(states[name].problem).partition(";")[0])
        elif not manifest.accepts(precision):
            passed_over[name] = f"the manifest does not accept {precision}"
        else:
            openers[name] = partial(BACKENDS[name].open, manifest, folder, options)
    if not openers or manifest.golden is None:
        # No backend to choose, or no golden tile to check the others with: open the reference, or raise its error.
        unchecked = {name: "the model has no golden tile to hold it to" for name in openers if name != REFERENCE}
        engine = verified(BACKENDS[REFERENCE].open(manifest, folder, options))
        return note_choice(engine, Choice("rule", passed_over | unchecked))
    if not measure:
        return open_by_rule(openers, passed_over)
    from engines.fastest import choice_key, open_fastest

    key = choice_key(
        model=manifest.model.sha256, threads=options.threads, processor=processor(), cores=usable_cores(),
        **{f"backend {name}": states[name].version for name in BACKENDS if name in openers},
    )  # fmt: skip
    return open_fastest(openers, key, choices or cache_dir() / "backends.json")


def _rank(name: str) -> int:
    order = rule_order()
    return order.index(name) if name in order else len(order)


def manifest_path(model: str | Path | None = None, shipped: Path = SHIPPED) -> Path:
    """Path of a model's manifest, given a shipped name, a folder, a manifest.json, or None for the default model.

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
    """Folder of each model that is shipped with this software, by name."""
    return {file.parent.name: file.parent for file in sorted(shipped.glob(f"*/{MANIFEST_NAME}"))}


def default_model(shipped: Path = SHIPPED) -> str:
    """Name of the shipped model that is used by default (first line of shipped/default.txt).

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
    """State of every known backend; loads each runtime to ask for its version."""
    return tuple(backend.state() for backend in BACKENDS.values())


def load_runtime(backend: str = AUTO) -> None:
    """Imports the runtime of a backend, or of all for "auto"; a missing runtime is reported later, by `open_engine`."""
    # The worker calls this before it opens an engine under the page scrub, which takes what is new for the engine's.
    for name, known in BACKENDS.items():
        if backend in (AUTO, FASTEST, name):
            known.state()


def _choice(shipped: Path) -> str:
    names = list(shipped_models(shipped))
    return f"a shipped model ({', '.join(names)})" if names else "a model of your own (none is shipped here)"
