"""One scene over 1, 2 and 4 workers of a Dask cluster on this machine, with an engine of fixed cost.

The engine sleeps, so four workers fit two cores: what is measured is what spreading itself costs (tasks, windows read
by each worker, cores written to one canvas, a journal in one process), not arithmetic.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.pipeline import made_landscape
from engines.testing import IdentityEngine
from onboard.mapping.dask_executor import RESOURCE, dask_executor
from onboard.mapping.run import MapRequest, map_scene

SECONDS_A_TILE = 0.25
"""What Orin NX was measured to take is 0.4; the least that is wanted of it is 0.1."""


def over_workers(folder: Path, *, quick: bool) -> None:
    """Prints tiles/s and efficiency: rate over (workers x rate of one)."""
    side = 4096 if quick else 12_000
    scene = made_landscape(folder, width=side, height=side)
    opener = partial(IdentityEngine, 1024, delay_s=SECONDS_A_TILE, halo=64)
    begin = time.monotonic()
    with opener() as engine:
        # Else the run would find its map of before, and have nothing to do.
        shutil.rmtree(folder / "alone", ignore_errors=True)
        alone = map_scene(MapRequest(scene, folder / "alone"), engine)
    print(f"{side} x {side} pixels, {alone.tiles} tiles, an engine that sleeps {SECONDS_A_TILE} s a tile")
    print(f"one process     {alone.tiles / alone.mapping_s:6.2f} tiles/s   {time.monotonic() - begin:6.1f} s")
    first = None
    for workers in (1, 2, 4):
        shutil.rmtree(folder / "cluster", ignore_errors=True)
        with _cluster(folder, workers) as address, dask_executor(address, opener) as executor:
            summary = map_scene(MapRequest(scene, folder / "cluster"), executor)
        rate = summary.tiles / summary.mapping_s
        first = first or rate
        same = summary.map_path.read_bytes() == alone.map_path.read_bytes()
        print(
            f"{workers} workers       {rate:6.2f} tiles/s   efficiency {rate / workers / first:4.0%}   "
            f"{'the same bytes' if same else 'OTHER BYTES'}"
        )
    print("wanted: 85 % at 4 workers")


@contextmanager
def _cluster(folder: Path, workers: int) -> Iterator[str]:
    from distributed import Client

    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    place = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    processes = [subprocess.Popen([*dask, "scheduler", *place, "--scheduler-file", str(file)], **quiet)]  # type: ignore[call-overload]
    try:
        # The scheduler makes the file first and writes its address then.
        while not file.exists() or not file.read_text(encoding="utf-8"):
            time.sleep(0.05)
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
        # Without nanny and memory limit nothing starts, pauses or ends a worker while it is measured.
        flags = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0"]
        flags += ["--resources", f"{RESOURCE}=1", "--local-directory", str(folder / "scratch")]
        worker = [*dask, "worker", address, *flags]
        processes += [subprocess.Popen(worker, **quiet) for _ in range(workers)]  # type: ignore[call-overload]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address
    finally:
        # Workers before the scheduler, to which they would try to connect again.
        for process in processes[::-1]:
            process.kill()
            process.wait()
