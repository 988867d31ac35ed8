"""The familiarity output: every backend gives it, and it is held to the reference and to itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.engine import Engine, EngineOptions, Prediction
from engines.errors import AnswerChanged, BackendUnavailable, FamiliarityFailed, GoldenFailed, ModelMismatch
from engines.integrity.self_check import SelfCheck, same_answer
from engines.manifest import Manifest
from engines.open import open_engine
from engines.tensorrt.runner import TensorRtEngine
from engines.testing import IdentityEngine
from engines.verify import verify_golden
from tests.engines.tensorrt.stand_in_cuda import StandInCuda, stand_in_tensorrt, write_engine
from tests.tiny_model import familiarity_facts, random_tiles, tiny_familiarity

MakeModel = Callable[..., Path]


@pytest.fixture
def familiar_model(make_model: MakeModel) -> Path:
    return make_model("familiar", {"familiarity": familiarity_facts()}, familiarity=True)


def stand_in_engine(folder: Path) -> Engine:
    manifest, cuda = Manifest.load(folder), StandInCuda(seed=3)
    path = write_engine(folder / "built", manifest)
    return TensorRtEngine(manifest, folder, path, stand_in_tensorrt(cuda, manifest), cuda, EngineOptions(max_batch=8))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "openvino-bf16", "tensorrt on a stand-in driver"])
def test_every_backend_gives_one_float_a_tile(familiar_model: Path, backend: str) -> None:
    tiles = np.stack([tile // (1 + index) for index, tile in enumerate(random_tiles(5))])
    try:
        engine = (
            stand_in_engine(familiar_model)
            if backend.startswith("tensorrt")
            else open_engine(familiar_model, backend=backend, threads=1, max_batch=8)
        )
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with engine:
        familiarity = engine.infer(tiles).familiarity
    assert familiarity is not None
    assert familiarity.dtype == np.float32
    assert familiarity.shape == (5,)
    tolerance = 0.02 if backend == "openvino-bf16" else 1e-5
    assert np.allclose(familiarity, tiny_familiarity(tiles), rtol=tolerance)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_model_without_it_gives_none(tiny_model: Path, backend: str) -> None:
    try:
        engine = open_engine(tiny_model, backend=backend, threads=1)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with engine:
        assert engine.infer(random_tiles(1)).familiarity is None


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_that_lacks_the_output_is_refused(make_model: MakeModel, backend: str) -> None:
    folder = make_model("lacking", {"familiarity": familiarity_facts()})
    with pytest.raises((ModelMismatch, BackendUnavailable), match=r"familiarity|does not load here"):
        open_engine(folder, backend=backend, threads=1)


def test_a_prediction_holds_one_float_for_each_tile() -> None:
    classes = np.ones((2, 4, 4), np.uint8)
    assert Prediction(classes, None, np.ones(2, np.float32)).familiarity is not None
    wrongs: list[Any] = [np.ones(3, np.float32), np.ones(2, np.float64), np.ones((2, 1), np.float32)]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"familiarity is float32 \(N,\)"):
            Prediction(classes, None, wrong)


def test_an_engine_whose_golden_familiarity_strays_does_not_fly(make_model: MakeModel) -> None:
    golden = float(tiny_familiarity(random_tiles(1, seed=7))[0])
    right = familiarity_facts(golden=golden, most_ratio={"fp32": 1.01})
    with open_engine(make_model("right", {"familiarity": right}, familiarity=True), backend="onnxruntime") as engine:
        assert verify_golden(engine) is not None
    wrong = familiarity_facts(golden=golden / 1.05, most_ratio={"fp32": 1.01})
    folder = make_model("wrong", {"familiarity": wrong}, familiarity=True)
    with pytest.raises(FamiliarityFailed, match=r"familiarity of the golden tile is 0\.\d+, .* a factor of 1\.01"):
        open_engine(folder, backend="onnxruntime")
    assert issubclass(FamiliarityFailed, GoldenFailed), "whoever passes an engine over does so here too"


def test_a_changed_familiarity_is_a_changed_answer(familiar_model: Path) -> None:
    with open_engine(familiar_model, backend="onnxruntime", threads=1) as engine:
        check = SelfCheck.of(engine)
        check.check(engine)
        assert check.answer.familiarity is not None
        other = np.nextafter(check.answer.familiarity, np.float32(0))
        changed = replace(check, answer=replace(check.answer, familiarity=other))
        assert not same_answer(check.answer, changed.answer)
        assert not same_answer(check.answer, replace(check.answer, familiarity=None))
        with pytest.raises(AnswerChanged, match="familiarity"):
            changed.check(engine)


def test_the_identity_engine_says_how_bright_a_tile_is() -> None:
    with IdentityEngine(tile_size=32, familiarity=True) as engine:
        value = engine.infer(np.full((1, 3, 32, 32), 51, np.uint8)).familiarity
    assert value is not None
    assert value[0] == pytest.approx(0.2)
