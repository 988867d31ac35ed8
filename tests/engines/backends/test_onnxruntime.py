from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from engines.backends.onnxruntime import OnnxRuntimeEngine
from engines.engine import EngineOptions, checked_tiles
from engines.errors import BackendUnavailable, InferenceFailed, ModelMismatch, SettingRefused
from engines.manifest import Manifest, ModelFile, ModelOutput
from engines.testing import manifest_for_testing

MakeModel = Callable[..., Path]
MakeTiles = Callable[..., NDArray[np.uint8]]


def opened(folder: Path, **options: Any) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(Manifest.load(folder), folder, EngineOptions(**options))


def resealed(folder: Path) -> None:
    """Makes the manifest describe the model file as it lies."""
    manifest = Manifest.load(folder)
    manifest.model_copy(update={"model": ModelFile.of(folder / "model.onnx")}).save(folder)


def test_classes_are_what_numpy_computes(
    tiny_model: Path, tiles: MakeTiles, oracle: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    given = tiles(3)
    with opened(tiny_model, threads=1) as engine:
        prediction = engine.infer(given)
    assert len(np.unique(prediction.classes)) == 4
    assert np.array_equal(prediction.classes, oracle(given))
    assert prediction.confidence is not None
    assert len(np.unique(prediction.confidence)) > 100


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-1] + b"x", lambda _: b"", lambda raw: raw + b"x"])
def test_a_model_of_another_digest_never_reaches_the_runtime(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    def must_not_run(*_: object, **__: object) -> None:
        pytest.fail("the runtime saw a file that was not verified")

    monkeypatch.setattr(onnxruntime, "InferenceSession", must_not_run)
    path = tiny_model / "model.onnx"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelMismatch, match="sha256"):
        opened(tiny_model)


def test_the_bytes_that_were_hashed_are_the_bytes_that_run(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tiles: MakeTiles
) -> None:
    session = onnxruntime.InferenceSession

    def swapped(source: object, *rest: Any, **more: Any) -> Any:
        (tiny_model / "model.onnx").write_bytes(b"another file by now")
        return session(source, *rest, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", swapped)
    with opened(tiny_model) as engine:
        engine.infer(tiles(1))


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        ({"taken": "image"}, "inputs is image, the manifest says tiles"),
        ({"told": "labels"}, "outputs is confidence, labels, the manifest says classes, confidence"),
        ({"told_type": onnx.TensorProto.INT64}, r"output classes is tensor\(int64\)"),
        ({"size": 64}, r"input tiles is tensor\(uint8\) \['N', 3, 64, 64\].*\[N or 1, 3, 32, 32\]"),
        ({"bands": 4}, r"input tiles .*\['N', 4, 32, 32\]"),
        ({"batch": 2}, r"input tiles .*\[2, 3, 32, 32\]"),
    ],
)
def test_a_graph_that_is_not_the_manifests_is_refused(make_model: MakeModel, graph: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelMismatch, match=says):
        opened(make_model(**graph))


def test_an_output_the_manifest_does_not_name_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ModelMismatch, match="outputs is classes, confidence, the manifest says classes;"):
        opened(make_model(manifest={"output": ModelOutput()}))


def test_a_graph_of_batch_one_takes_one_tile(make_model: MakeModel, tiles: MakeTiles) -> None:
    with opened(make_model(batch=1), max_batch=8) as engine:
        assert engine.max_batch == 1
        assert engine.infer(tiles(1)).classes.shape == (1, 32, 32)


def test_a_graph_of_open_size_is_held_to_the_tile(make_model: MakeModel, tiles: MakeTiles) -> None:
    with opened(make_model(size="S")) as engine:
        assert engine.infer(tiles(1)).classes.shape == (1, 32, 32)


def test_a_file_that_is_no_model_is_refused(tiny_model: Path) -> None:
    (tiny_model / "model.onnx").write_bytes(b"no protobuf")
    resealed(tiny_model)
    with pytest.raises(BackendUnavailable, match=r"cannot load .*model\.onnx: .*; update onnxruntime") as caught:
        opened(tiny_model)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_weights_outside_the_verified_file_are_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model / "model.onnx"
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    resealed(tiny_model)
    monkeypatch.chdir(tiny_model)
    # Optimising this graph happens to fail on such weights; without, the runtime takes them from the working folder.
    monkeypatch.setattr("engines.backends.onnxruntime.GRAPH_OPTIMISATION", "ORT_DISABLE_ALL")
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.InferenceSession(path.read_bytes(), plain, providers=["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match="in one file"):
        opened(tiny_model)


class _Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def run_with_iobinding(self, _binding: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException("Failed to allocate memory\nfor buffer"), True),
        (MemoryError(), True),
        (onnxruntime.capi.onnxruntime_pybind11_state.Fail("node X\nfailed"), False),
        (onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument("shape"), False),
        (RuntimeError("anything"), False),
    ],
)
def test_what_the_runtime_raises_is_translated(
    tiny_model: Path, tiles: MakeTiles, monkeypatch: pytest.MonkeyPatch, error: Exception, retryable: bool
) -> None:
    with opened(tiny_model) as engine:
        with monkeypatch.context() as patch, pytest.raises(InferenceFailed) as caught:
            patch.setattr(engine, "_session", _Failing(error))
            engine.infer(tiles(1))
        engine.infer(tiles(1))  # the failure left nothing bound
    assert caught.value.retryable is retryable
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


def test_a_graph_that_fails_is_told_once_and_not_in_the_runtimes_log(
    make_model: MakeModel, tiles: MakeTiles, capfd: pytest.CaptureFixture[str]
) -> None:
    with opened(make_model(failing=True)) as engine, pytest.raises(InferenceFailed, match="Gather") as caught:
        engine.infer(tiles(1))
    assert not caught.value.retryable
    assert capfd.readouterr().err == ""


def test_a_machine_without_the_runtime_is_told_what_to_install(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match="pip install onnxruntime"):
        opened(tiny_model)


def test_threads_and_spinning_reach_the_runtime(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    session = onnxruntime.InferenceSession

    def spied(source: object, settings: Any, **more: Any) -> Any:
        seen.append(settings)
        return session(source, settings, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spied)
    opened(tiny_model, threads=2, spinning=False).close()
    opened(tiny_model, threads=1).close()
    assert [s.intra_op_num_threads for s in seen] == [2, 1]
    assert [s.inter_op_num_threads for s in seen] == [1, 1]
    assert [s.get_session_config_entry("session.intra_op.allow_spinning") for s in seen] == ["0", "1"]


def test_the_digest_tells_models_apart_but_not_threads(make_model: MakeModel) -> None:
    one, other = make_model(), make_model("other", scale=2.0)
    with opened(one, threads=1) as a, opened(one, threads=2, max_batch=2) as b, opened(other, threads=1) as c:
        assert a.digest == b.digest
        assert a.digest != c.digest


def test_the_digest_tells_runtime_versions_apart(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tiny_model) as now:
        pass
    monkeypatch.setattr(onnxruntime, "__version__", "0.0.1")
    with opened(tiny_model) as then:
        assert then.digest != now.digest


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": -1}, {"max_batch": 0}, {"threads": True}])
def test_settings_no_engine_can_have_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(SettingRefused, match="a whole number from 1"):
        EngineOptions(**options)  # type: ignore[arg-type]


def test_the_runtime_is_given_tiles_without_gaps(tiles: MakeTiles) -> None:
    turned = tiles(2).swapaxes(2, 3)
    checked = checked_tiles(turned, manifest_for_testing(tile_size=32), max_batch=2)
    assert checked.flags.c_contiguous
    assert np.array_equal(checked, turned)


def test_the_runtime_is_loaded_only_when_a_model_is_opened() -> None:
    code = "import sys, engines.backends.onnxruntime, engines.open; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
