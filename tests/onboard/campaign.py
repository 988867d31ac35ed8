"""A campaign of SIGKILLs over upload, mapping, publishing and pulling: `python -m tests.onboard.campaign --kills 200`.

Scenes are delivered one after another while a station pulls pass after pass; at random moments the worker, the API, the
whole service or the station is killed. Afterwards: every scene that was accepted is mapped, every map has the bytes of
an undisturbed run, aboard and on the ground, and nothing that was listed was ever less than whole.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from engines.open import open_engine
from onboard.mapping import run
from onboard.mapping.run import MapRequest, map_scene
from tests.onboard.service import ROOT, Served, until, write_scene

TARGETS = ("worker", "worker", "worker", "api", "api", "service", "station")


@dataclass
class Campaign:
    """One campaign.

    Attributes:
        folder: empty.
        kills: how many.
        scenes: how many are delivered, over and over while kills are left.
        accepted: scene id to the scene's number, for every delivery that was answered.
        killed: how often each target was.
    """

    folder: Path
    kills: int
    scenes: int
    seed: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    station: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = str(one.getsockname()[1])
        self.served = Served(self.folder / "data", {"ONBOARD_PORT": port, "ONBOARD_DEATHS": "100000"})
        self.dest = self.folder / "dest"
        self.paths = [write_scene(self.folder / f"{n}.tif", 150 + 40 * (n % 4), seed=n) for n in range(self.scenes)]

    def run(self) -> None:
        """Kills and checks.

        Raises:
            AssertionError: a promise was broken.
        """
        self.served.start()
        try:
            while sum(self.killed.values()) < self.kills or len(self.accepted) < self.scenes:
                self._step()
            self._finish()
        finally:
            self._end_station()
            self.served.stop()

    def _step(self) -> None:
        """Delivers what is not accepted yet, pulls, waits a random while, kills something, looks at the listing."""
        missing = [n for n in range(self.scenes) if n not in self.accepted.values()]
        # All of them are in: their maps are erased aboard, so that there is work to kill.
        number = self.random.choice(missing) if missing else self._again()
        uploader = self._uploader(number)
        if self.station is None or self.station.poll() is not None:
            self.station = self._pull()
        target = self.random.choice(TARGETS)
        time.sleep(self.random.random() * 0.6)
        if sum(self.killed.values()) < self.kills:
            self._kill(target)
        said, _ = uploader.communicate(timeout=120)
        for line in said.decode().splitlines():
            self.accepted[line] = number
        self._check_listing()

    def _again(self) -> int:
        number = self.random.randrange(self.scenes)
        scene = next(name for name, one in self.accepted.items() if one == number)
        with contextlib.suppress(httpx.HTTPError), self.served.client(timeout=10) as client:
            client.delete(f"/scenes/{scene}")
        return number

    def _uploader(self, number: int) -> subprocess.Popen[bytes]:
        """Delivers in a process of its own; prints the id if it was accepted."""
        command = [sys.executable, "-m", "tests.onboard.campaign", "--deliver", self.served.url]
        command.append(str(self.paths[number]))
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def _pull(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ground.cli", "pull", self.served.url, "--dest", str(self.dest), "--quiet"]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def _kill(self, target: str) -> None:
        self.killed[target] += 1
        if target == "station":
            self._end_station()
        elif target == "service":
            self.served.stop(signal.SIGKILL)
            self.served.start()
        else:
            self.served.kill(target)

    def _end_station(self) -> None:
        if self.station is not None:
            self.station.kill()
            self.station.wait()
            self.station = None

    def _check_listing(self) -> None:
        """What is listed is whole, now."""
        with self.served.ledger() as ledger:
            for row in ledger.maps(limit=10_000):
                for name, facts in row.assets.items():
                    path = self.served.data / "maps" / row.id / name
                    try:
                        digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    except FileNotFoundError:
                        # Cancelled between the two looks: its row goes first.
                        assert ledger.map(row.id) is None, f"{path} is listed and not there"
                        continue
                    assert digest == facts["sha256"], f"{path} is listed and not whole"

    def _finish(self) -> None:
        """Everything is delivered once more and runs to its end; then all bytes are compared."""
        for number in range(self.scenes):

            def delivered(number: int = number) -> bool:
                said, _ = self._uploader(number).communicate(timeout=120)
                for line in said.decode().splitlines():
                    self.accepted[line] = number
                return bool(said)

            until(delivered, f"scene {number} is not taken")
        with self.served.ledger() as ledger:
            lost = [name for name in self.accepted if ledger.scene(name) is None]
        assert not lost, f"accepted and lost: {lost}"
        for name in self.accepted:
            self.served.wait_for(name, "mapped")
        until(lambda: self._pull().wait() == 0, "the last pass does not end")
        expected = self._undisturbed()
        for name, number in self.accepted.items():
            for folder in (self.served.data / "maps", self.dest):
                found = hashlib.sha256((folder / name / "map.tif").read_bytes()).hexdigest()
                assert found == expected[number], f"{folder / name} differs from an undisturbed run"
        assert {path.name for path in (self.served.data / "maps").iterdir() if not path.name.startswith(".")} == set(
            self.accepted
        )

    def _undisturbed(self) -> list[str]:
        engine = open_engine(str(self.folder / "model"), backend="onnxruntime", threads=1)  # as the service's settings
        with pytest.MonkeyPatch.context() as patch, engine:
            patch.setattr(run, "probe_scene", lambda *_: None)  # a process a scene; they were probed already
            maps = [map_scene(MapRequest(path, self.folder / "plain"), engine).map_path for path in self.paths]
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in maps]


def deliver(url: str, path: Path) -> None:
    """Posts a scene; prints its id if the service said it has it."""
    answer = httpx.post(
        f"{url}/scenes", content=path.read_bytes(), headers={"Content-Type": "image/tiff"}, timeout=60
    )
    if answer.status_code in (200, 202):
        print(answer.json()["id"])


def main() -> None:
    """The long campaign, or one delivery of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deliver", nargs=2, metavar=("URL", "PATH"))
    options = parser.parse_args()
    if options.deliver:
        deliver(options.deliver[0], Path(options.deliver[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), options.kills, options.scenes, options.seed)
        begin = time.monotonic()
        campaign.run()
        killed = ", ".join(f"{name} {count}" for name, count in sorted(campaign.killed.items()))
        print(
            f"{sum(campaign.killed.values())} SIGKILLs ({killed}) in {time.monotonic() - begin:.0f} s: "
            f"{len(campaign.accepted)} accepted scenes, none lost, every map byte-identical aboard and on the ground"
        )


if __name__ == "__main__":
    main()
