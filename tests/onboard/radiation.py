"""Bits of a running engine's memory, of a canvas and of a scene are flipped, one at a time: what do the checks see?

`python -m tests.onboard.radiation --flips 500` is `make radiation`; tests/onboard/test_radiation.py is the short one.
Of each flip is counted whether it was seen before the map would have been published (then it is repaired by opening
the engine again and doing tiles again, which tests of the service show), did no harm, or changed the map in silence.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from engines.engine import Engine
from engines.heads_graph import graph_of
from engines.integrity.page_scrub import HEAP_LOOKS
from engines.manifest import Manifest
from engines.open import backend_states, default_model, manifest_path, open_engine
from onboard.errors import SceneRefused
from onboard.files import sha256_file
from onboard.mapping.control import EngineHealth, MapObserver, StopPolicy
from onboard.mapping.executors import LocalExecutor
from onboard.mapping.run import MapRequest, map_scene
from tests.onboard.service import ROOT, write_scene
from tests.onboard.weights_in_memory import Flip, Found, ProcessMemory, flips, locate, tensors_of
from tests.tiny_model import write_model

SEEN_PAGES, SEEN_ANSWER, HARMLESS, SILENT = "seen by the scrub", "seen by the answer", "harmless", "SILENT"
ENDED = "process ended"
"""The supervisor starts another worker then, and the canvas goes on: tests/onboard/campaign.py."""


@dataclass
class Tally:
    """What became of the flips, by a label: a kind of bit, a layer's kind, a place."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, label: str, outcome: str) -> None:
        self.counts.setdefault(label, Counter())[outcome] += 1

    def total(self, outcome: str) -> int:
        return sum(counter[outcome] for counter in self.counts.values())

    def lines(self) -> list[str]:
        outcomes = sorted({outcome for counter in self.counts.values() for outcome in counter})
        rows = [["", *outcomes]]
        rows += [[label, *(str(self.counts[label][name]) for name in outcomes)] for label in sorted(self.counts)]
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


class Patient:
    """The process whose memory is hit."""

    def __init__(
        self, model: str, backend: str, tiles: int = 2, *, small: bool = True, heads: tuple[str, ...] = ()
    ) -> None:
        more = [*([] if small else ["large-only"]), *(f"head:{name}" for name in heads)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.onboard.radiation_child", model, backend, str(tiles), *more],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.opened = self._line()
        self.memory = ProcessMemory(self._process.pid)
        self.seconds: dict[str, list[float]] = {}

    def ask(self, request: str) -> dict[str, Any]:
        self.send(request)
        return self.receive(request)

    def send(self, request: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()

    def receive(self, request: str) -> dict[str, Any]:
        reply = self._line()
        self.seconds.setdefault(request.split(maxsplit=1)[0], []).append(float(reply["s"]))
        return reply

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BrokenPipeError("the process died of it")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        self.memory.close()
        self._process.kill()
        self._process.communicate()


class WeightsCampaign:
    """Flips bits of weights, one at a time; each is put right before the next."""

    def __init__(self, model: str, backend: str, *, small: bool = True, heads: tuple[str, ...] = ()) -> None:
        self.small, self.heads = small, heads
        self.model, self.backend = model, backend
        self.by_kind, self.by_layer = Tally(), Tally()
        self.silent: list[Flip] = []
        self.false_alarms = 0
        self._begin()

    def _begin(self) -> None:
        self.patient = Patient(self.model, self.backend, small=self.small, heads=self.heads)
        manifest = manifest_path(self.model)
        graph = graph_of(Manifest.load(manifest).with_heads(self.heads), manifest.parent)
        tensors = tensors_of(graph)
        self.found: list[Found] = locate(self.patient.memory, tensors, graph)
        self.layers = len(tensors)
        self.unwatched = self._unwatched()
        print(f"{len(self.unwatched)} of {len(self.found)} places found are not watched", flush=True)
        for place in self.unwatched:
            print(f"not watched: {place}", flush=True)
        self.expected = self.patient.ask("map")["digest"]
        for _ in range(HEAP_LOOKS):
            self.patient.ask("look")

    def next_patient(self) -> tuple[Patient, list[int]]:
        """Another process in place of this one, and its pages that inference rewrites."""
        self.patient.close()
        self.patient = Patient(self.model, self.backend, small=self.small, heads=self.heads)
        pages: list[int] = self.patient.ask("pages")["pages"]
        return self.patient, pages

    def _unwatched(self) -> list[Found]:
        runs = self.patient.ask("watched")["runs"]
        last = [(place, place.address + place.count * place.bits // 8 - 1) for place in self.found]
        return [
            place
            for place, end in last
            if not any(start <= place.address and end < start + 4096 * pages for start, pages, _ in runs)
        ]

    def run(self, count: int, seed: int = 0, deadline: float | None = None) -> int:
        """Gives how many flips were made by the deadline."""
        for number, flip in enumerate(flips(self.found, count, seed)):
            if deadline is not None and time.monotonic() > deadline:
                return number
            try:
                outcome = self._one(flip)
            except OSError:  # its pipe is broken, or its memory gone
                outcome = ENDED
            self.by_kind.add(flip.kind, outcome)
            self.by_layer.add(flip.layer.partition("/")[0], outcome)
            if outcome != SEEN_PAGES:
                print(f"{outcome}: {flip}", flush=True)
            if outcome == SILENT:
                self.silent.append(flip)
            if outcome == ENDED:
                self.patient.close()
                self._begin()
                return number + 1 + self.run(count - number - 1, seed + 1, deadline)
        return count

    def _one(self, flip: Flip) -> str:
        memory, patient = self.patient.memory, self.patient
        memory.flip(flip.address, flip.bit)
        try:
            alarms = patient.ask("look").get("addresses", [])
            if any(start <= flip.address < start + 4096 for start in alarms):
                return SEEN_PAGES
            if alarms:
                self.false_alarms += 1
                print(f"alarm at another place: {alarms[:4]}", flush=True)
            if patient.ask("answer")["changed"]:
                return SEEN_ANSWER
            reply = patient.ask("map")
            return HARMLESS if reply.get("digest") == self.expected else SEEN_ANSWER if "failed" in reply else SILENT
        finally:
            memory.flip(flip.address, flip.bit)


def flip_activations(campaign: WeightsCampaign, count: int, tally: Tally, *, times: int, seed: int = 1) -> None:
    """Flips bits of pages that inference rewrites, at any moment of a mapping."""
    patient, chance = campaign.patient, random.Random(seed)
    pages = patient.ask("pages")["pages"]
    usual_s = statistics.median(patient.seconds["map"])
    for _ in range(count):
        address, bit = chance.choice(pages) + chance.randrange(4096), chance.randrange(8)
        timer = threading.Timer(chance.uniform(0, usual_s * times), patient.memory.flip, (address, bit))
        timer.start()
        label = "activations" if times == 1 else "activations, all tiles twice"
        try:
            reply = patient.ask(f"map {times}")
        except OSError:
            timer.join()
            tally.add(label, ENDED)
            patient, pages = campaign.next_patient()
            continue
        timer.join()
        if patient.ask("look")["pages"]:
            tally.add(label, SEEN_PAGES)
            patient, pages = campaign.next_patient()  # the flip stays there, and every later look would see it
        elif reply.get("differed") or "failed" in reply:
            tally.add(label, "seen by the second computation")
        elif patient.ask("answer")["changed"]:
            tally.add(label, SEEN_ANSWER)
        else:
            tally.add(label, HARMLESS if reply["digest"] == campaign.expected else SILENT)


class _Hit(StopPolicy, EngineHealth, MapObserver):
    """Flips one bit of a file after the last tile was inferred, or between two tiles."""

    def __init__(self, path: Path, chance: random.Random, *, after: int | None) -> None:
        self.path, self.chance, self.left = path, chance, after
        self.reports: list[str] = []
        self._done = False

    def before_batch(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self._hit()

    def check(self) -> None:
        if self.left is None:
            self._hit()

    def repaired(self, kind: str, text: str) -> None:  # noqa: ARG002
        self.reports.append(kind)

    def _hit(self) -> None:
        if self._done or not self.path.exists():
            return
        self._done = True
        with self.path.open("r+b") as file:
            at = self.chance.randrange(self.path.stat().st_size)
            file.seek(at)
            byte = file.read(1)[0] ^ (1 << self.chance.randrange(8))
            file.seek(at)
            file.write(bytes([byte]))


def flip_files(folder: Path, count: int, tally: Tally, seed: int = 2) -> None:
    """Flips bits of the canvas and of the scene while a scene is mapped by the tiny model."""
    chance = random.Random(seed)
    model = write_model(folder / "model")
    with open_engine(str(model), backend="onnxruntime", threads=1) as engine:
        scene = write_scene(folder / "scene.tif", side=120)
        content, digest = scene.read_bytes(), sha256_file(scene)
        expected = _mapped(MapRequest(scene, folder / "plain"), engine)
        for number in range(count):
            for place in ("canvas", "scene"):
                request = MapRequest(scene, folder / f"{place}{number}", scene_sha256=digest, overwrite=True)
                canvas = request.out / ".onboard" / "scene" / "canvas" / "classes.raw"
                after = None if chance.random() < 0.5 else chance.randrange(1, 20)
                hit = _Hit(canvas if place == "canvas" else scene, chance, after=after)
                try:
                    same = np.array_equal(_mapped(request, engine, hit), expected)
                    tally.add(place, "repaired" if same and hit.reports else HARMLESS if same else SILENT)
                except SceneRefused:
                    tally.add(place, "refused")
                scene.write_bytes(content)


def _mapped(request: MapRequest, engine: Engine, hit: _Hit | None = None) -> Any:
    executor = LocalExecutor(engine, stop=hit, health=hit)
    with rasterio.open(map_scene(request, executor, observer=hit, judge=lambda *_: None).map_path) as file:
        return file.read(1)


def cpu_backends() -> list[str]:
    """ONNX Runtime, and OpenVINO where it is installed: in bfloat16 if the processor has it."""
    usable = {state.name for state in backend_states() if state.version}
    return ["onnxruntime", *[name for name in ("openvino-bf16", "openvino") if name in usable][:1]]


def main() -> None:
    """The long campaign."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flips", type=int, default=500, help="of weights, for each backend")
    parser.add_argument("--activations", type=int, default=40, help="for each backend, and as many with tiles twice")
    parser.add_argument("--files", type=int, default=100, help="of canvas and scene each")
    parser.add_argument("--model", default=default_model())
    parser.add_argument("--heads", nargs="+", default=[], help="of a model with heads; its first one with none")
    parser.add_argument("--backends", nargs="+", default=cpu_backends())
    parser.add_argument("--minutes", type=float, help="for the weights of each backend, at most")
    parser.add_argument("--large-only", action="store_true", help="with ONBOARD_MEMORY_SCRUB_SMALL=false")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    silent = 0
    for backend in options.backends:
        campaign = WeightsCampaign(options.model, backend, small=not options.large_only, heads=tuple(options.heads))
        deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
        made = campaign.run(options.flips, options.seed, deadline)
        places = len({place.layer for place in campaign.found})
        print(f"== {backend}: {made} flips in weights of {places} of {campaign.layers} tensors (others not recognised)")
        print("\n".join([*campaign.by_kind.lines(), "", *campaign.by_layer.lines()]), flush=True)
        print(f"looks that alarmed at another place than the flip: {campaign.false_alarms}")
        for flip in campaign.silent:
            print(f"silent: {flip}")
        silent += campaign.by_kind.total(SILENT)
        transient = Tally()
        for times in (1, 2) if options.activations else ():
            flip_activations(campaign, options.activations, transient, times=times)
        print("\n".join(["", *transient.lines()]))
        cost = {name: statistics.median(values) for name, values in campaign.patient.seconds.items()}
        print(
            f"{campaign.patient.opened['watched'] / 1e6:.0f} MB watched; medians: a look {1e3 * cost['look']:.0f} ms, "
            f"a tile {1e3 * cost['map'] / 2:.0f} ms, the check tile {1e3 * cost.get('answer', 0):.0f} ms; "
            f"opening {campaign.patient.opened['opened_s']:.1f} s",
            flush=True,
        )
        campaign.patient.close()
    with tempfile.TemporaryDirectory() as folder:
        files = Tally()
        flip_files(Path(folder), options.files, files)
        print("\n".join(["== files", *files.lines()]))
        silent += files.total(SILENT)
    sys.exit(1 if silent else 0)


if __name__ == "__main__":
    main()
