"""What the familiarity costs: whole calls with and without it, and its layers in the profiles of the runtimes."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from engines.engine import Prediction, Tiles
from engines.errors import EngineError
from engines.heads_graph import graph_of
from engines.manifest import Manifest, ModelFile
from engines.open import SHIPPED, manifest_path, open_engine
from engines.verify import golden_tiles
from trainer.familiarity.graph import SCOPE, without_familiarity

Times = Mapping[str, float]
"""Seconds of each layer of a graph, by its name in the runtime's profile."""


def cost_per_tile(folder: Path, *, quick: bool) -> None:
    """Of one tile on one thread: CPU time with and without, taken in turn, and what the runtimes say of the layers.

    Whole calls differ by about what a machine repeats itself; layers are timed by the same clock in the same call. The
    least of the calls: what other processes do to caches and clocks only ever adds.
    """
    source = SHIPPED / manifest_path().parent.name
    manifest = Manifest.load(source)
    if manifest.familiarity is None:
        print(f"{manifest.name} gives no familiarity: nothing to measure")
        return
    bare = _without(source, folder / "without-familiarity")
    calls = 5 if quick else 15
    print("| backend | without, s of CPU, least | with, least | more | median of pairs | its layers |")
    print("|---|---|---|---|---|---|")
    for backend in ("onnxruntime", "openvino", "openvino-bf16"):
        try:
            with (
                # Without its output the model has no golden answer to be checked by.
                open_engine(bare, backend=backend, threads=1, check_golden=False) as bare_engine,
                open_engine(source, backend=backend, threads=1) as with_output,
            ):
                tiles = golden_tiles(with_output, 1)
                # In turns, so that a machine that slows down slows both.
                pairs = [[_seconds(engine.infer, tiles) for engine in (bare_engine, with_output)] for _ in range(calls)]
        except EngineError as error:
            print(f"| {backend} | {error} | | | | |")
            continue
        without, given = (min(column) for column in zip(*pairs, strict=True))
        paired = statistics.median(pair[1] / pair[0] - 1 for pair in pairs)
        # By the scope in their names: the layers that the familiarity added, whatever the runtime made of them.
        layers = _PROFILES[backend](graph_of(manifest, source), tiles, calls)
        share = sum(seconds for name, seconds in layers.items() if SCOPE in name) / sum(layers.values())
        figures = f"{without:.4f} | {given:.4f} | {given / without - 1:+.2%} | {paired:+.2%} | {share:.2%}"
        print(f"| {backend} | {figures} |", flush=True)


def onnxruntime_layers(graph: bytes, tile: Tiles, calls: int) -> Times:
    """By ONNX Runtime's profiler, the least of the calls after the first."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        # The first call allocates memory and is not counted.
        for _ in range(1 + calls):
            session.run(None, {session.get_inputs()[0].name: tile})
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault(event["name"], []).append(1e-6 * event["dur"])
    return {name: min(seconds[1:]) for name, seconds in found.items()}


def openvino_layers(graph: bytes, tile: Tiles, calls: int, hint: str = "f32") -> Times:
    """By OpenVINO's performance counters, the least of the calls after the first; copies to other layouts count."""
    import openvino  # type: ignore[import-untyped, import-not-found, unused-ignore]

    core = openvino.Core()
    # One thread and one stream: times of layers then add up to the call's.
    settings = {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
    least: dict[str, float] = {}
    for number in range(1 + calls):
        request.infer({0: np.ascontiguousarray(tile)})
        for layer in request.get_profiling_info() if number else ():
            name, seconds = f"{layer.node_name} {layer.exec_type}", layer.real_time.total_seconds()
            least[name] = min(least.get(name, seconds), seconds)
    return least


_PROFILES: Mapping[str, Callable[[bytes, Tiles, int], Times]] = {
    "onnxruntime": onnxruntime_layers,
    "openvino": openvino_layers,
    "openvino-bf16": lambda graph, tile, calls: openvino_layers(graph, tile, calls, "bf16"),
}


def _without(source: Path, target: Path) -> Path:
    """The same model, of its first head, as one graph without the output."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    manifest, path = Manifest.load(source), target / "model.onnx"
    onnx.save(without_familiarity(onnx.load_from_string(graph_of(manifest, source))), path)
    fields = {name: getattr(manifest, name) for name in Manifest.model_fields}
    # One graph, as schema version 1 describes it.
    changes = {"schema_version": 1, "model": ModelFile.of(path), "familiarity": None, "golden": None}
    Manifest(**(fields | changes)).save(target)
    return target


def _seconds(infer: Callable[[Tiles], Prediction], tiles: Tiles) -> float:
    """Of CPU, all threads of this process together."""
    begin = time.process_time()
    infer(tiles)
    return time.process_time() - begin
