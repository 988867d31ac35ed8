"""A head's whole way with the shipped model: `python -m tests.onboard.models.real_story`, five minutes of one core.

A head for roads is trained on the encoder of the shipped model, exported, signed, pushed in three passes over a link
that is cut, verified, shadowed on two scenes and activated; the maps of both heads come down. Then come a head signed
by one key too few, a damaged one, an old list, a head that ends the process that verifies it, and one that ends the
worker: each is refused or left, and every scene that is delivered meanwhile is mapped. Bytes and seconds of each step
are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from rasterio.windows import Window

from engines.open import SHIPPED
from ground import cli as ground_cli
from ground.model.sign import LIST_FILE
from ground.model.unit import Unit, unit_of
from ground.show import size
from tests.ground.proxy import cutting_link
from tests.onboard.models.satellite import Station, activate, kinds, models_of, wait_for_state
from tests.onboard.service import ROOT, Served, running, until
from trainer import cli as trainer_cli

FAULTY = "tests.onboard.models.faulty_models"
HEAD, BOTH = "roads", "landcover,roads"
ENCODER = ROOT / "trainer" / "weights" / "landcover"
MODEL = SHIPPED / "landcover"
LINK_BIT_PER_S = 9600
_MAJOR, _MINOR = json.loads((MODEL / "manifest.json").read_text())["version"].split(".")[:2]
# Versions sent up: above the shipped one, whatever it is, since a changed model needs another.
NEW, DYING_PROBE, DYING_WORKER = (f"{_MAJOR}.{int(_MINOR) + step}.0" for step in (1, 2, 3))
TRAINING: dict[str, Any] = {
    "name": "roads", "data": {"set": "massachusetts-roads"},
    "model": {
        "classes": 2,
        "student": {"kind": "lite", "stem": "lite0", "fused": True, "neck": {"widths": [128, 96], "blocks": [4, 2]}},
        "decoder": {"kind": "fpn", "widths": [128, 96, 32, 24]},
    },
    "stages": [{"until": 1.0, "crop": 96, "batch": 4}], "max_steps": 16, "learning_rate": 2e-3, "average": 0.9,
    "label_stride": 2, "frozen_encoder": True, "machine": {"precision": "32-true", "threads": 1, "workers": 0},
}  # fmt: skip


@dataclass
class Step:
    """What one step took.

    Attributes:
        note: for people.
        up: bytes of files and metadata that the satellite kept; wire: that went up the link, heads of requests too.
    """

    name: str
    seconds: float = 0.0
    note: str = ""
    up: int = 0
    wire: int = 0


@dataclass
class Story:
    """The story, in a folder of its own.

    Attributes:
        folder: empty.
        imagery: folder of the Tokyo scenes of the shared data.
        steps: that were done.
    """

    folder: Path
    imagery: Path
    steps: list[Step] = field(default_factory=list)
    scenes: int = 0

    def run(self) -> list[Step]:
        """All of it.

        Raises:
            AssertionError: something went another way.
        """
        new = self._trained()
        station = Station(self.folder / "ground")
        root = station.make_keys("--model-keys", "2", "--model-threshold", "2")
        settings = {
            "ONBOARD_TRUST_ROOT": str(root), "ONBOARD_MODEL": "landcover", "ONBOARD_SHADOW_SCENES": "2",
            "ONBOARD_SHADOW_SHARE": "1", "ONBOARD_MAX_MODEL_FAILURES": "2", "ONBOARD_MAX_CRASHES": "9",
            "ONBOARD_MAX_MODEL_CHECK_S": "900", "ONBOARD_MIN_MODEL_TILES_PER_S": "0.001",
        }  # fmt: skip
        with running(self.folder / "aboard" / "data", FAULTY, **settings) as served:
            shipped = self._mapped(served)
            self._signed(served, station, new)
            self._pushed(served, station, new)
            self._shadowed(served, shipped)
            self._flown(served)
            self._refused(served, station, new)
            self._left(served, station, new)
        assert kinds(served).count("model-rolled-back") == 1
        assert kinds(served).count("list-refused") == 2
        return self.steps

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[Step]:
        step, begin = Step(name), time.monotonic()
        yield step
        step.seconds = time.monotonic() - begin
        self.steps.append(step)
        print(line_of(step), flush=True)

    def _trained(self) -> Path:
        config, run = self.folder / "roads.yaml", self.folder / "run"
        config.write_text(yaml.safe_dump(TRAINING))
        with self._step("trainer finetune --encoder") as step:
            command = ("finetune", "--config", config, "--encoder", ENCODER, "--run", run)
            code, said = _quietly(trainer_cli.main, *command)
            assert code == 0, said
            step.note = f"{TRAINING['max_steps']} steps on massachusetts-roads"
        with self._step("trainer export --head-of") as step:
            export = ("export", "--run", run, "--head-of", MODEL, "--head", HEAD, "--version", NEW, "--prior", "0")
            code, said = _quietly(trainer_cli.main, *export, "--out", self.folder / "new")
            assert code == 0, said
            new = self.folder / "new" / MODEL.name
            same = (new / "encoder.onnx").read_bytes() == (MODEL / "encoder.onnx").read_bytes()
            assert same, "the encoder changed"
            files = [path for path in new.iterdir() if path.name.startswith((HEAD, "manifest"))]
            step.note = ", ".join(f"{path.name} {size(path.stat().st_size)}" for path in sorted(files))
        return new

    def _signed(self, served: Served, station: Station, new: Path) -> None:
        keys = station.keys / "private"
        with self._step("ground model sign, by two keys") as step:
            assert station.sign(new, "--key", str(keys / "models-1.pem")) == 0
            few = (station.keys / LIST_FILE).read_bytes()
            status, text = put_list(served, few)
            assert (status, "1 of the 2 keys" in text) == (422, True), text
            assert _quietly(ground_cli.main, *_push(station, new, served.url))[0] == 2
            assert station.sign(new, "--key", str(keys / "models-2.pem")) == 0
            step.note = "by one key too few: 422"
        self._mapped(served)

    def _pushed(self, served: Served, station: Station, new: Path) -> None:
        with self._step("ground model push, three cut passes and one more") as step:
            passes, held = 0, 0
            with cutting_link(served.url, seed=3, reach_up=60_000) as link:
                for _ in range(40):
                    code, _ = _quietly(ground_cli.main, *_push(station, new, link.url, "--bytes", "30k"))
                    assert code in (3, 4), code
                    now = _held(served)
                    passes, held = passes + (now > held), now
                    if passes == 3:
                        break
                assert passes == 3
                assert models_of(served)[NEW]["state"] == "receiving"
                code, _ = _quietly(ground_cli.main, *_push(station, new, link.url, "--base", str(MODEL)))
                assert code in (0, 3, 4), code
                while models_of(served)[NEW]["state"] == "receiving":
                    _quietly(ground_cli.main, *_push(station, new, link.url, "--base", str(MODEL)))
                assert link.cut_up > 0
                step.wire = link.sent_up
            step.up = _new_bytes(unit_of(new), unit_of(MODEL)) + (station.keys / LIST_FILE).stat().st_size
            step.note = f"{link.cut_up} connections cut"
        with self._step("verification aboard, in its own process") as step:
            step.note = wait_for_state(served, NEW, "verified")["reason"]

    def _shadowed(self, served: Served, shipped: str) -> None:
        with self._step("shadow, two scenes") as step:
            for _ in range(2):
                assert self._mapped(served) == shipped
            until(lambda: _shadow_of(served).get("scenes") == 2, "never shadowed")
            figures = _shadow_of(served)
            assert figures["heads"]["landcover"]["agreement"] == 1.0
            assert list(figures["new_heads"]) == [HEAD]
            step.note = f"landcover agrees on {figures['heads']['landcover']['agreement']:.0%}, {HEAD} is new"

    def _flown(self, served: Served) -> None:
        with self._step("activation, and a scene mapped by both heads") as step:
            activate(served, NEW)
            assert self._mapped(served, heads=BOTH) == NEW
        with self._step("ground pull") as step:
            dest = self.folder / "maps"
            assert _quietly(ground_cli.main, "pull", served.url, "--dest", dest)[0] == 0
            (path,) = dest.rglob(f"{HEAD}.tif")
            for file in ("map.tif", f"{HEAD}.tif"):
                with rasterio.open(path.parent / file) as source:
                    assert set(np.unique(source.read(1))) - {0}
            assert (path.parent / f"{HEAD}-quicklook.webp").is_file()
            names = ("map.tif", f"{HEAD}.tif", f"{HEAD}-quicklook.webp")
            step.note = ", ".join(f"{name} {size((path.parent / name).stat().st_size)}" for name in names)

    def _refused(self, served: Served, station: Station, new: Path) -> None:
        old = (station.keys / LIST_FILE).read_bytes()
        with self._step("refused: a damaged head, an old list, a head that ends its probe") as step:
            other = self._changed(new, DYING_PROBE, "probe dies")
            _forged(other)
            damaged = _flipped(other / f"{HEAD}.onnx")
            assert station.sign(other) == 0
            assert put_list(served, (station.keys / LIST_FILE).read_bytes())[0] == 200
            digest = unit_of(other).files[f"{HEAD}.onnx"].sha256
            with served.client() as client:
                answer = client.put(f"/models/files/{digest}", content=damaged)
            assert (answer.status_code, "it was erased, send it again" in answer.text) == (400, True), answer.text
            self._mapped(served, heads=BOTH)
            status, text = put_list(served, old)
            assert (status, "versions never fall" in text) == (422, True), text
            _, said = _quietly(ground_cli.main, *_push(station, other, served.url))
            assert "died (signal 9)" in wait_for_state(served, DYING_PROBE, "refused")["reason"], said
            assert self._mapped(served, heads=BOTH) == NEW
            step.note = "400, 422, refused"

    def _left(self, served: Served, station: Station, new: Path) -> None:
        with self._step("left: a head that ends the worker") as step:
            bad = self._changed(new, DYING_WORKER, "worker dies")
            assert station.sign(bad) == 0
            _quietly(ground_cli.main, *_push(station, bad, served.url))
            wait_for_state(served, DYING_WORKER, "verified")
            activate(served, DYING_WORKER)
            assert self._mapped(served, heads=BOTH) == NEW
            states = {version: model["state"] for version, model in models_of(served).items()}
            assert (states[NEW], states[DYING_WORKER]) == ("active", "retired"), states
            step.note = models_of(served)[DYING_WORKER]["reason"]

    def _changed(self, new: Path, version: str, harm: str) -> Path:
        """The same model of another version, one of whose heads does harm."""
        folder = self.folder / version / new.name
        shutil.copytree(new, folder)
        facts = json.loads((folder / "manifest.json").read_text())
        facts["version"] = version
        facts["heads"][-1]["description"] = harm
        (folder / "manifest.json").write_text(json.dumps(facts))
        return folder

    def _mapped(self, served: Served, **query: str) -> str:
        """Version of the model that maps a new scene: a part of Tokyo."""
        self.scenes += 1
        path = self.folder / f"scene-{self.scenes}.tif"
        source_path = sorted(self.imagery.glob("*.tif"))[self.scenes % 20]
        with rasterio.open(source_path) as source:
            window = Window(0, 0, 640, 640)
            profile = source.profile | {"width": 640, "height": 640, "transform": source.window_transform(window)}
            with rasterio.open(path, "w", **profile) as target:
                target.write(source.read(window=window))
        scene = served.post(path, **query)["id"]
        served.wait_for(scene, "mapped")
        with served.ledger() as ledger:
            row = ledger.maps.get(scene)
        assert row is not None
        return str(row.item["properties"]["onboard:model"]["version"])


def put_list(served: Served, raw: bytes) -> tuple[int, str]:
    """Status and text of the answer."""
    with served.client() as client:
        answer = client.put("/models/metadata/list", content=raw)
    return answer.status_code, answer.text


def _push(station: Station, folder: Path, url: str, *options: str) -> list[str]:
    return ["model", "push", str(folder), url, "--keys", str(station.keys), *options]


def _quietly(main: Any, *arguments: object) -> tuple[int, str]:
    """Exit code of a command, and what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([str(argument) for argument in arguments])
    return int(code or 0), out.getvalue()


def _held(served: Served) -> int:
    model = models_of(served).get(NEW)
    return sum(file["held"] + sum(file["differences"].values()) for file in model["files"]) if model else 0


def _new_bytes(unit: Unit, before: Unit) -> int:
    """Of files that the model before has not."""
    aboard = {file.sha256 for file in before.files.values()}
    return sum(file.bytes for file in unit.files.values() if file.sha256 not in aboard)


def _shadow_of(served: Served) -> dict[str, Any]:
    figures: dict[str, Any] = models_of(served)[NEW]["figures"].get("shadow", {})
    return figures


def _flipped(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    return bytes(content)


def _forged(folder: Path) -> None:
    """Another head file, so that it is not aboard yet: one more byte of a field that ONNX passes over."""
    import onnx

    from engines.manifest import ModelFile

    path = folder / f"{HEAD}.onnx"
    graph = onnx.load(path)
    graph.doc_string = "another file"
    onnx.save(graph, path)
    facts = json.loads((folder / "manifest.json").read_text())
    facts["heads"][-1]["model"] = ModelFile.of(path).model_dump(mode="json")
    (folder / "manifest.json").write_text(json.dumps(facts))


def line_of(step: Step) -> str:
    """A step for people."""
    sent = f"; {step.up:,} bytes new, {step.wire:,} up the link" if step.up else ""
    minutes = f", {step.wire * 8 / LINK_BIT_PER_S / 60:.1f} min at {LINK_BIT_PER_S / 1000:g} kbit/s" if step.up else ""
    return f"{step.seconds:7.1f} s  {step.name}: {step.note}{sent}{minutes}"


def main() -> None:
    """The story, in a temporary folder, or in one that stays."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="that stays; a training that ended in it is not done again")
    options = parser.parse_args()
    shared = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data"))
    imagery = shared / "openearthmap_tokyo" / "images"
    if not imagery.is_dir():
        sys.exit(f"real_story: the imagery is not at hand: {imagery} (set SHARED_DATA)")
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        folder.mkdir(parents=True, exist_ok=True)
        steps = Story(folder, imagery).run()
    print(f"{sum(step.seconds for step in steps):7.1f} s  in all")


if __name__ == "__main__":
    main()
