from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from engines import open as opening
from engines.backends.registry import BACKENDS
from engines.engine import Engine
from engines.errors import BackendUnavailable, EngineError, GoldenFailed, InferenceFailed
from engines.manifest import Manifest
from engines.open import open_engine
from engines.selection import Choice, choice_of, open_by_rule, reason_of, rule_order
from tests.engines.test_fastest import Openers, Slow, accepted


def missing() -> Engine:
    raise BackendUnavailable("first", "not here", "install it")


@pytest.fixture(autouse=True)
def fast_at_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine the tests run on."""
    monkeypatch.setattr("engines.selection.has_fast_bfloat16", lambda: True)


@pytest.fixture
def openers(tiny_model: Path) -> Openers:
    return {"openvino": lambda: Slow(tiny_model, 9), "onnxruntime": lambda: Slow(tiny_model, 1)}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> Callable[..., None]:
    """Makes this machine one that has the named backends and no others."""

    def has(*names: str, fast_bfloat16: bool = True) -> None:
        monkeypatch.setattr("engines.selection.has_fast_bfloat16", lambda: fast_bfloat16)
        made = {
            name: replace(
                BACKENDS[name],
                version=partial(version_of, name, names),
                open=lambda *_, name=name: named(name, tiny_model),
            )
            for name in ("onnxruntime", "openvino", "openvino-bf16", "tensorrt")
        }
        monkeypatch.setattr(opening, "BACKENDS", made)

    return has


def version_of(name: str, present: tuple[str, ...]) -> str:
    if name not in present:
        raise BackendUnavailable(name, f"no {name}", "install it")
    return "1"


def named(name: str, folder: Path) -> Engine:
    engine = Slow(folder, 0)
    engine.backend = name
    return engine


def test_the_first_in_order_is_taken_however_slow_it_is(openers: Openers) -> None:
    engine = open_by_rule(openers, {})
    assert engine.backend == "9"
    assert choice_of(engine) == Choice("rule", {})


@pytest.mark.parametrize(
    ("processor", "present", "chosen"),
    [
        ("x86_64", ("onnxruntime", "openvino", "openvino-bf16", "tensorrt"), "tensorrt"),
        ("x86_64", ("onnxruntime", "openvino", "openvino-bf16"), "openvino-bf16"),
        ("AMD64", ("onnxruntime", "openvino"), "openvino"),
        ("x86_64", ("onnxruntime",), "onnxruntime"),
        ("aarch64", ("onnxruntime", "openvino", "openvino-bf16", "tensorrt"), "tensorrt"),
        ("aarch64", ("onnxruntime", "openvino", "openvino-bf16"), "onnxruntime"),
    ],
)
def test_processor_and_runtimes_decide_and_nothing_else(
    make_model: Callable[..., Path], machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    processor: str, present: tuple[str, ...], chosen: str,
) -> None:  # fmt: skip
    machine(*present)
    monkeypatch.setattr("platform.machine", lambda: processor)
    folder = make_model("with-bf16", manifest=accepted("bf16", 0.6, 0.001))
    for _ in range(3):
        with open_engine(folder) as engine:
            assert engine.backend == chosen
            assert choice_of(engine).how == "rule"
            before = set(rule_order()[: rule_order().index(chosen)])
            assert set(choice_of(engine).passed_over) == before


@pytest.mark.parametrize(
    ("present", "chosen"),
    [(("onnxruntime", "openvino", "openvino-bf16"), "openvino"), (("onnxruntime", "openvino-bf16"), "onnxruntime")],
)
def test_bfloat16_is_last_where_the_processor_is_slow_at_it(
    make_model: Callable[..., Path], machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    present: tuple[str, ...], chosen: str,
) -> None:  # fmt: skip
    machine(*present, fast_bfloat16=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert open_engine(make_model("with-bf16", manifest=accepted("bf16", 0.6, 0.001))).backend == chosen


def test_no_cache_is_read_and_nothing_is_timed(
    tiny_model: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a busy machine once measured must not choose: two machines of one kind make the same map."""
    machine("onnxruntime", "openvino")
    monkeypatch.setattr("engines.fastest.open_fastest", lambda *_, **__: pytest.fail("nothing is measured"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    choices = tmp_path / "backends.json"
    assert open_engine(tiny_model, choices=choices).backend == "openvino"
    assert not choices.exists()


def test_who_asks_for_the_fastest_gets_a_measured_and_kept_one(
    tiny_model: Path, machine: Callable[..., None], tmp_path: Path
) -> None:
    machine("onnxruntime", "openvino")
    choices = tmp_path / "backends.json"
    with open_engine(tiny_model, backend="fastest", choices=choices) as engine:
        assert choice_of(engine).how == "measured"
        assert list(json.loads(choices.read_text()).values()) == [engine.backend]


def test_a_precision_that_nobody_accepted_is_passed_over_and_said(
    tiny_model: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("onnxruntime", "openvino", "openvino-bf16")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with open_engine(tiny_model) as engine:
        assert engine.backend == "openvino"
        assert choice_of(engine).passed_over == {
            "tensorrt": "no tensorrt", "openvino-bf16": "the manifest does not accept bf16",
        }  # fmt: skip


def test_one_that_cannot_be_opened_or_computes_wrong_is_passed_over(openers: Openers, tiny_model: Path) -> None:
    wrong: Openers = {"openvino-bf16": lambda: Slow(tiny_model, 0, wrong=True)}
    engine = open_by_rule({"tensorrt": missing, **wrong, **openers}, {})
    assert engine.backend == "9"
    assert list(choice_of(engine).passed_over) == ["tensorrt", "openvino-bf16"]
    with pytest.raises(BackendUnavailable):
        open_by_rule({"tensorrt": missing, **wrong}, {})


def test_one_wrong_answer_does_not_choose_another_backend(openers: Openers, tiny_model: Path) -> None:
    """A flipped bit while it was opened: opened again from disk, it computes right."""
    tries: Iterator[bool] = iter([True, False])
    openers["openvino"] = lambda: Slow(tiny_model, 9, wrong=next(tries))
    assert open_by_rule(openers, {}).backend == "9"
    twice: Openers = {"openvino": lambda: Slow(tiny_model, 9, wrong=True)}
    with pytest.raises(GoldenFailed):
        open_by_rule(twice, {})


def test_one_that_may_work_at_another_try_is_not_given_up(openers: Openers) -> None:
    def fails() -> Engine:
        raise InferenceFailed("openvino", "out of memory", retryable=True)

    with pytest.raises(EngineError, match="out of memory"):
        open_by_rule({**openers, "openvino": fails}, {})


def test_without_a_golden_tile_it_is_the_reference(
    make_model: Callable[..., Path], machine: Callable[..., None]
) -> None:
    folder = make_model("plain", manifest={"golden": None})
    machine("onnxruntime", "openvino")
    with open_engine(folder) as engine:
        assert (engine.backend, choice_of(engine).how) == ("onnxruntime", "rule")
        assert "no golden tile" in choice_of(engine).passed_over["openvino"]


def test_a_backend_that_is_named_says_so(tiny_model: Path) -> None:
    assert Manifest.load(tiny_model).golden is not None
    with open_engine(tiny_model, backend="onnxruntime", threads=1) as engine:
        assert choice_of(engine).as_json() == {"chosen": "named", "passed_over": {}}


def test_reasons_are_short_enough_for_the_link() -> None:
    assert len(reason_of("x" * 1000)) == 120
    assert reason_of("two\nlines") == "two lines"
