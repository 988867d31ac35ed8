"""Maps each scene with each tool, evaluates the maps, writes docs/benchmarks: `make bench-peers`.

Every run is a process of its own, one at a time. Rounds go over all tools before any is run again, so that a machine
that slows down slows all. Results are kept run by run; a run that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import rasterio

from benchmarks.peers.checklist import QUESTIONS, answers, write_question_scenes
from benchmarks.peers.judge import OVERLAP, Judge
from benchmarks.peers.report import write_report
from benchmarks.peers.scenes import bench_scene
from benchmarks.peers.tools import TOOLS
from benchmarks.twin import Twin
from engines.cpu import processor
from engines.open import manifest_path

# Of nine to sixteen tiles; half a second each, where our own commits every two seconds.
KILLED_AFTER = 7
SCENES = ("dubai", "rpc16", "landscape")


@dataclass(frozen=True)
class Bench:
    """What holds for the whole comparison."""

    folder: Path
    model: Path
    threads: int
    halo: int
    deadline_s: float

    def run(
        self, name: str, scene: Path, *, stretch: Any = None, die_after: int | None = None, keep: bool = False
    ) -> dict[str, Any]:
        """One run of one tool in a process of its own; gives what it told, or {"failed": why}."""
        out = self.folder / "runs" / name
        if not keep:
            # What a tool left would let it resume, which is wanted in one question alone.
            shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        job = {
            "scene": str(scene.resolve()), "out": str(out.resolve()), "model": str(self.model.resolve()),
            "twins": str(self.folder.resolve()), "threads": self.threads, "batch": 1, "overlap": OVERLAP,
            "halo": self.halo, "stretch": stretch, "die_after": die_after,
        }  # fmt: skip
        task = out / "task.json"
        task.write_text(json.dumps(job), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.peers.single_run", name, task],
                capture_output=True, text=True, timeout=self.deadline_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {self.deadline_s:.0f} s"}
        if done.returncode:
            # The kernel's choice: single_run offers itself to it when memory ends.
            if done.returncode == -signal.SIGKILL and die_after is None:
                return {"failed": "killed: it took more memory than there is"}
            last = (done.stderr.strip().splitlines() or [""])[-1]
            return {"failed": last or f"exit code {done.returncode}", "exit_code": done.returncode}
        # The last line: tools print to standard output as they like.
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer

    def map_of(self, name: str) -> Path:
        """Where the tool's latest map lies."""
        return self.folder / "runs" / name / "map.tif"


def main() -> None:
    """Parses, measures what is asked for, writes the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--scenes", nargs="*", choices=SCENES, default=list(SCENES))
    parser.add_argument("--tools", nargs="*", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--runs", type=int, default=3, help="of each tool on each scene (default: 3)")
    parser.add_argument("--large-runs", type=int, default=1, help="on the landscape, minutes each (default: 1)")
    parser.add_argument(
        "--round", type=int,
        help="number of what is measured now: runs of one number are compared (default: how many the tool had before)",
    )  # fmt: skip
    parser.add_argument("--side", type=int, help="pixels a side of the made scenes, to see that it runs")
    parser.add_argument(
        "--model", default="dubai-lite",
        help="shipped name or folder of a model of one graph that ends in an ArgMax (default: dubai-lite)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--deadline", type=float, default=3600.0, help="seconds a run may take")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SHARED_DATA", "../shared/data")))
    parser.add_argument("--folder", type=Path, default=Path("out/peers"), help="for scenes, maps and references")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--no-checklist", action="store_true")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--report-only", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "peers.json"
    results: dict[str, Any] = {} if arguments.again or not path.exists() else json.loads(path.read_text("utf-8"))
    if not arguments.report_only:
        _measure(arguments, results, path)
    write_report(results, arguments.results)


def _measure(arguments: argparse.Namespace, results: dict[str, Any], path: Path) -> None:
    model = manifest_path(arguments.model).parent
    twin = Twin(arguments.folder, model, arguments.threads)
    bench = Bench(arguments.folder, model, arguments.threads, twin.halo, arguments.deadline)
    results["machine"] = {
        "processor": processor(), "threads": arguments.threads, "python": sys.version.split()[0],
        "date": datetime.now(timezone.utc).date().isoformat(),
        "model": f"{twin.manifest.name} {twin.manifest.version}", "tile": twin.size, "overlap": OVERLAP,
        "default_halo": twin.halo,
    }  # fmt: skip

    def save() -> None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        # After each run, in one step: they take minutes, and a cut must not cost those of hours before.
        part.replace(path)

    for name in arguments.scenes:
        scene = bench_scene(name, arguments.folder, arguments.data, side=arguments.side)
        entry = results.setdefault("scenes", {}).setdefault(name, {"title": scene.title, "tools": {}})
        stretch = scene.stretch()
        judge = Judge(scene, twin, arguments.folder)
        rounds = arguments.large_runs if name == "landscape" else arguments.runs
        # All tools once, then all again: a machine that slows down slows all.
        for turn in range(rounds):
            for tool in arguments.tools:
                row = entry["tools"].setdefault(tool, {"title": TOOLS[tool].title, "runs": []})
                # What failed once is not tried again: it may take an hour in each round.
                if len(row["runs"]) > turn or "failed" in row:
                    continue
                given = scene.plain_path() if TOOLS[tool].wants_plain else scene.path
                begin = time.monotonic()
                answer = bench.run(tool, given, stretch=stretch)
                print(f"{name:<10}{tool:<20}{time.monotonic() - begin:7.1f} s  {answer.get('failed', '')}", flush=True)
                if "failed" in answer:
                    row["failed"] = answer["failed"]
                else:
                    row["runs"].append({"round": turn if arguments.round is None else arguments.round, **answer})
                    if tool != "gdal":
                        row["quality"] = judge.quality(tool, bench.map_of(tool))
                save()
        entry["differences"] = entry.get("differences", {}) | judge.differences()
        save()
    if not arguments.no_checklist:
        _check(bench, arguments, results, save)
    save()


def _check(bench: Bench, arguments: argparse.Namespace, results: dict[str, Any], save: Any) -> None:
    scenes = write_question_scenes(arguments.folder / "questions", arguments.data)
    long = bench_scene("dubai", arguments.folder, arguments.data).plain_path()
    table = results.setdefault("checklist", {})
    tools: Sequence[str] = [
        name for name in arguments.tools
        if name not in ("gdal", "onboard-auto", "onboard-wide") and not TOOLS[name].fastest
    ]  # fmt: skip
    for name in tools:
        if name in table:
            continue

        def mapped(question: str, scene: Path, tool: str = name) -> Path | None:
            answer = bench.run(tool, scene)
            if "failed" in answer:
                print(f"  {tool} on {question}: {answer['failed']}", flush=True)
                return None
            copy: Path = arguments.folder / "questions" / f"{question.replace(' ', '_')}_{tool}.map.tif"
            shutil.copy(bench.map_of(tool), copy)
            return copy

        row = answers(scenes, mapped)
        whole = bench.run(name, long)
        killed = bench.run(name, long, die_after=KILLED_AFTER)
        again = bench.run(name, long, keep=True)
        # Only a run that was killed says anything; fewer tiles than in a whole one is what resuming means.
        row["resumes"] = (
            None if "failed" in whole or "failed" not in killed
            else "failed" not in again and again["tiles"] < whole["tiles"]
        )  # fmt: skip
        table[name] = {question: row.get(question) for question in QUESTIONS}
        print(f"checklist {name}: {table[name]}", flush=True)
        save()


if __name__ == "__main__":
    main()
