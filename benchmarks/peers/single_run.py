"""Runs one tool in its own process: `python -m benchmarks.peers.single_run TOOL TASK.json` prints its cost."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Reads the task, runs the tool, prints one line of JSON."""
    began = time.perf_counter()
    # A tool that takes more memory than there is shall be what the kernel ends, not the benchmark.
    Path("/proc/self/oom_score_adj").write_text("1000")
    warnings.simplefilter("ignore")
    from benchmarks.memory import peak_mib
    from benchmarks.peers.tools import TOOLS, Task
    from benchmarks.twin import Twin

    tool, job = TOOLS[sys.argv[1]], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    model, threads = Path(job["model"]), job["threads"]
    own = tool.own or sys.argv[1].startswith("afternoon") or sys.argv[1] == "gdal"
    task = Task(
        scene=Path(job["scene"]), out=Path(job["out"]), model=model, threads=threads, batch=job["batch"],
        twin=None if own else Twin(Path(job["twins"]), model, threads),
        overlap=0 if tool.fastest and not tool.own else job["overlap"],
        stretch=job["stretch"], die_after=job.get("die_after"),
        backend=tool.backend, halo=job["halo"] if tool.halo == -1 else tool.halo,
    )  # fmt: skip
    task.out.mkdir(parents=True, exist_ok=True)
    written = _written()
    tool.run(task)
    print(json.dumps({
        "tool": sys.argv[1], "version": tool.version, "seconds": task.facts.pop("seconds"),
        "process_s": time.perf_counter() - began, "model_s": task.model_s, "tiles": task.calls,
        "peak_mib": peak_mib(),
        "written_bytes": _written() - written, "map_bytes": task.map_path.stat().st_size, **task.facts,
    }))  # fmt: skip


def _written() -> int:
    """Bytes handed to the kernel to write by this process so far."""
    facts: dict[str, Any] = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(facts["wchar"])


if __name__ == "__main__":
    main()
