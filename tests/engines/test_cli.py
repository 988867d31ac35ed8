from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import bench
from engines.cli import main
from engines.errors import SettingRefused
from engines.manifest import Evaluation, Manifest
from engines.testing import ConstantEngine

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
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in report["timings"]] == [1, 12]
    for row in report["timings"]:
        assert row["calls"] >= 3
        assert 0 < row["latency_min_ms"] <= row["latency_p50_ms"] <= row["latency_p95_ms"]
    assert main([*command[:-1], "--no-spinning"]) == 0
    assert "p95 ms" in capsys.readouterr().out


def test_bench_counts_tiles_not_calls() -> None:
    with ConstantEngine(tile_size=8, delay_s=0.01) as engine:
        one, four = bench.time_batches(engine, (1, 4), seconds=0.01)
    assert one.latency_min_ms >= 10
    assert four.latency_min_ms >= 40
    assert 1e3 / four.latency_min_ms < four.tiles_per_s <= 100  # counting calls, it could not be above


@pytest.mark.parametrize(("batches", "seconds"), [((9,), 1.0), ((0,), 1.0), ((1,), 0.0)])
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
