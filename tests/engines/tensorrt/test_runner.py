"""The TensorRT backend's order of copies, events and frees, on a stand-in driver; on a GPU where there is one."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from engines.engine import EngineOptions
from engines.errors import BackendUnavailable, InferenceFailed, ModelMismatch
from engines.manifest import Manifest
from engines.open import open_engine
from engines.tensorrt.driver import CudaError, CudaPython, PyCuda, open_driver
from engines.tensorrt.runner import TensorRtEngine
from engines.tensorrt.runtime import Runtime, this_device
from tests.engines.tensorrt.stand_in_cuda import StandInCuda, stand_in_tensorrt, write_engine
from tests.tiny_model import random_tiles, tiny_classes

Opened = tuple[TensorRtEngine, StandInCuda, Runtime]


@pytest.fixture
def opened(tiny_model: Path) -> Callable[..., Opened]:
    def open_one(usual: int = 2, content: bytes = b"an engine", **driver: Any) -> Opened:
        manifest = Manifest.load(tiny_model)
        cuda = StandInCuda(**driver)
        trt = stand_in_tensorrt(cuda, manifest)
        path = write_engine(tiny_model / "built", manifest, usual=usual, content=content)
        return TensorRtEngine(manifest, tiny_model, path, trt, cuda, EngineOptions(max_batch=8)), cuda, trt

    return open_one


@pytest.mark.parametrize("seed", range(40))
def test_every_order_that_streams_allow_gives_the_same_classes(opened: Callable[..., Opened], seed: int) -> None:
    engine, _, _ = opened(seed=seed, unified=seed % 4 == 0)
    with engine:
        for count in (7, 1, 8, 2, 3):
            tiles = random_tiles(count, seed=seed * 10 + count)
            told = engine.infer(tiles)
            assert np.array_equal(told.classes, tiny_classes(tiles))
            assert told.confidence is not None
            assert np.array_equal(told.confidence, tiny_classes(tiles) * 50)


def test_the_next_chunk_goes_in_before_the_last_one_comes_out(opened: Callable[..., Opened]) -> None:
    engine, cuda, _ = opened()
    with engine:
        del cuda.log[:]
        engine.infer(random_tiles(6))
        steps = [name for name in cuda.log if name in ("copy_in", "execute", "copy_out")]
    two_out = ["copy_out", "copy_out"]  # classes and confidence
    assert steps == ["copy_in", "execute", "copy_in", "execute", *two_out, "copy_in", "execute", *two_out, *two_out]


def test_a_call_allocates_nothing_on_the_device(opened: Callable[..., Opened]) -> None:
    engine, cuda, _ = opened()
    with engine:
        del cuda.log[:]
        for _ in range(3):
            engine.infer(random_tiles(5))
        assert not {"alloc", "pinned", "stream", "event"} & set(cuda.log)


def test_where_memory_is_shared_nothing_need_be_copied(opened: Callable[..., Opened]) -> None:
    engine, cuda, _ = opened(unified=True)
    with engine:
        assert engine.memory in ("mapped", "copied")
        del cuda.log[:]
        engine.infer(random_tiles(4))
        assert ("copy_in" in cuda.log) == (engine.memory == "copied")
    with opened()[0] as separate:
        assert separate.memory == "copied"


def test_closing_frees_everything_once_and_the_context_last(opened: Callable[..., Opened]) -> None:
    engine, cuda, _ = opened()
    engine.infer(random_tiles(3))
    engine.close()
    engine.close()
    assert cuda.log[-1] == "close"
    assert cuda.log.count("alloc") == cuda.log.count("free") == 6
    assert cuda.log.count("pinned") == cuda.log.count("free_pinned") == 6


@pytest.mark.parametrize("call", ["alloc", "pinned", "stream", "event"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_opening_that_fails_half_way_frees_what_it_had(tiny_model: Path, call: str, after: int) -> None:
    if call == "stream" and after > 1:
        pytest.skip("there are two streams")
    manifest = Manifest.load(tiny_model)
    cuda = StandInCuda()
    cuda.fails_at = (call, after, True)
    path = write_engine(tiny_model / "built", manifest)
    with pytest.raises(BackendUnavailable, match=r"failed on purpose.*free memory"):
        TensorRtEngine(manifest, tiny_model, path, stand_in_tensorrt(cuda, manifest), cuda)
    assert cuda.closed
    assert cuda.alive == {}


@pytest.mark.parametrize("call", ["copy_in", "record", "wait", "copy_out", "synchronize"])
@pytest.mark.parametrize("again", [True, False])
def test_a_failed_call_leaves_nothing_in_flight(opened: Callable[..., Opened], call: str, again: bool) -> None:
    engine, cuda, _ = opened()
    tiles = random_tiles(7)
    with engine:
        del cuda.log[:]
        cuda.fails_at = (call, 2, again)
        with pytest.raises(InferenceFailed, match="failed on purpose") as caught:
            engine.infer(tiles)
        assert caught.value.retryable is again
        assert not any(cuda._streams)
        assert np.array_equal(engine.infer(tiles).classes, tiny_classes(tiles))


def test_more_tiles_than_the_engine_was_built_for_are_told(opened: Callable[..., Opened]) -> None:
    engine, _, trt = opened()
    with engine:
        trt.module.contexts[-1].most = 0
        with pytest.raises(InferenceFailed, match=r"was not built for \d tiles in one call"):
            engine.infer(random_tiles(2))


def test_a_network_that_tensorrt_refuses_to_run_says_so(opened: Callable[..., Opened]) -> None:
    engine, _, trt = opened()
    with engine:
        trt.module.contexts[-1].refuses = True
        with pytest.raises(InferenceFailed, match="refused to run") as caught:
            engine.infer(random_tiles(1))
        assert not caught.value.retryable


def test_another_thread_is_told_whose_context_it_is(opened: Callable[..., Opened]) -> None:
    engine, _, _ = opened()
    told: list[BaseException] = []

    def work() -> None:
        try:
            engine.infer(random_tiles(1))
        except InferenceFailed as error:
            told.append(error)

    with engine:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
    assert "belongs to the thread that opened it" in str(told[0])


def test_bytes_that_are_no_engine_are_refused_with_tensorrts_words(opened: Callable[..., Opened]) -> None:
    with pytest.raises(BackendUnavailable, match=r"magic tag.*engines build .*tiny"):
        opened(content=b"something else")


def test_an_engine_of_other_ports_is_refused(tiny_model: Path) -> None:
    manifest = Manifest.load(tiny_model)
    cuda = StandInCuda()
    other = manifest.input.model_copy(update={"name": "x"})
    trt = stand_in_tensorrt(cuda, manifest.model_copy(update={"input": other}))
    with pytest.raises(ModelMismatch, match="inputs and outputs"):
        TensorRtEngine(manifest, tiny_model, write_engine(tiny_model / "built", manifest), trt, cuda)
    assert cuda.closed


def test_the_digest_is_the_built_engines(opened: Callable[..., Opened], tiny_model: Path) -> None:
    one, other = opened()[0], opened(usual=4)[0]
    assert one.digest == other.digest  # how many tiles go together is not in it
    assert str(Manifest.load(tiny_model).precision) == one.precision
    one.close()
    other.close()


def test_without_a_gpu_each_package_says_what_is_missing() -> None:
    try:
        open_driver().close()
    except BackendUnavailable as error:
        assert "pycuda" in str(error)
        assert "cuda-python" in str(error)
        assert "take onnxruntime" in str(error)


def test_cuda_pythons_names_are_those_that_are_called() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    source = Path(importlib.import_module("engines.tensorrt.driver").__file__ or "").read_text()
    names = {part.split('"')[0] for part in source.split('"cu')[1:] if part[0].isupper()}
    assert len(names) > 15
    assert [name for name in names if not hasattr(driver, "cu" + name)] == []


def test_who_waits_for_the_gpu_sleeps() -> None:
    asked: list[int] = []
    flags = SimpleNamespace(DISABLE_TIMING=2, BLOCKING_SYNC=1)
    pycuda = MagicMock(event_flags=flags, Event=asked.append, Error=RuntimeError)
    PyCuda(pycuda).event()
    flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2, CU_EVENT_BLOCKING_SYNC=1)
    calls = ("cuInit", "cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent")
    names = dict.fromkeys(calls, lambda *_: (0, 0))

    def create(given: int) -> tuple[int, str]:
        asked.append(given)
        return 0, "an event"

    CudaPython(MagicMock(CUevent_flags=flags, cuEventCreate=create, **names)).event()
    assert asked == [3, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [PyCuda, CudaPython])
def test_a_thousand_openings_hold_memory_flat(kind: Callable[[], Any], tmp_path: Path) -> None:
    try:
        this_device()
        kind().close()
    except (BackendUnavailable, ImportError, RuntimeError, CudaError) as error:
        pytest.skip(f"no GPU here: {error}")
    folder = Path("engines/shipped") / (Path("engines/shipped/default.txt").read_text().strip())
    free = []
    for round_ in range(1000):
        open_engine(folder, backend="tensorrt", built=tmp_path, build=True, check_golden=round_ == 0).close()
        if round_ in (99, 999):
            driver = open_driver()
            free.append(driver._cuda.mem_get_info()[0] if isinstance(driver, PyCuda) else 0)
            driver.close()
    assert abs(free[0] - free[1]) < 64 << 20
