"""Which of the built engines is taken, and what is said where none fits: by their facts, without TensorRT or a GPU."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from engines.engine import EngineOptions
from engines.errors import BackendUnavailable, EngineElsewhere
from engines.manifest import Manifest
from engines.tensorrt import driver, engine_store
from engines.tensorrt.engine_file import SUFFIX, Batches, BuiltEngine, build_command, engine_name
from engines.tensorrt.engine_store import TENSORRT, engine_for
from engines.tensorrt.runtime import Device, Runtime
from tests.tiny_heads import write_heads_model
from tests.tiny_model import write_model

HERE = Device("NVIDIA A10", "8.6")
ANY = Device("any", "8.6")
RUNTIME = Runtime("tensorrt_rtx", "1.2.3", ModuleType("made"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def built_for(model: Path, out: Path, device: Device, name: str = "") -> Path:
    """Stands for an engine's file: made bytes, with the facts that a build would write."""
    manifest, content = Manifest.load(model), b"no real engine"
    facts = BuiltEngine(
        f"{manifest.name} {manifest.version}", manifest.model.sha256, manifest.precision, RUNTIME.name,
        RUNTIME.version, device, (1, 1, 8), 1, len(content), hashlib.sha256(content).hexdigest(), 1.0, 1,
    )  # fmt: skip
    out.mkdir(exist_ok=True)
    path = out / (name or engine_name(manifest, RUNTIME, device, Batches()))
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(asdict(facts)))
    return path


def found(model: Path, out: Path, *, build: bool = False) -> Path:
    return engine_for(Manifest.load(model), model, EngineOptions(built=out, build=build), RUNTIME, HERE)


def test_an_engine_for_the_architecture_serves_where_none_is_of_this_gpu(model: Path, tmp_path: Path) -> None:
    anywhere = built_for(model, tmp_path / "built", ANY)
    assert found(model, tmp_path / "built") == anywhere
    assert found(model, tmp_path / "built", build=True) == anywhere  # minutes of building are spared
    own = built_for(model, tmp_path / "built", HERE)
    assert found(model, tmp_path / "built") == own


def test_a_renamed_engine_is_found_if_it_fits(model: Path, tmp_path: Path) -> None:
    name = Manifest.load(model).name
    renamed = built_for(model, tmp_path / "built", HERE, f"{name}_mine{SUFFIX}")
    (tmp_path / "built" / f"{name}_left_over{SUFFIX}").write_bytes(b"an engine without its facts")
    elsewhere = built_for(model, tmp_path / "built", replace(HERE, name="NVIDIA A40"), f"{name}_another{SUFFIX}")
    assert elsewhere < renamed
    assert found(model, tmp_path / "built") == renamed


def test_what_differs_is_said_with_the_command_that_builds_the_right_one(model: Path, tmp_path: Path) -> None:
    built_for(model, tmp_path / "built", replace(HERE, name="NVIDIA L4", capability="8.9"))
    with pytest.raises(EngineElsewhere, match=r"capability is 8\.9, here it is 8\.6") as refused:
        found(model, tmp_path / "built")
    assert f"engines build {model} --out {tmp_path / 'built'}" in str(refused.value)


def test_the_command_names_heads_and_a_folder_that_is_not_shipped(tmp_path: Path) -> None:
    folder = write_heads_model(tmp_path / "heads")
    manifest = Manifest.load(folder).with_heads(("light", "bands"))
    assert build_command(manifest, folder, Path("out")) == f"engines build {folder} --heads light,bands --out out"
    with pytest.raises(BackendUnavailable, match="--heads light,bands"):
        engine_for(manifest, folder, EngineOptions(built=tmp_path, build=False), RUNTIME, HERE)


def test_a_shipped_model_is_named_by_its_name() -> None:
    from engines.open import manifest_path

    file = manifest_path("dubai-lite")
    assert build_command(Manifest.load(file), file.parent, Path("out")) == "engines build dubai-lite --out out"


def test_without_a_package_for_cuda_nothing_is_built(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT comes with JetPack, PyCUDA does not: the engine would be built for minutes before it is missed."""
    monkeypatch.setattr(engine_store, "runtime", lambda: RUNTIME)
    monkeypatch.setattr(engine_store, "this_device", lambda: HERE)
    monkeypatch.setattr(engine_store, "build_engine", lambda *_, **__: pytest.fail("it was built"))
    monkeypatch.setattr(driver, "find_spec", lambda _name: None)
    assert TENSORRT.state().version is None
    with pytest.raises(BackendUnavailable, match=r"neither pycuda nor cuda-python .* pip install pycuda"):
        TENSORRT.open(Manifest.load(model), model, EngineOptions(built=tmp_path, build=True))
    monkeypatch.setattr(driver, "find_spec", lambda name: ModuleSpec(name, None))
    assert TENSORRT.state().version == "1.2.3 (tensorrt_rtx) on NVIDIA A10"
