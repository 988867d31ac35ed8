"""The service under load: telemetry latency and upload speed while a scene is mapped, compared with idle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import rasterio

from benchmarks.serving import service
from benchmarks.spread import spread
from trainer.data.landscape import write_landscape

TIFF = {"Content-Type": "image/tiff"}
MIB = 1 << 20


def service_under_load(folder: Path, *, quick: bool) -> None:
    """Prints telemetry's p99 and upload's rate, idle and at work, and the API's memory during an upload."""
    asked, rounds, side = (50, 1, 3000) if quick else (400, 5, 8200)
    work = folder / "service-work.tif"
    if not work.exists():
        write_landscape(work, width=4096 if quick else 10_240, height=4096, seed=5)
    scenes = [_large_scene(folder / f"service-{side}-{number}.tif", side, number) for number in range(2 * rounds)]
    os.sync()  # what was just written is not to be synced at others' cost
    with service(folder / "service") as (client, supervisor):
        api = _api_of(supervisor)
        _wait_until_ready(client)
        # Idle and busy by one service in one run: only their ratio outlives the machine.
        idle = _latencies(client, asked)
        before = _resident(api, "VmRSS")
        with _worker_held(api):
            # In pairs: a disk that slows down slows the copy as well as the upload.
            pairs = [(_copy_rate(path, folder / "copy.tif"), _upload_rate(client, path)) for path in scenes[:rounds]]
            copied, uploads = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            grown = _resident(api, "VmHWM") - before
            _cancel_all(client)
        # Urgent, so that it runs while further scenes are delivered.
        client.post("/scenes", content=_chunks(work), headers=TIFF, params={"priority": "urgent"}).raise_for_status()
        _wait_until_working(client)
        busy = _latencies(client, asked)
        busy_uploads = [_upload_rate(client, path) for path in scenes[rounds:]]
        # Said in the output: where mapping ended before the uploads, they were not beside it.
        still = client.get("/telemetry").json()["scene"] is not None
        _cancel_all(client)
    size = scenes[0].stat().st_size / MIB
    print(f"GET /telemetry, idle         p50 {_percentile(idle, 50):6.1f} ms, p99 {_percentile(idle, 99):6.1f} ms")
    print(f"GET /telemetry, mapping      p50 {_percentile(busy, 50):6.1f} ms, p99 {_percentile(busy, 99):6.1f} ms")
    print(f"p99 mapping / idle           {_percentile(busy, 99) / _percentile(idle, 99):.2f}")
    print(f"copy with fsync, {size:.0f} MiB    {spread(copied)} MiB/s")
    print(f"upload, idle                 {spread(uploads)} MiB/s (answered: judged, synced, in the ledger)")
    print(f"upload, mapping              {spread(busy_uploads)} MiB/s" + ("" if still else " (mapping ended before)"))
    print(f"upload idle / copy           {statistics.median(uploads) / statistics.median(copied):.2f} (wanted: 0.6)")
    print(f"upload idle / fastest copy   {statistics.median(uploads) / max(copied):.2f}")
    print(f"upload mapping / idle        {statistics.median(busy_uploads) / statistics.median(uploads):.2f}")
    print(f"API's memory above idle      {grown / MIB:.0f} MiB at its peak during uploads (wanted: under 64)")


def _api_of(parent: int) -> int:
    # The supervisor starts its children by name; which is which is told by their command lines.
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in children if b"onboard.api" in Path(f"/proc/{pid}/cmdline").read_bytes())


def _resident(pid: int, name: str) -> int:
    if name == "VmRSS":
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is counted from here
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"{name}:\s+(\d+) kB", text)
    return int(match[1]) * 1024 if match else 0


@contextlib.contextmanager
def _worker_held(api: int) -> Iterator[None]:
    """Stops the worker for so long: it would map what was just uploaded, and the service would not be idle."""
    status = Path(f"/proc/{api}/status").read_text()
    parent = int(re.search(r"PPid:\s+(\d+)", status)[1])  # type: ignore[index]
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    worker = next(int(pid) for pid in children if b"processes.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())
    # Stopped and not killed: another would start.
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def _wait_until_ready(client: httpx.Client) -> None:
    while client.get("/health/ready").status_code != 200:
        time.sleep(0.1)


def _wait_until_working(client: httpx.Client) -> None:
    while not client.get("/telemetry").json()["tiles_done"]:
        time.sleep(0.1)


def _cancel_all(client: httpx.Client) -> None:
    for scene in client.get("/scenes", params={"limit": 1000}).json()["scenes"]:
        client.delete(f"/scenes/{scene['id']}")


def _latencies(client: httpx.Client, count: int) -> list[float]:
    """Milliseconds of so many requests, at most fifty a second: 20 ms lie between an answer and the next request."""
    latencies = []
    for _ in range(count):
        begin = time.perf_counter()
        client.get("/telemetry").raise_for_status()
        latencies.append(1e3 * (time.perf_counter() - begin))
        time.sleep(0.02)
    return latencies


def _percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share))


def _large_scene(path: Path, side: int, seed: int) -> Path:
    """Noise in RGB, uncompressed and tiled: about 200 MB at 8,200 pixels."""
    if path.exists():
        return path
    rng = np.random.default_rng(seed)
    profile = {"width": side, "height": side, "count": 3, "dtype": "uint8", "tiled": True, "photometric": "RGB"}
    place = rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 2.8e6)
    with rasterio.open(path, "w", "GTiff", crs="EPSG:32640", transform=place, **profile) as file:
        # Noise, which nothing on the way can compress.
        block = rng.integers(0, 256, (3, 256, side), dtype=np.uint8)
        for row in range(0, side, 256):
            rows = min(256, side - row)
            file.write(np.roll(block, row, axis=2)[:, :rows], window=((row, row + rows), (0, side)))
    return path


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(MIB):
            yield chunk


def _copy_rate(path: Path, target: Path) -> float:
    """MiB/s of the least anybody could do: read, write, fsync. From memory, as the upload after it."""
    path.read_bytes()
    os.sync()  # neither it nor the upload pays for what others wrote
    begin = time.perf_counter()
    with path.open("rb") as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, MIB)
        file.flush()
        os.fsync(file.fileno())
    rate = path.stat().st_size / MIB / (time.perf_counter() - begin)
    target.unlink()
    return rate


def _upload_rate(client: httpx.Client, path: Path) -> float:
    """MiB/s of curl's own time, connecting included; a client in Python would take the cores that the service needs."""
    url = str(client.base_url.join("/scenes"))
    os.sync()
    command = [shutil.which("curl") or "curl", "-sS", "-X", "POST", "-T", str(path), url]
    # An empty Expect: with it curl waits for a 100 Continue before it sends a large body.
    command += ["-H", "Content-Type: image/tiff", "-H", "Expect:", "-w", "\n%{time_total}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer, _, took = done.stdout.rpartition("\n")
    if "id" not in json.loads(answer):
        raise RuntimeError(answer)
    return path.stat().st_size / MIB / float(took)
