from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from engines import open as opening
from engines.backend import Backend
from engines.errors import BackendUnavailable, GoldenFailed, ModelNotFound, SettingRefused
from engines.loading import load_package
from engines.manifest import Manifest
from engines.open import backend_states, default_model, load_runtime, manifest_path, open_engine, shipped_models
from engines.testing import ConstantEngine
from engines.verify import write_golden

MakeModel = Callable[..., Path]


@pytest.fixture
def shipped(make_model: MakeModel) -> Path:
    for name in ("oak", "ash"):
        make_model(name)
    root = make_model("unused").parent
    (root / "unused" / "manifest.json").unlink()
    (root / "default.txt").write_text("oak\n")
    return root


@pytest.mark.parametrize("form", [str, Path, lambda folder: folder / "manifest.json"])
def test_a_model_is_opened_by_folder_or_manifest(tiny_model: Path, form: Callable[[Path], str | Path]) -> None:
    with open_engine(form(tiny_model), backend="onnxruntime", threads=1) as engine:
        assert (engine.backend, engine.folder) == ("onnxruntime", tiny_model)


def test_shipped_models_are_found_by_name_and_the_default_without(shipped: Path) -> None:
    assert list(shipped_models(shipped)) == ["ash", "oak"]
    assert default_model(shipped) == "oak"
    assert manifest_path("ash", shipped) == shipped / "ash" / "manifest.json"
    assert manifest_path(None, shipped) == shipped / "oak" / "manifest.json"


def test_a_shipped_name_wins_and_a_path_is_the_folder(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = shipped / "unused"
    (elsewhere / "ash").mkdir()
    Manifest.load(shipped / "ash").save(elsewhere / "ash")
    monkeypatch.chdir(elsewhere)
    assert manifest_path("ash", shipped) == shipped / "ash" / "manifest.json"
    assert manifest_path("./ash", shipped) == Path("ash/manifest.json")
    assert manifest_path(Path("ash"), shipped) == Path("ash/manifest.json")


def test_a_default_that_is_not_there_is_said(shipped: Path, tmp_path: Path) -> None:
    (shipped / "default.txt").write_text("elm")
    with pytest.raises(ModelNotFound, match=r"names 'elm', not shipped; name a shipped model \(ash, oak\)"):
        default_model(shipped)
    with pytest.raises(ModelNotFound, match=r"default\.txt is not there; name a model of your own"):
        manifest_path(None, tmp_path / "nothing")


def test_a_model_that_is_not_there_is_refused_with_the_choice(shipped: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"elm: no such model; .*ash, oak"):
        manifest_path("elm", shipped)
    with pytest.raises(ModelNotFound, match=r"the folder has no manifest\.json"):
        manifest_path(shipped / "unused", shipped)


def test_a_backend_nobody_knows_is_refused(tiny_model: Path) -> None:
    with pytest.raises(SettingRefused, match="backend is caffe; give one of auto, fastest, onnxruntime"):
        open_engine(tiny_model, backend="caffe")


def test_the_backend_that_is_named_is_the_one_that_is_opened(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> ConstantEngine:
        raise BackendUnavailable("first", "not here", "install it")

    known = [
        Backend("first", lambda: "1", missing),
        Backend("second", lambda: "1", lambda *_: ConstantEngine(tile_size=32)),
    ]
    monkeypatch.setattr(opening, "BACKENDS", {backend.name: backend for backend in known})
    with pytest.raises(BackendUnavailable, match="first: not here"):
        open_engine(tiny_model, backend="first")


def test_backends_tell_their_version_or_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    states = backend_states()
    assert [state.name for state in states] == ["onnxruntime", "openvino", "openvino-bf16", "tensorrt"]
    assert states[0].version
    assert states[0].problem is None
    assert all(state.version or "; " in str(state.problem) for state in states)

    def missing() -> str:
        raise BackendUnavailable("x", "not here", "install it")

    absent = Backend("x", missing, lambda *_: ConstantEngine(tile_size=32))
    monkeypatch.setattr(opening, "BACKENDS", {"x": absent})
    (state,) = backend_states()
    assert (state.version, state.problem) == (None, "not here; install it")


def test_the_rest_of_an_installation_is_no_backend_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the package's name is an empty package to Python."""
    for name in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    states = {state.name: state for state in backend_states()}
    assert not any(state.version for state in states.values())
    assert all("is a folder without its package" in str(states[name].problem) for name in ("onnxruntime", "openvino"))


def test_a_package_that_does_not_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was built against another NumPy raises what it likes."""
    (tmp_path / "built_for_another_numpy.py").write_text("raise AttributeError('_ARRAY_API not found')")
    (tmp_path / "left_behind_runtime" / "lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="does not load: AttributeError: _ARRAY_API not found"):
        load_package("built_for_another_numpy")
    with pytest.raises(ImportError, match="a folder without its package"):
        load_package("left_behind_runtime")


def test_an_engine_that_fails_its_golden_tile_is_closed_again(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model()
    tile, wrong = np.zeros((3, 32, 32), np.uint8), np.full((32, 32), 1, np.uint8)
    golden = write_golden(folder, tile=tile, classes=wrong, least_agreement={"fp32": 0.999})
    Manifest.load(folder).model_copy(update={"golden": golden}).save(folder)
    closed: list[bool] = []
    from engines.backends.onnxruntime import OnnxRuntimeEngine

    monkeypatch.setattr(OnnxRuntimeEngine, "close", lambda _: closed.append(True))
    with pytest.raises(GoldenFailed, match=r"0\.0000%.*99\.9000% required"):
        open_engine(folder)
    assert closed == [True] * len(closed) != []
    open_engine(folder, check_golden=False)


def test_every_shipped_model_passes_its_own_golden_tile() -> None:
    if not shipped_models():
        pytest.skip("no model is shipped yet")
    assert default_model() in shipped_models()
    for name in shipped_models():
        if Manifest.load(manifest_path(name)).precision == "int8" and not multiplies_bytes():
            continue  # sums of products of bytes saturate there: such a model is refused, as it should be
        with open_engine(name) as engine:
            assert engine.manifest.golden is not None
            assert engine.manifest.name == name


def multiplies_bytes() -> bool:
    """Whether the processor has instructions for INT8 that do not saturate: VNNI on x86-64."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def test_fastest_loads_every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the page scrub looks: else what the runtimes load would be watched as the engine's."""
    loaded: list[str] = []

    class Known:
        def __init__(self, name: str) -> None:
            self.name = name

        def state(self) -> None:
            loaded.append(self.name)

    monkeypatch.setattr("engines.open.BACKENDS", {name: Known(name) for name in ("one", "two")})
    for asked, wanted in (("fastest", ["one", "two"]), ("auto", ["one", "two"]), ("two", ["two"])):
        loaded.clear()
        load_runtime(asked)
        assert loaded == wanted
