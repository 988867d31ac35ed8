"""A real service for tests: `onboard serve` in processes of its own, on loopback, with the tiny model."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import rasterio

from onboard.jobs.ledger import Ledger
from tests.tiny_model import write_model

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = float(os.environ.get("TEST_DEADLINE_S", "60"))
"""Longest wait for what must come; tests/hermetic.sh, which keeps the cores busy itself, gives more."""


def until(told: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Asks again and again until the answer is true; gives it."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if answer := told():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited {deadline_s} s in vain: {what}")


def write_scene(path: Path, side: int = 300, seed: int = 0) -> Path:
    """A georeferenced GeoTIFF of noise: 169 tiles of the tiny model at 300 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, side, side), dtype=np.uint8)
    place = rasterio.Affine(2, 0, 3e5 + 1000 * seed, 0, -2, 2.8e6)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", "GTiff", side, side, 3, dtype="uint8", crs="EPSG:32640", transform=place, compress="deflate"
    ) as file:
        file.write(pixels)
    return path


@dataclass
class Served:
    """A running service.

    Attributes:
        data: its data folder.
        environment: more settings, by their variables.
        module: of the program; tests with faulty engines have their own.
    """

    data: Path
    environment: dict[str, str] = field(default_factory=dict)
    module: str = "onboard.cli"
    process: subprocess.Popen[str] | None = None
    url: str = ""

    def start(self) -> Served:
        """Starts it and waits until it answers."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        model = self.data.parent / "model"
        if not model.exists():
            write_model(model)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ONBOARD_")}
        told = {
            "ONBOARD_DATA_DIR": str(self.data), "ONBOARD_PORT": "0", "ONBOARD_MODEL": str(model),
            "ONBOARD_BACKEND": "onnxruntime", "ONBOARD_THREADS": "1", "ONBOARD_DISK_RESERVE_BYTES": "0",
            "ONBOARD_ENGINE_RETRY_S": "0.2", "ONBOARD_RESTART_DELAY_S": "0.05", "ONBOARD_MAX_RESTART_DELAY_S": "0.2",
            "ONBOARD_MAX_REQUESTS_PER_S": "100000", "ONBOARD_REQUESTS_BURST": "100000",
        }  # fmt: skip
        self.log = self.data.parents[1] / f"{self.data.parent.name}.log"
        self.log.touch()
        begin = self.log.stat().st_size
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module, "serve"],
                cwd=ROOT, env=kept | told | self.environment, stdout=log, stderr=log, text=True,
            )  # fmt: skip
        self.url = until(lambda: self._told_url(begin), f"no address in {self.log}")
        return self

    def _told_url(self, begin: int) -> str | None:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the service ended: {self.log.read_text()[begin:]}")
        found = re.findall(r"serving on (https?://\S+)", self.log.read_text()[begin:])
        return found[-1] if found else None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it; gives the exit code."""
        if self.process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def children(self) -> dict[str, int]:
        """Process ids by "worker" and "api", of those that run now."""
        assert self.process is not None
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = {}
        for child in map(int, listed):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{child}/cmdline").read_bytes().decode()
                modules = {"onboard.api": "api", "onboard.processes.sampling": "sampling"}
                name = next((name for module, name in modules.items() if module in command), "worker")
                found[name] = child
        return found

    def kill(self, name: str) -> None:
        """SIGKILL to a child, if it is there."""
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(self.children()[name], signal.SIGKILL)

    def client(self, **options: Any) -> httpx.Client:
        """Of its API."""
        return httpx.Client(base_url=self.url, **{"timeout": 30, **options})

    def ledger(self) -> Ledger:
        """A connection of the test's own."""
        return Ledger(self.data / "ledger.sqlite")

    def post(self, scene: Path, **query: str) -> dict[str, Any]:
        """Delivers a scene; gives the answer."""
        with self.client() as client:
            answer = client.post(
                "/scenes", content=scene.read_bytes(), headers={"Content-Type": "image/tiff"}, params=query
            )
        assert answer.status_code in (200, 202), answer.text
        told: dict[str, Any] = answer.json()
        return told

    def wait_for(self, scene_id: str, *states: str) -> str:
        """Until the scene is in one of these states; asked of the ledger, so it works while the API is dead."""

        def state() -> str | None:
            with self.ledger() as ledger:
                found = ledger.scenes.state_of(scene_id)
            return found if found in states else None

        return str(until(state, f"{scene_id} never became {states}"))


@contextlib.contextmanager
def running(data: Path, module: str = "onboard.cli", **environment: str) -> Iterator[Served]:
    """A service that ends with the block."""
    served = Served(data, environment, module)
    try:
        yield served.start()
    finally:
        served.stop()
