"""Building with TensorRT-RTX, which parses and builds without a GPU; what runs it needs one."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from engines.cli import main
from engines.engine import EngineOptions
from engines.errors import (
    BackendUnavailable,
    BuildFailed,
    EngineDamaged,
    EngineElsewhere,
    EngineNotWritten,
    SettingRefused,
)
from engines.manifest import Manifest
from engines.open import manifest_path
from engines.tensorrt.build import _Build, build_engine
from engines.tensorrt.engine_file import Batches, BuiltEngine, engine_name
from engines.tensorrt.engine_store import engine_for
from engines.tensorrt.graph_io import uint8_at_the_edges
from engines.tensorrt.runtime import Device, Runtime, l4t_version, runtime, this_device
from engines.verify import read_golden
from tests.tiny_convolutional import write_convolutional
from tests.tiny_model import write_model

AMPERE = Device("any", "8.6")
SHIPPED = manifest_path("dubai-lite")


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return Manifest.load(SHIPPED)


@pytest.fixture(scope="module")
def rtx() -> Runtime:
    try:
        return runtime(("tensorrt_rtx",))
    except BackendUnavailable:
        pytest.skip("tensorrt_rtx is not installed here: pip install tensorrt-rtx-cu13")


@pytest.fixture(scope="module")
def built(rtx: Runtime, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(manifest, SHIPPED.parent, tmp_path_factory.mktemp("built"), rtx, AMPERE)


def outputs(model: bytes, tile: NDArray[np.uint8]) -> list[NDArray[Any]]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    found: list[NDArray[Any]] = onnxruntime.InferenceSession(model, settings).run(None, {"tiles": tile})
    return found


def test_uint8_at_the_edges_changes_no_pixel(manifest: Manifest) -> None:
    content = manifest.model.read_verified(SHIPPED.parent)
    moved = uint8_at_the_edges(content)
    graph = onnx.load_from_string(moved).graph
    names = {output.name for output in graph.output}
    inner = [n for n in graph.node if n.op_type == "Cast" and n.attribute[0].i == 2 and n.output[0] not in names]
    assert inner == []
    onnx.checker.check_model(onnx.load_from_string(moved))
    tile, _ = read_golden(manifest, SHIPPED.parent)
    for one, other in zip(outputs(content, tile), outputs(moved, tile), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert [one.dtype for one in outputs(moved, tile)] == [np.uint8, np.uint8, np.float32]
    assert uint8_at_the_edges(moved) == moved


def test_the_shipped_model_is_parsed_and_built(built: Path, manifest: Manifest, rtx: Runtime) -> None:
    facts = BuiltEngine.load(built)
    assert facts.model_sha256 == manifest.model.sha256
    assert facts.batches == (1, 1, 8)
    assert facts.bytes == built.stat().st_size > 1_000_000
    layers = json.loads(built.with_suffix(".layers.json").read_text())
    assert len(layers) == facts.layers > 400
    assert {layer["kind"] for layer in layers} >= {"CONVOLUTION", "MATRIX_MULTIPLY"}
    assert built.with_suffix(".log").read_text()
    for part in (manifest.model.sha256[:12], "fp32", "sm86", rtx.version, "b1.1.8"):
        assert part in built.name
    assert list(built.parent.glob("*.new")) == []


def test_what_is_there_already_is_not_built_again(built: Path, manifest: Manifest, rtx: Runtime) -> None:
    before = built.stat().st_mtime_ns
    assert build_engine(manifest, SHIPPED.parent, built.parent, rtx, AMPERE) == built
    assert built.stat().st_mtime_ns == before


def test_an_engine_that_is_not_whole_is_built_anew(rtx: Runtime, tiny_model: Path, tmp_path: Path) -> None:
    tiny = Manifest.load(tiny_model)
    path = build_engine(tiny, tiny_model, tmp_path, rtx, AMPERE)
    options = EngineOptions(built=tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EngineDamaged, match="makes it anew"):
        engine_for(tiny, tiny_model, options, rtx, AMPERE)
    assert engine_for(tiny, tiny_model, replace(options, build=True), rtx, AMPERE) == path
    assert engine_for(tiny, tiny_model, options, rtx, AMPERE) == path
    path.with_suffix(".json").unlink()
    assert build_engine(tiny, tiny_model, tmp_path, rtx, AMPERE) == path
    assert BuiltEngine.load(path).bytes == path.stat().st_size


def test_more_scratch_memory_is_another_build(rtx: Runtime, tiny_model: Path, tmp_path: Path) -> None:
    tiny = Manifest.load(tiny_model)
    for size in (64 << 20, 128 << 20):
        path = build_engine(tiny, tiny_model, tmp_path, rtx, AMPERE, workspace_bytes=size)
        assert BuiltEngine.load(path).workspace_bytes == size


def test_of_several_profiles_the_one_built_last_is_taken(rtx: Runtime, tiny_model: Path, tmp_path: Path) -> None:
    tiny, options = Manifest.load(tiny_model), EngineOptions(built=tmp_path)
    for most in (4, 2):
        path = build_engine(tiny, tiny_model, tmp_path, rtx, AMPERE, batches=Batches(1, 1, most))
        assert engine_for(tiny, tiny_model, options, rtx, AMPERE) == path


@pytest.mark.parametrize("wide", [False, True])
def test_half_precision_is_parsed_and_built(wide: bool, manifest: Manifest, rtx: Runtime, tmp_path: Path) -> None:
    half = pytest.importorskip("trainer.export.half")
    ranges = half.Ranges(squares=60_000.0 if wide else 1000.0, score=10.0, activation=100.0)
    model = half.half_from_onnx(onnx.load(SHIPPED.parent / "model.onnx"), ranges)
    entry = _written(tmp_path, model.SerializeToString(), manifest)
    path = build_engine(entry, tmp_path, tmp_path / "out", rtx, AMPERE)
    kinds = {
        output["dtype"]
        for layer in json.loads(path.with_suffix(".layers.json").read_text())
        for output in layer["outputs"]
        if layer["kind"] == "MATRIX_MULTIPLY" and "/familiarity/" not in layer["name"]  # distances stay in FP32
    }
    assert kinds == {"HALF"}
    assert BuiltEngine.load(path).precision == "fp16"


@pytest.mark.parametrize("name", ["dubai-lite-fp16", "dubai-lite-int8-fp16", "landcover-fp16"])
def test_the_models_that_fly_are_parsed_and_built(name: str, rtx: Runtime, tmp_path: Path) -> None:
    file = manifest_path(name)
    path = build_engine(Manifest.load(file), file.parent, tmp_path, rtx, AMPERE)
    layers = json.loads(path.with_suffix(".layers.json").read_text())
    network = [layer for layer in layers if layer["kind"] == "CONVOLUTION" and "/segmenter/" in layer["name"]]
    assert len(network) > 30
    # Behind the network, the step from logits to classes stays in FP32.
    assert {output["dtype"] for layer in network for output in layer["outputs"]} == {"HALF"}
    pairs = [layer for layer in layers if layer["kind"] in ("QUANTIZE", "DEQUANTIZE")]
    assert (len(pairs) > 200) == ("int8" in name)
    assert {o["dtype"] for layer in pairs if layer["kind"] == "QUANTIZE" for o in layer["outputs"]} <= {"INT8"}
    assert path.stat().st_size < 40_000_000


def _written(folder: Path, content: bytes, manifest: Manifest) -> Manifest:
    import hashlib

    (folder / "model.onnx").write_bytes(content)
    file = manifest.model.model_copy(update={"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
    return manifest.model_copy(update={"model": file, "precision": "fp16"})


def test_an_engine_from_elsewhere_is_refused_with_the_command(built: Path, manifest: Manifest, rtx: Runtime) -> None:
    facts = BuiltEngine.load(built)
    facts.check(built, manifest, SHIPPED.parent, rtx, Device("NVIDIA GeForce RTX 3090", "8.6"))
    with pytest.raises(EngineElsewhere, match=r"compute capability is 8.6, here it is 8.7.*engines build dubai-lite"):
        facts.check(built, manifest, SHIPPED.parent, rtx, Device("Orin", "8.7"))
    newer = Runtime(rtx.name, "99.0", rtx.module)
    with pytest.raises(EngineElsewhere, match=r"here it is tensorrt_rtx 99.0"):
        facts.check(built, manifest, SHIPPED.parent, newer, AMPERE)
    with pytest.raises(EngineElsewhere, match=r"Jetson Linux is none, here it is 36.4.0"):
        facts.check(built, manifest, SHIPPED.parent, rtx, Device("Orin", "8.6", "36.4.0"))
    built_here = built.read_bytes()
    try:
        built.write_bytes(built_here[:-1] + b"x")
        with pytest.raises(EngineDamaged, match=r"SHA-256.*`engines build` makes it anew"):
            facts.check(built, manifest, SHIPPED.parent, rtx, AMPERE)
    finally:
        built.write_bytes(built_here)


def test_what_cannot_be_parsed_says_where_the_log_is(manifest: Manifest, rtx: Runtime, tmp_path: Path) -> None:
    kind = onnx.TensorProto.UINT8
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("NoSuchOperator", ["tiles"], ["classes"], domain="elsewhere")], "odd",
        [onnx.helper.make_tensor_value_info("tiles", kind, ["N", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("classes", kind, ["N", 8, 8])],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("elsewhere", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    entry = _written(tmp_path, model.SerializeToString(), manifest)
    with pytest.raises(BuildFailed, match=r"cannot parse it: .*NoSuchOperator.*the build's log is") as failure:
        build_engine(entry, tmp_path, tmp_path / "out", rtx, AMPERE)
    assert "NoSuchOperator" in failure.value.log.read_text()
    assert list((tmp_path / "out").glob("*.engine")) == []


def test_batches_that_the_graph_does_not_take_are_refused(rtx: Runtime, tmp_path: Path) -> None:
    """A graph whose number of tiles is fixed builds for any batches, and its engine fails at the first call."""
    folder = write_model(tmp_path / "model", batch=1)
    one = Manifest.load(folder)
    with pytest.raises(SettingRefused, match="1 as the usual number"):
        build_engine(one, folder, tmp_path / "built", rtx, AMPERE, batches=Batches(1, 4, 8))
    assert build_engine(one, folder, tmp_path / "built", rtx, AMPERE).is_file()


def test_a_folder_that_takes_no_engine_is_an_error_of_its_own(
    rtx: Runtime, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service waits and tries again for an error of the engines; any other exception ends its worker."""
    tiny = Manifest.load(tiny_model)
    (tmp_path / "file").write_text("no folder")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EngineNotWritten, match=r"cannot be written there .*; free space, or name a folder"):
            build_engine(tiny, tiny_model, out, rtx, AMPERE)

    def full(path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("engines.tensorrt.build.replace_file", full)
    with pytest.raises(EngineNotWritten, match="No space left on device"):
        build_engine(tiny, tiny_model, tmp_path / "full", rtx, AMPERE)


def test_an_engine_that_cannot_be_read_is_built_anew(rtx: Runtime, tiny_model: Path, tmp_path: Path) -> None:
    tiny = Manifest.load(tiny_model)
    path = build_engine(tiny, tiny_model, tmp_path, rtx, AMPERE)
    path.unlink()
    path.mkdir()  # reading it fails, for root too
    with pytest.raises(EngineDamaged, match="not readable"):
        engine_for(tiny, tiny_model, EngineOptions(built=tmp_path), rtx, AMPERE)


def test_timings_that_tensorrt_refuses_are_replaced(tmp_path: Path) -> None:
    """Of another driver, or damaged: the name fits all the same, and they would be tried at each build for ever."""

    class Config:
        kept: bytes | None = None

        def create_timing_cache(self, content: bytes) -> bytes | None:
            return None if content == b"damaged" else content

        def set_timing_cache(self, cache: bytes, *, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            if cache == b"another driver's":
                return False
            self.kept = cache
            return True

    for content, kept in ((b"damaged", b""), (b"another driver's", b""), (b"fits", b"fits")):
        (tmp_path / "timing.cache").write_bytes(content)
        config, build = Config(), object.__new__(_Build)
        build.trt = ModuleType("tensorrt")
        build.use_cache(config, tmp_path / "timing.cache")
        assert config.kept == kept


def test_an_architecture_that_cannot_be_built_for_is_refused(manifest: Manifest, rtx: Runtime, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"cannot build for 8\.7 without that device"):
        build_engine(manifest, SHIPPED.parent, tmp_path, rtx, Device("any", "8.7"))


def test_the_name_tells_every_thing_apart(manifest: Manifest) -> None:
    module = ModuleType("trt")
    names = {
        engine_name(manifest, Runtime(name, version, module), device, batches)
        for name, version in (("tensorrt", "10.3.0"), ("tensorrt", "10.16.0"), ("tensorrt_rtx", "1.7"))
        for device in (AMPERE, Device("Orin", "8.7", "36.4.0"), Device("Orin", "8.7", "36.5.0"))
        for batches in (Batches(), Batches(1, 4, 4))
    }
    assert len(names) == 18
    assert all("/" not in name and " " not in name for name in names)


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 9, 8), (2, 4, 4)])
def test_batches_are_in_order(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(SettingRefused):
        Batches(*numbers)


def test_the_device_and_its_jetson_linux_are_named(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic\n")
    device = this_device(lambda: ("Orin (nvgpu)", (8, 7)), tmp_path)
    assert device == Device("Orin (nvgpu)", "8.7", "36.4.0")
    assert device.slug == "orin-nvgpu-sm87-l4t36.4.0"
    assert l4t_version(tmp_path / "nothing") == ""


def test_without_a_runtime_or_a_gpu_it_says_what_to_do() -> None:
    with pytest.raises(BackendUnavailable, match="comes with JetPack"):
        runtime(("no_such_tensorrt",))
    try:
        device = this_device()
    except BackendUnavailable as error:
        assert "build on the board that flies" in str(error)
    else:
        assert device.capability


def test_the_command_builds_and_prints_facts(rtx: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rtx.name == "tensorrt_rtx"
    arguments = ["build", "dubai-lite", "--out", str(tmp_path), "--target", "8.9", "--batches", "1,2,2", "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["path"]).stat().st_size == told["bytes"]
    assert told["batches"] == [1, 2, 2]
    assert main(["build", "dubai-lite", "--out", str(tmp_path), "--target", "8.9", "--batches", "1,2"]) == 2
    capsys.readouterr()
    assert main(["build", "dubai-lite", "--out", told["path"], "--target", "8.9"]) == 2
    assert "File exists" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["build", "dubai-lite", "--workspace", "-1"])


def test_an_engine_has_the_usual_size_where_the_graph_leaves_it_open(rtx: Runtime, tmp_path: Path) -> None:
    manifest = write_convolutional(tmp_path / "model")
    path = build_engine(manifest, tmp_path / "model", tmp_path / "built", rtx, AMPERE)
    layers = json.loads(path.with_suffix(".layers.json").read_text())
    shapes = [tensor["shape"] for layer in layers for tensor in layer["outputs"] if tensor["shape"]]
    # Only the number of tiles is open: -1.
    assert all(-1 not in shape[1:] for shape in shapes if len(shape) == 4)
    assert [-1, 3, 1024, 1024] in shapes
