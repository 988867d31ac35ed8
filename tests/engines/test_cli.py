from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from engines.backend import BackendState
from engines.cli import main, render
from engines.command_line import counted
from engines.errors import EngineElsewhere, InferenceFailed, SettingRefused
from engines.manifest import Cost, DataSet, Evaluation, Manifest, Training
from engines.open import backend_states, open_engine
from engines.profiling import bench
from engines.testing import ConstantEngine, manifest_for_testing
from telemetry.energy import Energy
from tests.tiny_heads import write_heads_model

MakeModel = Callable[..., Path]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom engines import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'onnxruntime', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_inspect_shows_what_a_model_is(make_model: MakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    row = Evaluation(
        data_set="dubai", split="scene 1", per_class_iou={"c1": 0.25, "c2": None}, miou=0.5, oa=0.75, mf1=0.625
    )
    folder = make_model(manifest={"evaluation": (row,)})
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    for fact in ("tiny 1.0", "(N, 3, 32, 32)", "red, green, blue", "#3b82c4", "mIoU 0.500", "0.250", "not there"):
        assert fact in shown


def test_inspect_tells_the_cost_of_the_first_head_from_that_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes are counted at two a number whatever the graph's precision is."""
    folder = write_heads_model(tmp_path / "model")
    file = folder / "manifest.json"
    told = json.loads(file.read_text())
    told["encoder"]["cost"] = {"flops": 18 * 10**9, "bytes_moved": 435 * 10**6}
    for head, flops in zip(told["heads"], (4, 2), strict=True):
        head["cost"] = {"flops": flops * 10**9, "bytes_moved": 10**7}
    told["heads"][1]["classes"][0]["title"] = "A title that is long"
    file.write_text(json.dumps(told))
    assert main(["inspect", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = told["heads"][0]["name"]
    assert [line for line in lines if line.startswith("cost")] == [
        f"cost      22 GFLOP a tile, 0.45 GB moved at two bytes a number (head {first} alone)",
        "cost      24 GFLOP a tile, 0.46 GB moved at two bytes a number (all heads)",
    ]
    assert len({line.index("#") for line in lines if re.search(r"#[0-9A-Fa-f]{6}$", line)}) == 1


def test_inspect_names_a_data_set_of_two_splits_once(make_model: MakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    sets = tuple(DataSet(name="Kampala", license="CC0", use=use) for use in ("train", "train_coarse"))
    training = Training(data_sets=sets, license="CC0", commit="0" * 40, seed=1, epochs=1)
    assert main(["inspect", str(make_model(manifest={"training": training}))]) == 0
    assert capsys.readouterr().out.count("Kampala") == 1


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tiles"), (1, "1 tile"), (2, "2 tiles"), (1500, "1,500 tiles")]
)  # fmt: skip
def test_one_thing_is_no_plural(number: int, text: str) -> None:
    assert counted(number, "tile") == text


def test_inspect_gives_the_manifest_as_json(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--json", str(tiny_model)]) == 0
    assert Manifest.model_validate_json(capsys.readouterr().out) == Manifest.load(tiny_model)


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz"])
def test_inspect_refuses_a_changed_file_in_one_line(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    (tiny_model / file).write_bytes(b"x")
    assert main(["inspect", str(tiny_model)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"engines: {tiny_model / file}: sha256 is ")


def test_bench_times_each_batch(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", str(tiny_model), "--threads", "1", "--batch", "1,12", "--seconds", "0.01", "--json"]
    assert main([*command, "--backend", "onnxruntime"]) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["rows"]
    assert (row["model"], row["engine"], row["pixels"]) == ("tiny 1.0", "onnxruntime fp32", 24**2)
    assert [timing["batch"] for timing in row["timings"]] == [1, 12]
    for timing in row["timings"]:
        assert timing["calls"] >= 3
        assert 0 < timing["latency_min_ms"] <= timing["latency_p50_ms"] <= timing["latency_p95_ms"]
    assert report["peak"]["flops_per_s"] > 1e8
    assert main([*command[:-1], "--no-spinning"]) == 0
    table = capsys.readouterr().out
    usable = [state.name for state in backend_states() if state.version]
    assert [name for name in usable if f"tiny 1.0, {name}" not in table] == []


def test_bench_says_what_bounds_a_model(make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_model("counted", manifest={"cost": Cost(flops=137 * 10**9, bytes_moved=10**9)})
    command = ["bench", str(folder), "--backend", "onnxruntime", "--seconds", "0.01", "--roofline"]
    assert main([*command, "--json"]) == 0
    roofs = {roof["device"]: roof for roof in json.loads(capsys.readouterr().out)["roofs"]}
    slow, fast = roofs["Orin NX 16 GB, 25W, GPU 408 MHz"], roofs["Orin NX 16 GB, 40W, GPU 1173 MHz"]
    assert slow["bound_tiles_per_s"] == pytest.approx(6.67e12 / 137e9, rel=0.01)  # arithmetic: 6.7 TFLOP/s
    assert slow["limit"] == "arithmetic"
    assert fast["bound_tiles_per_s"] == pytest.approx(102.0)  # memory: 102 GB/s
    assert fast["limit"] == "memory"
    assert 0 < slow["cautious_tiles_per_s"] <= slow["expected_tiles_per_s"] < fast["expected_tiles_per_s"]
    assert roofs["H200"]["expected_tiles_per_s"] is None
    assert main(command) == 0
    table = capsys.readouterr().out
    assert f"expected {slow['expected_tiles_per_s']:.1f} tiles/s" in table
    assert "slowest layers, expected, not measured" in table


def test_bench_counts_layers_of_a_model_and_of_a_bare_onnx_file(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model("counted")
    command = ["bench", str(folder), str(folder / "model.onnx"), "--roofline", "--layers"]
    assert main([*command, "--json"]) == 0
    of_model, of_file = json.loads(capsys.readouterr().out)
    assert of_model["layers"] == of_file["layers"]
    assert of_model["flops"] == sum(layer["flops"] for layer in of_model["layers"]) == 2 * 4 * 3 * 32 * 32
    assert main([*command, "1"]) == 0
    table = capsys.readouterr().out
    assert table.count("expected, not measured") == 2
    assert "pointwise" in table


def test_bench_without_onnx_still_says_the_bound(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    folder = make_model("counted", manifest={"cost": Cost(flops=137 * 10**9, bytes_moved=10**9)})
    assert main(["bench", str(folder), "--backend", "onnxruntime", "--seconds", "0.01", "--roofline"]) == 0
    table = capsys.readouterr().out
    assert "bound 48.7 tiles/s (arithmetic); nothing to expect by" in table
    assert "layers are not counted: roofline: the onnx package is not installed; " in table


def test_bench_counts_layers_only_where_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph at all")
    (tmp_path / "empty.onnx").write_bytes(b"")  # a copy that was cut off at once
    same = onnx.helper.make_node("Identity", ["x"], ["y"])
    port = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    constant = onnx.helper.make_node("Constant", [], ["y"], value_float=1.0)
    for name, node, inputs in (("view", same, [port]), ("constant", constant, [])):
        graph = onnx.helper.make_graph([node], name, inputs, [other])
        onnx.save(onnx.helper.make_model(graph), tmp_path / f"{name}.onnx")
    for arguments, line in (
        ([str(tmp_path / "broken.onnx"), "--roofline", "--layers"], "is no ONNX file; name an .onnx file"),
        ([str(tmp_path / "empty.onnx"), "--roofline", "--layers"], "an ONNX file without a graph; copy it again"),
        ([str(tmp_path / "view.onnx"), "--roofline", "--layers"], "costs anything; name a file with a network in it"),
        ([str(tmp_path / "constant.onnx"), "--roofline", "--layers"], "name"),
        ([str(tmp_path / "none.onnx"), "--roofline", "--layers"], "no such file or directory; name an .onnx file"),
        (["--layers"], "give --roofline with it"),
    ):
        assert main(["bench", *arguments]) == 2
        assert line in capsys.readouterr().err


def test_bench_tells_joules_where_power_is_measured() -> None:
    class Meter:
        """Measures 30 W, from the second reading on too."""

        def __init__(self, *, vanishes: bool) -> None:
            self.vanishes, self.began = vanishes, time.perf_counter()

        def energy(self) -> Energy:
            seconds = 0.0 if self.vanishes else time.perf_counter() - self.began
            return Energy(30.0 * seconds, seconds, 0.0, 30.0)

    with ConstantEngine(tile_size=8, delay_s=0.01) as engine:
        (timing,) = bench.time_batches(engine, (2,), seconds=0.1, meter=Meter(vanishes=False))
        (blind,) = bench.time_batches(engine, (2,), seconds=0.1, meter=Meter(vanishes=True))
    assert timing.joules_per_tile == pytest.approx(30.0 / timing.tiles_per_s, rel=0.2)
    assert blind.joules_per_tile is None  # and not 0


def test_a_backend_that_fails_is_a_row_among_the_others(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that an older TensorRT built, or memory that does not suffice, spoils no other figure."""
    failures = {
        "old": EngineElsewhere(Path("a.engine"), ["its TensorRT is 10.3.0, here it is 10.7.0"], "engines build tiny"),
        "small": InferenceFailed("small", "no memory", retryable=True),
    }

    def opened(model: str, **options: Any) -> Any:
        if error := failures.get(options["backend"]):
            raise error
        return open_engine(model, **options)

    states = [BackendState(name, "1.0", None) for name in ("old", "onnxruntime", "small")]
    monkeypatch.setattr(bench, "open_engine", opened)
    monkeypatch.setattr(bench, "backend_states", lambda: states)
    assert main(["bench", str(tiny_model), "--threads", "1", "--seconds", "0.01", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [bool(row["timings"]) for row in rows] == [False, True, False]
    assert "engines build tiny" in rows[0]["problem"]
    assert rows[2]["problem"] == "no memory"
    assert main(["bench", str(tiny_model), "--threads", "1", "--seconds", "0.01", "--backend", "old"]) == 2


def test_an_interrupted_bench_shows_what_it_measured(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(model: str, **options: Any) -> Any:
        if options["backend"] == "slow":
            raise KeyboardInterrupt
        return open_engine(model, **options)

    monkeypatch.setattr(bench, "open_engine", opened)
    command = ["bench", str(tiny_model), "--threads", "1", "--seconds", "0.01"]
    assert main([*command, "--backend", "onnxruntime", "slow"]) == 130
    shown = capsys.readouterr().out
    assert "tiny 1.0, onnxruntime fp32" in shown
    assert "interrupted: what comes after these rows was not measured" in shown
    assert main([*command, "--backend", "onnxruntime", "slow", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["interrupted"]
    assert main([*command, "--backend", "slow"]) == 130
    assert capsys.readouterr() == ("", "engines: interrupted\n")


def test_a_bench_without_any_backend_says_so(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "backend_states", lambda: [BackendState("onnxruntime", None, "gone; install it")])
    assert main(["bench", str(tiny_model)]) == 2
    assert "no backend is usable here" in capsys.readouterr().err


def test_bench_counts_tiles_not_calls() -> None:
    with ConstantEngine(tile_size=8, delay_s=0.01) as engine:
        one, four = bench.time_batches(engine, (1, 4), seconds=0.01)
    assert one.latency_min_ms >= 10
    assert four.latency_min_ms >= 40
    assert 1e3 / four.latency_min_ms < four.tiles_per_s <= 100  # counting calls, it could not be above


@pytest.mark.parametrize(
    ("batches", "seconds"),
    [((9,), 1.0), ((0,), 1.0), ((1,), 0.0), ((1,), math.inf), ((1,), math.nan)],
)
def test_bench_refuses_what_it_cannot_time(batches: tuple[int, ...], seconds: float) -> None:
    with ConstantEngine(tile_size=8, max_batch=8) as engine, pytest.raises(SettingRefused):
        bench.time_batches(engine, batches, seconds=seconds)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench", "MODEL", "--batch", "one"], "no list of batch sizes"),
        (["bench", "MODEL", "--threads", "0"], "threads is 0"),
        (["bench", "MODEL", "--batch", "0"], "batch is 0"),
        (["bench", "MODEL", "--backend", "caffe"], "backend is caffe"),
        (["inspect", "nowhere"], "nowhere: no such model"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    try:
        code = main([str(tiny_model) if part == "MODEL" else part for part in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert says in error
    assert error.count("\n") == 1


def test_list_shows_backends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "backend  onnxruntime: " in capsys.readouterr().out


def test_sides_are_told_where_a_model_has_several() -> None:
    line = "sides     of a tile 512, 768, 1024 pixels, height and width each"
    assert line in render(manifest_for_testing(tile_size=1024, tile_sides=(512, 768, 1024)))
    assert "sides" not in render(manifest_for_testing(tile_size=1024))
