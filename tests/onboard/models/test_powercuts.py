"""After a power cut on a model's way up and back: one whole model is active, and what was answered stays."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ground.model.sign import LIST_FILE
from ground.model.unit import unit_of
from onboard.jobs.reconcile import open_ledger
from onboard.models.active import active_model
from onboard.models.checks import check_files
from onboard.models.errors import ModelRefused
from onboard.models.model_files import ModelFiles
from onboard.models.reconcile import reconcile_models
from onboard.settings import Settings
from tests.onboard.models.powercut_scenario import settings_of
from tests.onboard.models.satellite import Station
from tests.onboard.models.test_delivery import KINDS
from tests.onboard.models.test_kills import fly
from tests.onboard.powercut import STRACE, Call, Disk, calls_of
from tests.onboard.service import ROOT

CUTS = int(os.environ.get("POWER_CUTS", "100"))
TOLD = re.compile("/told/(activated|fails|left)")


@dataclass(frozen=True)
class Recording:
    """A model's whole way up, and back, under strace.

    Attributes:
        model: folder of the shipped model; unit: of the one that comes up.
    """

    root: Path
    ground: Path
    model: Path
    unit: Path
    calls: list[Call]

    def settings(self, data: Path) -> Settings:
        return settings_of(data, self.ground, self.model)


@pytest.fixture(scope="module", params=list(KINDS))
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("powercut")
    root, trace = folder / "root", folder / "trace"
    (root / "told").mkdir(parents=True)
    station = Station(folder / "ground")
    station.make_keys()
    unit = KINDS[request.param].changed(station, "2.0")
    model = KINDS[request.param].write(folder / "model")
    done = subprocess.run(
        [*STRACE, "-o", str(trace), sys.executable, "-m", "tests.onboard.models.powercut_scenario", str(root),
         str(station.folder), str(model), str(unit)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if "Operation not permitted" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    return Recording(root, station.folder, model, unit, list(calls_of(trace)))


def broken_promise(recording: Recording, data: Path, told: str) -> str | None:
    """What is wrong after the next start; None where every promise is kept.

    Args:
        told: the last of what was noted: "activated", "fails", "left"; empty before.
    """
    settings = recording.settings(data)
    with open_ledger(settings) as ledger:
        reconcile_models(settings, ledger)
        active = ledger.models.in_state("active")
        if len(active) != 1:
            return f"{len(active)} models are active"
        try:
            folder = active_model(settings, ledger).folder
            if folder is not None:
                check_files(folder, active[0].files)
            for unit in ModelFiles(settings.models_dir, 0).folders() if settings.models_dir.is_dir() else ():
                row = ledger.models.get(unit.name)
                if row is None:
                    return "a model's folder stands that nobody knows"
                check_files(unit, row.files)
        except ModelRefused as error:
            return f"half a model stands: {error}"
        if told == "activated" and active[0].version != "2.0":
            return "its activation was answered, and is forgotten"
        if told == "left" and active[0].version != "1.0":
            return "it was left, and is active again"
    return None


def cuts(
    recording: Recording, folder: Path, count: int, ignored: Callable[[str], bool] = lambda _: False, *, go_on: int = 0,
    way_back: bool = True,
) -> list[str]:  # fmt: skip
    """Cuts the power at so many moments; gives the promises that were broken. Some go on afterwards, to the end.

    Without ``way_back`` it is cut in the last quarter of the way up alone, where a model is put together and activated.
    """
    chance = random.Random(5)
    calls = recording.calls
    if not way_back:
        last = next(n for n, call in enumerate(calls) if call.name == "mkdir" and "/told/fails" in call.arguments[0])
        calls = calls[:last]
    interesting = [n for n, call in enumerate(calls) if str(recording.root) in "".join(call.arguments)]
    interesting = interesting if way_back else interesting[-len(interesting) // 4 :]
    moments = sorted(chance.choices(interesting, k=count))
    disk = Disk(recording.root, ignored)
    disk.play(Call("", "mkdir", [f'"{recording.root}/told"'], 0))
    disk.top.sync()
    broken, at, told = [], 0, ""
    for number, moment in enumerate(moments):
        for call in calls[at : moment + 1]:
            disk.play(call)
            note = TOLD.search(call.arguments[0]) if call.name == "mkdir" else None
            told = note[1] if note else told
        at = max(at, moment + 1)
        found = folder / f"cut-{number}"
        disk.cut(found, seed=number)
        (found / "data").mkdir(exist_ok=True)
        wrong = broken_promise(recording, found / "data", told)
        broken += [wrong] if wrong else []
        if go_on and not number % go_on:
            settings = recording.settings(found / "data")
            unit = unit_of(recording.unit)
            fly(settings, (recording.ground / "keys" / LIST_FILE).read_bytes(), unit)
            wrong = broken_promise(recording, found / "data", "activated")
            broken += [f"after going on: {wrong}"] if wrong else []
        shutil.rmtree(found)
    return broken


def test_no_power_cut_leaves_half_a_model_or_none(recording: Recording, tmp_path: Path) -> None:
    assert cuts(recording, tmp_path, CUTS, go_on=10) == []


NEEDED = {
    "the model's folder": r"data/models/incoming/[0-9a-f]{32}\.new",
    "the name of the model's folder": r"data/models/units",
    "the names of the folders of models": r"data/models|data",
    "the files' bytes": r"data/models/incoming/[0-9a-f]{64}\.(part|copy)",
}


@pytest.mark.parametrize("what", NEEDED)
def test_without_an_fsync_that_is_needed_a_promise_is_broken(recording: Recording, tmp_path: Path, what: str) -> None:
    pattern = re.compile(NEEDED[what])
    assert cuts(recording, tmp_path, 100, lambda path: pattern.fullmatch(path) is not None, way_back=False), what
