"""A demonstration for the console: `make console`, or `python -m benchmarks.console_demo [--folder out/console]`.

A real service on loopback with the shipped model, made landscapes as scenes, the file tree of an Orin NX whose power
follows the work, passes over a slow link, and the console over what they bring. What is made is named so on the page.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rasterio.warp import transform as to_degrees

from benchmarks.demo_history import SHARES, write_history
from benchmarks.plant import Plant
from tests.ground.proxy import slow_link
from tests.telemetry.trees import orin_nx
from trainer.data.landscape import write_landscape

ROOT = Path(__file__).resolve().parents[1]
PLACES = {  # name: longitude, latitude, seed of the landscape, day of acquisition
    "harbour-before": (55.03, 25.0, 7, "2026-05-03T06:40:00Z"),
    "harbour-after": (55.03, 25.0, 7, "2026-11-02T06:41:00Z"),
    "delta": (31.2, 30.1, 11, "2026-10-11T08:10:00Z"),
    "coast": (-43.2, -22.9, 12, "2026-10-28T12:55:00Z"),
    "steppe": (77.1, 28.6, 13, "2026-11-14T05:20:00Z"),
    "island": (144.9, -37.8, 14, "2026-11-20T00:05:00Z"),
}
WAITING = {"north-strip": "high", "south-strip": "routine", "west-strip": "routine", "alarm": "urgent"}
SIDE = 1536
MOST_WAITING = 3
WORKING = ("off", "working")
"""States of the governor in which a scene that is being mapped costs power."""
NAME = "demonstration"


@dataclass
class Demo:
    """The processes of one demonstration; ends them with the block.

    Attributes:
        folder: everything is written below it.
        days: of telemetry from before.
        pace_s: seconds for 4 KiB over the link of the passes.
        pause_s: between two passes.
    """

    folder: Path
    days: float = 30.0
    pace_s: float = 0.12
    pause_s: float = 15.0
    url: str = ""
    address: str = ""
    _stack: ExitStack = field(default_factory=ExitStack)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Demo:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("scenes", "maps", "telemetry", "data"):
            (self.folder / name).mkdir(parents=True)
        write_history(self.folder / "telemetry", end_s=time.time(), days=self.days)
        try:
            self._serve()
        # A service that came up only in part must not outlive the command, not after Ctrl-C either.
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._stack.close()

    def _serve(self) -> None:
        """Starts the service on a made board whose power follows the work."""
        board = orin_nx(self.folder / "board")
        for role in ("ground", "operator", "ingest"):
            text = self._run("onboard.cli", "token", "add", role, "--role", role)
            # The secret is the longest word of what `onboard token add` prints.
            token = max(re.findall(r"[A-Za-z0-9_-]{40,}", text), key=len)
            (self.folder / f"{role}.token").write_text(token)
        self.url = self._started("onboard.cli", ["serve"], ONBOARD_TELEMETRY_ROOT=str(board))
        thread = threading.Thread(target=self._replay, args=(board,), daemon=True)
        thread.start()
        # Called back last first: the thread is told to stop, then waited for.
        self._stack.callback(thread.join)
        self._stack.callback(self._stop.set)

    def _run(self, module: str, *arguments: str) -> str:
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=self._environment())
        return done.stdout + done.stderr

    def _environment(self, **more: str) -> dict[str, str]:
        # A developer's own settings must not change the demonstration.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ONBOARD_")}
        own = {
            "ONBOARD_DATA_DIR": str(self.folder / "data"), "ONBOARD_PORT": "0", "ONBOARD_CONFIDENCE": "true",
            "ONBOARD_DISK_RESERVE_BYTES": "0", "ONBOARD_MAX_MEAN_POWER_W": "16", "ONBOARD_POWER_WINDOW_S": "120",
            "ONBOARD_MIN_DUTY_PERIOD_S": "10",
        }  # fmt: skip
        return kept | own | {"PYTHONPATH": str(ROOT)} | more

    def _started(self, module: str, arguments: list[str], **environment: str) -> str:
        """Starts a process that prints its address; gives that."""
        name = f"{module}-{arguments[0]}"
        log = (self.folder / f"{name}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env=self._environment(**environment), text=True,
            stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        self._stack.callback(log.close)
        # The ends that people and systemd give them: Ctrl-C for the console, SIGTERM for the service.
        self._stack.callback(_end, process, signal.SIGINT if module == "ground.cli" else signal.SIGTERM)
        assert process.stdout is not None  # noqa: S101 -- asked for above
        for line in process.stdout:
            if found := re.search(r"https?://\S+", line):
                return found[0].rstrip("/")
        raise RuntimeError(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-2000:]}")

    def _replay(self, board: Path) -> None:
        """Power and heat of the made board, twice a second, by whether the service maps."""
        plant, heat, chance = Plant(), 40.0, np.random.default_rng(2)
        with self._client("operator") as client:
            while not self._stop.wait(0.5):
                # The service is just starting, or ends: the next half second tries again.
                with suppress(httpx.HTTPError, KeyError):
                    told = client.get("/telemetry").json()
                    works = told["scene"] is not None and told["governor"]["state"] in WORKING
                    watts = (plant.work_w if works else plant.rest_w) * (1 + chance.normal(0, 0.02))
                    heat += 0.5 * (watts - (heat - plant.ambient_c) / plant.k_per_w) / plant.j_per_k
                    for number, share in enumerate(SHARES.values(), 1):
                        _set_current(board, number, watts * share)
                    for zone, above in {"cpu": 0.0, "gpu": 1.0, "tj": 2.0}.items():
                        _set_heat(board, zone, heat + above)

    def _client(self, role: str) -> httpx.Client:
        token = (self.folder / f"{role}.token").read_text()
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def deliver(self, name: str, priority: str = "routine") -> str:
        """Posts a made scene; gives its id."""
        place = PLACES.get(name)
        path = self.folder / "scenes" / f"{name}.tif"
        if not path.exists():
            seed = place[2] if place is not None else sum(map(ord, name))
            write_landscape(path, seed=seed, width=SIDE, height=SIDE)
            _place(path, name, place)
        query = {"priority": priority, "name": path.name} | ({"acquired": place[3]} if place is not None else {})
        with self._client("ingest") as client:
            headers = {"Content-Type": "image/tiff"}
            answer = client.post("/scenes", content=path.read_bytes(), params=query, headers=headers)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def wait_for_maps(self, count: int, deadline_s: float = 600) -> None:
        """Until the service holds so many maps."""
        end = time.monotonic() + deadline_s
        with self._client("operator") as client:
            while len(client.get("/maps", params={"limit": 1000}).json()["features"]) < count:
                if time.monotonic() > end:
                    raise RuntimeError(f"no {count} maps in {deadline_s:g} s: see {self.folder}")
                time.sleep(0.5)

    def _waiting(self) -> int:
        with self._client("operator") as client:
            return int(client.get("/telemetry").json()["scenes"]["queued"])

    def pull(self, url: str | None = None, *more: str) -> int:
        """One pass, and the telemetry since the last one; gives the pass's exit code."""
        token = ["--token-file", str(self.folder / "ground.token")]
        command = [sys.executable, "-m", "ground.cli"]
        code = self._ran(
            [*command, "pull", url or self.url, "--dest", str(self.folder / "maps"), *token, "--quiet", *more]
        )
        if self._is_reachable():
            dest = str(self.folder / "telemetry")
            self._ran([*command, "telemetry", self.url, "--dest", dest, "--step", "10s", *token])
        return code

    def _ran(self, command: list[str]) -> int:
        """Runs a command of the station to its end, or to that of the demonstration; gives its exit code."""
        if self._stop.is_set():
            return 130
        with (self.folder / "passes.log").open("a") as log:
            # A session of its own: Ctrl-C is for this process, which ends the command itself.
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
            try:
                while not self._stop.is_set():
                    with suppress(subprocess.TimeoutExpired):
                        return process.wait(0.1)
            finally:
                if process.poll() is None:
                    _end(process, signal.SIGINT, 5)
        return process.returncode

    def _is_reachable(self) -> bool:
        with suppress(httpx.HTTPError):
            httpx.get(f"{self.url}/health/live", timeout=5)
            return True
        return False

    def keep_passing(self) -> None:
        """Passes over a slow link, one after another, with scenes that go on coming, until the block ends."""
        # Slow, so that a pass lasts long enough to be seen.
        link = self._stack.enter_context(slow_link(self.url, pace_s=self.pace_s))
        thread = threading.Thread(target=self._pass_again_and_again, args=(link.url,), daemon=True)
        thread.start()
        self._stack.callback(thread.join, 60)
        self._stack.callback(self._stop.set)

    def _pass_again_and_again(self, url: str) -> None:
        number, was_reachable = 0, True
        while not self._stop.is_set():
            is_reachable = self._is_reachable()
            if is_reachable != was_reachable and not self._stop.is_set():
                text = "answers again" if is_reachable else "is not reachable: no passes until it answers"
                print(f"the satellite at {self.url} {text}", flush=True)
                was_reachable = is_reachable
            if is_reachable:
                self.pull(url, "--window", "30s")
            if self._stop.wait(self.pause_s):
                return
            with suppress(httpx.HTTPError):
                # No more than that: on a slow machine the queue would grow for as long as the page is open.
                if self._waiting() < MOST_WAITING:
                    number += 1
                    self.deliver(f"later-{number}")

    def open_console(self, port: int = 0, *more: str) -> str:
        """Starts the console over it; gives its address."""
        options = [
            self.url, "--dest", str(self.folder / "maps"), "--telemetry", str(self.folder / "telemetry"), "--scenes",
            str(self.folder / "scenes"), "--token-file", str(self.folder / "ground.token"), "--operator-token-file",
            str(self.folder / "operator.token"), "--port", str(port), "--name", NAME,
        ]  # fmt: skip
        self.address = self._started("ground.cli", ["console", *options, *more])
        return self.address


def _end(process: subprocess.Popen[Any], number: signal.Signals, wait_s: float = 30) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _set_current(board: Path, number: int, watts: float) -> None:
    """Has a rail say so many watts at 19 V."""
    (folder,) = board.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")
    _overwrite(folder / f"curr{number}_input", f"{1000 * watts / 19:8.0f}\n")


def _overwrite(path: Path, text: str) -> None:
    """In one write and of one length: the service keeps the file open and reads it at any moment."""
    with path.open("r+b", buffering=0) as file:
        file.write(text.encode())


def _set_heat(board: Path, zone: str, celsius: float) -> None:
    for path in board.glob("sys/class/thermal/thermal_zone*"):
        if (path / "type").read_text().startswith(f"{zone}-"):
            _overwrite(path / "temp", f"{1000 * celsius:8.0f}\n")


def _place(path: Path, name: str, place: tuple[float, float, int, str] | None) -> None:
    """Moves a made landscape to its place on Earth; two have control points or rational polynomials alone."""
    with rasterio.open(path) as source:
        pixels = source.read()
    if name == "harbour-after":
        pixels = _built_over(pixels)
    profile = {"count": 3, "dtype": "uint8", "width": SIDE, "height": SIDE, "compress": "jpeg", "photometric": "ycbcr"}
    longitude, latitude = (55.3, 25.2) if place is None else place[:2]
    # EPSG's number of the UTM zone: 326NN north of the equator, 327NN south of it.
    zone = 32600 + (100 if latitude < 0 else 0) + int((longitude + 180) // 6) + 1
    (east,), (north,) = to_degrees("EPSG:4326", f"EPSG:{zone}", [longitude], [latitude])
    transform = rasterio.Affine(1, 0, round(east), 0, -1, round(north))
    # One scene with control points, one with rational polynomials, one without any place: the page has a view for each.
    is_plain = name not in ("steppe", "coast") and place is not None
    located = {"crs": f"EPSG:{zone}", "transform": transform} if is_plain else {}
    path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # one scene has no place on purpose
        with rasterio.open(path, "w", "GTiff", tiled=True, **profile, **located) as file:
            file.write(pixels)
            if name == "steppe":
                file.gcps = (_points(longitude, latitude), "EPSG:4326")
            elif name == "coast":
                file.rpcs = _polynomials(longitude, latitude)


def _built_over(pixels: np.ndarray) -> np.ndarray:
    """A later date of the same place: a corner of it taken from another landscape."""
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other.tif"
        write_landscape(other, seed=21, width=SIDE, height=SIDE)
        with rasterio.open(other) as source:
            pixels[:, SIDE // 2 :, SIDE // 3 :] = source.read()[:, SIDE // 2 :, SIDE // 3 :]
    return pixels


def _points(longitude: float, latitude: float) -> list[GroundControlPoint]:
    """Five, of an image that lies askew, a metre a pixel."""
    step = 9e-6
    corners = [(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE), (SIDE // 2, SIDE // 2)]
    return [
        GroundControlPoint(row, col, longitude + step * (col + 0.2 * row), latitude - step * (row - 0.2 * col))
        for row, col in corners
    ]


def _polynomials(longitude: float, latitude: float) -> RPC:
    # First order only, with a tenth of skew: enough for a view that must warp.
    half, span = SIDE / 2, 9e-6 * SIDE / 2
    zeros = [0.0] * 17
    return RPC(
        height_off=0, height_scale=500, lat_off=latitude, lat_scale=span, long_off=longitude, long_scale=span,
        line_off=half, line_scale=half, samp_off=half, samp_scale=half, line_num_coeff=[0.0, 0.1, -1.0, *zeros],
        line_den_coeff=[1.0, 0.0, 0.0, *zeros], samp_num_coeff=[0.0, 1.0, 0.1, *zeros],
        samp_den_coeff=[1.0, 0.0, 0.0, *zeros],
    )  # fmt: skip


def main() -> None:
    """Parses, starts it all, prints the address, waits for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console_demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/console"), help="emptied, then written")
    parser.add_argument("--port", type=int, default=8050)
    options = parser.parse_args()
    with suppress(KeyboardInterrupt), Demo(options.folder.absolute()) as demo:
        print("a demo satellite starts; its scenes are made, its telemetry is replayed", flush=True)
        for name in [*PLACES, "somewhere"]:
            demo.deliver(name)
        print(f"{len(PLACES) + 1} scenes delivered to {demo.url}; their maps come in passes of 30 s", flush=True)
        address = demo.open_console(options.port)
        for name, priority in WAITING.items():
            demo.deliver(name, priority)
        demo.keep_passing()
        print(f"console: {address}/  (Ctrl-C ends it all)", flush=True)
        while True:
            time.sleep(3600)


def _main_in_one_line() -> None:
    """As main(), with a service that ended while it was spoken to said in one line."""
    try:
        main()
    except httpx.HTTPError as error:
        sys.exit(f"console_demo: the satellite does not answer: {error}; its log is in the folder")


if __name__ == "__main__":
    _main_in_one_line()
