"""The contract of engines.engine.Engine, held against every backend. A new backend adds one line to OPENERS."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.engine import Engine, EngineOptions
from engines.errors import BackendUnavailable, EngineError, InferenceFailed, TilesRefused
from engines.manifest import Manifest
from engines.open import open_engine
from engines.tensorrt.runner import TensorRtEngine
from engines.testing import ConstantEngine, IdentityEngine
from tests.engines.tensorrt.stand_in_cuda import StandInCuda, stand_in_tensorrt, write_engine

MakeTiles = Callable[..., NDArray[np.uint8]]


def stand_in_engine(folder: Path) -> Engine:
    """TensorRT's backend without a GPU: its contract but not its arithmetic."""
    manifest, cuda = Manifest.load(folder), StandInCuda()
    path = write_engine(folder / "built", manifest)
    return TensorRtEngine(manifest, folder, path, stand_in_tensorrt(cuda, manifest), cuda, EngineOptions(max_batch=4))


OPENERS: dict[str, Callable[[Path], Engine]] = {
    "constant": lambda _: ConstantEngine(code=3, tile_size=32, max_batch=4, confidence=True),
    "constant without confidence": lambda _: ConstantEngine(tile_size=32, max_batch=4),
    "identity": lambda _: IdentityEngine(tile_size=32, max_batch=4, confidence=True),
    "onnxruntime": lambda folder: open_engine(folder, backend="onnxruntime", threads=1, max_batch=4),
    "onnxruntime, two threads that sleep": lambda folder: open_engine(
        folder, backend="onnxruntime", threads=2, spinning=False, max_batch=4
    ),
    "openvino": lambda folder: open_engine(folder, backend="openvino", threads=1, max_batch=4),
    "openvino-bf16": lambda folder: open_engine(folder, backend="openvino-bf16", threads=1, max_batch=4),
    "tensorrt": lambda folder: open_engine(folder, backend="tensorrt", built=folder / "built", build=True, max_batch=4),
    "tensorrt on a stand-in driver": stand_in_engine,
}


@pytest.fixture(params=sorted(OPENERS))
def opener(request: pytest.FixtureRequest, tiny_model: Path) -> Callable[[], Engine]:
    if request.param in ("openvino", "openvino-bf16", "tensorrt"):
        try:
            OPENERS[request.param](tiny_model).close()
        except BackendUnavailable as error:
            pytest.skip(str(error))
    return lambda: OPENERS[request.param](tiny_model)


@pytest.fixture
def engine(opener: Callable[[], Engine]) -> Iterator[Engine]:
    with opener() as opened:
        yield opened


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_batch_up_to_the_largest_gives_codes_of_the_manifest(
    engine: Engine, tiles: MakeTiles, count: int
) -> None:
    assert engine.max_batch == 4
    classes = engine.infer(tiles(count)).classes
    assert classes.dtype == np.uint8
    assert classes.shape == (count, 32, 32)
    assert classes.min() >= 1
    assert classes.max() <= len(engine.manifest.classes)


def test_confidence_is_there_exactly_where_the_manifest_names_it(engine: Engine, tiles: MakeTiles) -> None:
    confidence = engine.infer(tiles(2)).confidence
    assert (confidence is not None) == (engine.manifest.output.confidence is not None)
    if confidence is not None:
        assert confidence.dtype == np.uint8
        assert confidence.shape == (2, 32, 32)
        assert confidence.max() > 0


def test_a_tile_is_mapped_alike_alone_and_in_a_batch(engine: Engine, tiles: MakeTiles) -> None:
    batch = tiles(4)
    together = engine.infer(batch).classes
    alone = np.concatenate([engine.infer(batch[i : i + 1]).classes for i in range(4)])
    assert np.array_equal(together, alone)


def test_the_caller_owns_what_it_was_given(engine: Engine, tiles: MakeTiles) -> None:
    first = engine.infer(tiles(2, seed=1))
    kept = first.classes.copy()
    second = engine.infer(tiles(2, seed=2))
    engine.close()
    assert np.array_equal(first.classes, kept)
    assert not np.shares_memory(first.classes, second.classes)
    first.classes[:] = 0  # writable


def test_tiles_are_neither_changed_nor_aliased(engine: Engine, tiles: MakeTiles) -> None:
    given = tiles(2)
    before = given.copy()
    prediction = engine.infer(given)
    assert np.array_equal(given, before)
    kept = prediction.classes.copy()
    given[:] = 0
    assert np.array_equal(prediction.classes, kept)


def test_tiles_of_any_stride_and_read_only_ones_give_the_same(engine: Engine, tiles: MakeTiles) -> None:
    given = tiles(2)
    expected = engine.infer(given).classes
    strided = np.ascontiguousarray(given.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not strided.flags.c_contiguous
    given.flags.writeable = False
    assert np.array_equal(engine.infer(strided).classes, expected)
    assert np.array_equal(engine.infer(given).classes, expected)


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        (np.zeros((1, 3, 32, 31), np.uint8), "uint8 (1, 3, 32, 31)"),
        (np.zeros((1, 4, 32, 32), np.uint8), "uint8 (1, 4, 32, 32)"),
        (np.zeros((3, 32, 32), np.uint8), "uint8 (3, 32, 32)"),
        (np.zeros((1, 3, 32, 32), np.float32), "float32 (1, 3, 32, 32)"),
        (np.zeros((5, 3, 32, 32), np.uint8), "uint8 (5, 3, 32, 32)"),
        (np.zeros((0, 3, 32, 32), np.uint8), "uint8 (0, 3, 32, 32)"),
        (np.array(0, np.uint8), "uint8 ()"),
        ([[1]], "a list"),
    ],
)  # fmt: skip
def test_wrong_tiles_are_refused_with_what_was_given_and_required(
    engine: Engine, tiles: MakeTiles, wrong: NDArray[np.uint8], given: str
) -> None:
    with pytest.raises(TilesRefused, match=re.escape(given)) as caught:
        engine.infer(wrong)
    assert "uint8 (N, 3, 32, 32) with N from 1 to 4" in str(caught.value)
    engine.infer(tiles(1))  # still usable


def test_a_closed_engine_says_so_and_closes_again_in_peace(engine: Engine, tiles: MakeTiles) -> None:
    engine.close()
    engine.close()
    with pytest.raises(InferenceFailed, match="closed") as caught:
        engine.infer(tiles(1))
    assert not caught.value.retryable


def test_leaving_the_context_closes(opener: Callable[[], Engine], tiles: MakeTiles) -> None:
    with opener() as engine:
        engine.infer(tiles(1))
    with pytest.raises(EngineError):
        engine.infer(tiles(1))


def test_the_digest_and_the_answer_repeat(opener: Callable[[], Engine], tiles: MakeTiles) -> None:
    with opener() as one, opener() as other:
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", one.digest)
        assert one.digest == other.digest
        assert np.array_equal(one.infer(tiles(3)).classes, other.infer(tiles(3)).classes)


def test_an_engine_says_what_it_is(engine: Engine) -> None:
    assert engine.backend
    asked = "bf16" if engine.backend == "openvino-bf16" else engine.manifest.precision
    assert engine.precision == asked
    assert engine.folder is None or engine.folder.is_dir()


def test_a_thread_of_its_own_can_own_an_engine(opener: Callable[[], Engine], tiles: MakeTiles) -> None:
    found: list[NDArray[np.uint8]] = []

    def work() -> None:
        with opener() as engine:
            found.append(engine.infer(tiles(1)).classes)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found
    assert found[0].shape == (1, 32, 32)


def test_refusals_cross_a_process_border(engine: Engine) -> None:
    with pytest.raises(TilesRefused) as caught:
        engine.infer(np.zeros((1, 1, 1, 1), np.uint8))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.given, again.required) == (
        str(caught.value),
        caught.value.given,
        caught.value.required,
    )
