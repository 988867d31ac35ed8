"""A campaign of faults over upload, mapping, publishing and pulling: `python -m tests.onboard.campaign --kills 200`.

With `--heads` the model has two heads and every scene asks for both: what is listed or acknowledged has all rasters.

Scenes are delivered one after another while a station pulls pass after pass; at random moments the worker, the API, the
whole service or the station is killed, the API is stopped, the engine hangs, the history is overwritten, a bit of the
ledger's write-ahead log is flipped or the log lost, or the same scene is delivered and cancelled at once. Afterwards:
every scene that was accepted is mapped, every map has the bytes of an undisturbed run, aboard and on the ground,
nothing that was listed was ever less than whole, and numbers only grew.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest

from engines.open import open_engine
from onboard.jobs.highwater import read_mark
from onboard.mapping import run
from onboard.mapping.run import MapRequest, map_scene
from tests.onboard.service import ROOT, Served, until, write_scene
from tests.tiny_heads import write_heads_model

KILLS = ("worker", "worker", "worker", "api", "api", "service", "station")
FAULTS = ("hung api", "hung engine", "log bit", "lost log", "damaged history", "race")
TARGETS = (*KILLS, *KILLS, *FAULTS)
LOST = ("ledger-rolled-back", "ledger-rebuilt")


@dataclass
class Campaign:
    """One campaign.

    Attributes:
        folder: empty.
        kills: how many.
        scenes: how many are delivered, over and over while kills are left.
        accepted: scene id to the scene's number, for every delivery that was answered.
        killed: how often each target was.
        rollbacks: how often the ledger fell back or was damaged, each of which must be an event.
        heads: that scenes ask for; with none the model is of one graph.
        targets: what is done, by chance.
    """

    folder: Path
    kills: int
    scenes: int
    seed: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    rollbacks: int = 0
    heads: tuple[str, ...] = ()
    targets: tuple[str, ...] = TARGETS
    station: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.random, self._said = random.Random(self.seed), 0
        if self.heads:
            write_heads_model(self.folder / "model")
        self.files = ["map.tif", *(f"{name}.tif" for name in self.heads[1:])]
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = str(one.getsockname()[1])
        settings = {
            "ONBOARD_PORT": port, "ONBOARD_MAX_CRASHES": "100000", "ONBOARD_HEARTBEAT_TIMEOUT_S": "6",
            "ONBOARD_ENGINE_CHECK_MINUTES": "0.01", "FAULT": "stuck", "FAULT_STATE": str(self.folder / "state"),
        }  # fmt: skip
        self.served = Served(self.folder / "data", settings, "tests.onboard.faulty")
        self.doing: dict[str, Callable[[], None]] = {
            "station": self._end_station, "service": self._kill_service, "hung api": self._stop_api,
            "hung engine": self._hang_engine, "log bit": self._flip_a_bit, "lost log": self._lose_the_log,
            "damaged history": self._damage_history, "race": self._race,
        }  # fmt: skip
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
                self._say_progress()
            self._finish()
        finally:
            self._end_station()
            self.served.stop()

    def _say_progress(self) -> None:
        """Now and then, for whoever waits for a long campaign."""
        if (done := sum(self.killed.values())) >= self._said + 10:
            self._said = done
            print(f"{done} of {self.kills} faults, {len(self.accepted)} scenes accepted", flush=True)

    def _step(self) -> None:
        """Delivers what is not accepted yet, pulls, waits a random while, kills something, looks at the listing."""
        missing = [n for n in range(self.scenes) if n not in self.accepted.values()]
        # All of them are in: their maps are erased aboard, so that there is work to kill.
        number = self.random.choice(missing) if missing else self._again()
        uploader = self._uploader(number)
        if self.station is None or self.station.poll() is not None:
            self.station = self._pull()
        target = self.random.choice(self.targets)
        time.sleep(self.random.random() * 0.6)
        if sum(self.killed.values()) < self.kills:
            self.killed[target] += 1
            self.doing.get(target, partial(self.served.kill, target))()
        said, _ = uploader.communicate(timeout=120)
        for line in said.decode().splitlines():
            self.accepted[line] = number
        self._check_listing()

    def _again(self) -> int:
        number = self.random.randrange(self.scenes)
        self._cancel(number)
        return number

    def _cancel(self, number: int) -> None:
        """Whether it was heard or not: the scene is no longer one that must be there."""
        for scene in [name for name, own in self.accepted.items() if own == number]:
            del self.accepted[scene]
            # Long: a request that is given up here may be carried out after the same bytes were accepted again.
            with contextlib.suppress(httpx.HTTPError), self.served.client(timeout=120) as client:
                client.delete(f"/scenes/{scene}")

    def _uploader(self, number: int) -> subprocess.Popen[bytes]:
        """Delivers in a process of its own; prints the id if it was accepted."""
        command = [sys.executable, "-m", "tests.onboard.campaign", "--deliver", self.served.url]
        command += [str(self.paths[number]), ",".join(self.heads)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def _pull(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ground.cli", "pull", self.served.url, "--dest", str(self.dest), "--quiet"]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def _kill_service(self) -> None:
        children = self.served.children()
        self.served.stop(signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.values()), "a child lives on")
        self.served.start()

    def _stop_api(self) -> None:
        """It is killed by the supervisor, and another answers."""
        api = self.served.children().get("api")
        if api is not None:
            os.kill(api, signal.SIGSTOP)
            until(lambda: self.served.children().get("api", api) != api, "the stopped API stays")

    def _hang_engine(self) -> None:
        """In its next call; nobody is waited for: there may be no work now."""
        (self.folder / "state.stuck").touch()

    def _flip_a_bit(self) -> None:
        def harm(log: Path) -> None:
            content = bytearray(log.read_bytes())
            content[self.random.randrange(len(content))] ^= 1 << self.random.randrange(8)
            log.write_bytes(content)

        self._harm_log(harm)

    def _lose_the_log(self) -> None:
        self._harm_log(Path.unlink)

    def _harm_log(self, harm: Callable[[Path], None]) -> None:
        """While the service is dead: what the ledger loses by it must be an event, and no number is given twice."""
        children = self.served.children()
        self.served.stop(signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children.values()), "a child lives on")
        ledger = self.served.data / "ledger.sqlite"
        log = ledger.with_name("ledger.sqlite-wal")
        known = read_mark(ledger).number
        if log.exists() and log.stat().st_size:
            harm(log)
        is_lost = self._reached(ledger) < known
        self.served.start()
        with self.served.ledger() as opened:
            assert opened.reached() >= known
            told = [event for event in opened.events.page(after=known, limit=10_000) if event.kind in LOST]
        assert bool(told) or not is_lost, f"the ledger fell back from {known} in silence"
        self.rollbacks += is_lost

    def _reached(self, ledger: Path) -> int:
        """The last number in a copy of the ledger, -1 where it cannot be read."""
        with tempfile.TemporaryDirectory() as folder:
            for ending in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(ledger.with_name(ledger.name + ending), folder)
            try:
                with contextlib.closing(sqlite3.connect(Path(folder) / ledger.name)) as copy:
                    if copy.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                        return -1
                    return int(copy.execute("SELECT value FROM counter").fetchone()[0])
            except (sqlite3.DatabaseError, TypeError):
                return -1

    def _damage_history(self) -> None:
        path = self.served.data / "telemetry" / "history.sqlite"
        with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
            file.write(self.random.randbytes(8192))
        with contextlib.suppress(httpx.TransportError), self.served.client(timeout=10) as client:
            for _ in range(3):
                answer = client.get("/telemetry/history", params={"step": 1})
                assert answer.status_code == 200, answer.text

    def _race(self) -> None:
        """The same bytes, delivered and cancelled at once; what is delivered at last has to be there."""
        number = self.random.randrange(self.scenes)
        scenes = [name for name, own in self.accepted.items() if own == number]
        content = self.paths[number].read_bytes()

        def post() -> None:
            with contextlib.suppress(httpx.HTTPError), self.served.client(timeout=20) as client:
                client.post("/scenes", content=content, headers={"Content-Type": "image/tiff"}, params=self.query)

        threads = [threading.Thread(target=work) for work in (post, partial(self._cancel, number), post)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        said, _ = self._uploader(number).communicate(timeout=120)
        for line in said.decode().splitlines():
            self.accepted[line] = number
            assert not scenes or line in scenes or self.rollbacks, "the same scene got another id"

    @property
    def query(self) -> dict[str, str]:
        """Of a delivery."""
        return {"heads": ",".join(self.heads)} if self.heads else {}

    def _end_station(self) -> None:
        if self.station is not None:
            self.station.kill()
            self.station.wait()
            self.station = None

    def _check_listing(self) -> None:
        """What is listed is whole, now: all of its rasters; and what is acknowledged is on the ground."""
        with self.served.ledger() as ledger:
            for row in ledger.maps.page(limit=10_000):
                lacking = [name for name in self.files if name not in row.assets]
                assert not lacking, f"{row.id} is listed without {lacking}"
                if row.delivered is not None:
                    lacking = [name for name in self.files if not (self.dest / row.id / name).is_file()]
                    assert not lacking, f"{row.id} is acknowledged and lacks {lacking} on the ground"
                for name, facts in row.assets.items():
                    path = self.served.data / "maps" / row.id / name
                    try:
                        digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    except FileNotFoundError:
                        # Cancelled between the two looks: its row goes first.
                        assert ledger.maps.get(row.id) is None, f"{path} is listed and not there"
                        continue
                    assert digest == facts["sha256"], f"{path} is listed and not whole"

    def _finish(self) -> None:
        """Everything that was accepted, and then everything once more, runs to its end; then all bytes are compared."""
        for name in self.accepted:
            state = self.served.wait_for(name, "mapped", "failed", "quarantined", "cancelled")
            assert state == "mapped", f"{name} was accepted and is {state}"
        (self.folder / "state.stuck").unlink(missing_ok=True)
        for number in range(self.scenes):

            def delivered(number: int = number) -> bool:
                said, _ = self._uploader(number).communicate(timeout=120)
                for line in said.decode().splitlines():
                    self.accepted[line] = number
                return bool(said)

            until(delivered, f"scene {number} is not taken")
        with self.served.ledger() as ledger:
            lost = [name for name in self.accepted if ledger.scenes.get(name) is None]
        assert not lost, f"accepted and lost: {lost}"
        for name in self.accepted:
            self.served.wait_for(name, "mapped")
        until(lambda: self._pull().wait() == 0, "the last pass does not end")
        expected = self._undisturbed()
        for name, number in self.accepted.items():
            for folder in (self.served.data / "maps", self.dest):
                found = [hashlib.sha256((folder / name / file).read_bytes()).hexdigest() for file in self.files]
                assert found == expected[number], f"{folder / name} differs from an undisturbed run"
        assert {path.name for path in (self.served.data / "maps").iterdir() if not path.name.startswith(".")} == set(
            self.accepted
        )

    def _undisturbed(self) -> list[list[str]]:
        """Digests of each scene's rasters, by the settings of the service."""
        engine = open_engine(str(self.folder / "model"), heads=self.heads, backend="onnxruntime", threads=1)
        with pytest.MonkeyPatch.context() as patch, engine:
            patch.setattr(run, "probe_scene", lambda *_: None)  # a process a scene; they were probed already
            maps = [map_scene(MapRequest(path, self.folder / "plain"), engine).folder for path in self.paths]
        return [[hashlib.sha256((path / file).read_bytes()).hexdigest() for file in self.files] for path in maps]


def deliver(url: str, path: Path, heads: str) -> None:
    """Posts a scene; prints its id if the service said it has it."""
    answer = httpx.post(
        f"{url}/scenes", content=path.read_bytes(), headers={"Content-Type": "image/tiff"}, timeout=60,
        params={"heads": heads} if heads else {},
    )  # fmt: skip
    if answer.status_code in (200, 202):
        print(answer.json()["id"])


def main() -> None:
    """The long campaign, or one delivery of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heads", action="store_true", help="scenes ask for two heads")
    parser.add_argument("--deliver", nargs=3, metavar=("URL", "PATH", "HEADS"))
    options = parser.parse_args()
    if options.deliver:
        url, path, heads = options.deliver
        deliver(url, Path(path), heads)
        return
    with tempfile.TemporaryDirectory() as folder:
        heads = ("bands", "light") if options.heads else ()
        campaign = Campaign(Path(folder), options.kills, options.scenes, options.seed, heads=heads)
        begin = time.monotonic()
        campaign.run()
        killed = ", ".join(f"{name} {count}" for name, count in sorted(campaign.killed.items()))
        print(
            f"{sum(campaign.killed.values())} faults ({killed}) in {time.monotonic() - begin:.0f} s, "
            f"{campaign.rollbacks} times the ledger fell back: "
            f"{len(campaign.accepted)} accepted scenes, none lost, every raster of their "
            f"{len(campaign.files)} a map byte-identical aboard and on the ground"
        )


if __name__ == "__main__":
    main()
