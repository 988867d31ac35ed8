"""Time of a second head, and of one graph beside graphs that are run one after the other; same run, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from engines.engine import Tiles
from engines.heads_graph import graph_of
from engines.manifest import Manifest, ManifestWithHeads
from engines.open import manifest_path
from engines.verify import read_golden_tile

Run = Callable[[], object]


def second_head(_: Path, *, quick: bool) -> None:
    """Prints the processor time of a tile of the default model: one head, all heads, and graphs one after the other."""
    file = manifest_path()
    manifest = Manifest.load(file)
    if not isinstance(manifest, ManifestWithHeads) or len(manifest.head_names) < 2:
        print(f"{manifest.name} {manifest.version} has no second head: nothing is measured")
        return
    tile = read_golden_tile(manifest, file.parent)
    for name, prepare in _runtimes():
        one, every = manifest.with_heads(manifest.head_names[:1]), manifest.with_heads(manifest.head_names)
        # Every way with the runtime's same settings: what differs is the graph.
        runs = {
            "one head": prepare([graph_of(one, file.parent)], tile),
            "all heads": prepare([graph_of(every, file.parent)], tile),
            "all heads, graphs apart": prepare(_parts(manifest, file.parent), tile),
        }
        times = _in_turns(runs, 5 if quick else 25)
        base = times["one head"]
        for label, seconds in times.items():
            ratios = [after / before for after, before in zip(seconds, base, strict=True)]
            print(
                f"{name:<15} {label:<24} {1e3 * min(seconds):6.0f} ms of one core, "
                f"{100 * (statistics.median(ratios) - 1):+5.1f} % (median of pairs), "
                f"{100 * (min(seconds) / min(base) - 1):+5.1f} % (least of each)"
            )


def _parts(manifest: ManifestWithHeads, folder: Path) -> list[bytes]:
    entries = (manifest.source.encoder, *(head.model for head in manifest.source.heads))
    return [entry.read_verified(folder) for entry in entries]


def _in_turns(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            # Processor time: other processes on the machine lengthen the clock's.
            begin = time.process_time()
            run()
            if number:  # the first warms up
                times[name].append(time.process_time() - begin)
    return times


def _runtimes() -> Iterator[tuple[str, Callable[[list[bytes], Tiles], Run]]]:
    yield "onnxruntime", _by_onnxruntime
    try:
        import openvino  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        return
    core = openvino.Core()
    for hint in ("f32", "bf16"):
        # Without it the hint is ignored, and the row would be FP32 again.
        if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            continue
        yield f"openvino {hint}", partial(_by_openvino, core, hint)


def _by_onnxruntime(graphs: list[bytes], tile: Tiles) -> Run:
    settings = onnxruntime.SessionOptions()
    # One core each: with more, times depend on how busy the others are.
    settings.intra_op_num_threads = 1
    first, *others = (onnxruntime.InferenceSession(graph, settings) for graph in graphs)
    names = [port.name for port in first.get_outputs()]
    value = onnxruntime.OrtValue.ortvalue_from_numpy(tile)

    def run() -> None:
        made = dict(zip(names, first.run_with_ort_values(None, {"tiles": value}), strict=True))
        for session in others:  # values stay where they are: nothing is copied between the graphs
            session.run_with_ort_values(None, {port.name: made[port.name] for port in session.get_inputs()})

    return run


def _by_openvino(core: Any, hint: str, graphs: list[bytes], tile: Tiles) -> Run:
    settings = {
        "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1,
    }  # fmt: skip
    first, *others = (
        core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request() for graph in graphs
    )
    tile = np.ascontiguousarray(tile)

    def run() -> None:
        # Shared, as a copy of the features would count against graphs apart.
        first.infer({"tiles": tile}, share_inputs=True, share_outputs=True)
        for request in others:
            ports = [port.any_name for port in request.get_compiled_model().inputs]
            request.infer({name: first.get_tensor(name) for name in ports}, share_inputs=True, share_outputs=True)

    return run
