"""After a power cut at any moment: the accepted is there, the listed is whole, the acknowledged is on the ground."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onboard.jobs.ledger import Ledger
from onboard.jobs.reconcile import open_ledger, reconcile
from onboard.mapping.journal import HeadRecord, _records
from onboard.settings import read_settings
from tests.onboard.powercut import STRACE, Call, Disk, calls_of
from tests.onboard.service import ROOT, running, write_scene

CUTS = int(os.environ.get("POWER_CUTS", "150"))
SIDE = 330  # more than one read of the socket brings


@dataclass(frozen=True)
class Recording:
    """A run under strace.

    Attributes:
        scenes: digest of each scene's file.
        maps: of each scene, the digest of each of its map's rasters by file name.
        heads: that map them; none of a model of one graph.
    """

    root: Path
    calls: list[Call]
    scenes: dict[str, str]
    maps: dict[str, dict[str, str]]
    heads: tuple[str, ...] = ()

    @property
    def rasters(self) -> dict[str, str]:
        """Of each raster on the canvas, the map's file that is made of it."""
        return {"classes.raw": "map.tif", **{f"{name}.classes.raw": f"{name}.tif" for name in self.heads[1:]}}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory, ())


@pytest.fixture(scope="module")
def of_two_heads(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory, ("bands", "light"))


def record(tmp_path_factory: pytest.TempPathFactory, heads: tuple[str, ...]) -> Recording:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("powercut")
    root, trace = folder / "root", folder / "trace"
    (root / "told").mkdir(parents=True)
    scenes = [write_scene(folder / f"scene{n}.tif", SIDE, seed=n) for n in range(2)]
    done = subprocess.run(
        [*STRACE, "-o", str(trace), sys.executable, "-m", "tests.onboard.powercut_scenario", str(root),
         ",".join(heads), *map(str, scenes)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if "Operation not permitted" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    folders = [path.parent for path in (root / "dest").glob("*/map.tif")]
    digests = {folder.name: {path.name: _digest(path) for path in folder.glob("*.tif")} for folder in folders}
    ids = {path.name.split()[1]: _digest(folder / f"{path.name.split()[2]}.tif") for path in (root / "told").iterdir()}
    assert len(digests) == len(ids) == 2
    recording = Recording(root, list(calls_of(trace)), ids, digests, heads)
    assert all(set(rasters) == set(recording.rasters.values()) for rasters in digests.values())
    return recording


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def begun(recording: Recording, ignored: Callable[[str], bool] = lambda _: False) -> Disk:
    disk = Disk(recording.root, ignored)
    disk.play(Call("", "mkdir", [f'"{recording.root}/told"'], 0))
    disk.top.sync()
    return disk


def broken_promise(recording: Recording, found: Path, accepted: set[str]) -> str | None:
    """What is wrong with a folder as the cut left it; None where every promise is kept."""
    settings = read_settings(data_dir=found / "data", model=None)
    with open_ledger(settings) as ledger:
        delivered = {row.id for row in ledger.maps.page() if row.delivered is not None}
        wrong = _torn_canvas(recording, settings.canvases_dir)
        reconcile(settings, ledger)
        for scene in accepted:
            wrong = wrong or _lost_scene(recording, ledger, settings.scenes_dir, scene)
        for row in ledger.maps.page():
            if not set(recording.rasters.values()) <= set(row.assets):
                wrong = wrong or f"{row.id} is listed with {sorted(row.assets)} alone"
            for name, facts in row.assets.items():
                path = settings.maps_dir / row.id / name
                if not path.is_file() or _digest(path) != facts["sha256"]:
                    wrong = wrong or f"{row.id}/{name} is listed and not whole"
    for path in (found / "dest").glob("*/*.tif"):
        if _digest(path) != recording.maps[path.parent.name][path.name]:
            wrong = wrong or f"{path.parent.name}/{path.name} has wrong bytes under its name on the ground"
    for name in delivered:
        for file in recording.rasters.values():
            if not (found / "dest" / name / file).is_file():
                wrong = wrong or f"{name} is acknowledged and its {file} not on the ground"
    return wrong


def _lost_scene(recording: Recording, ledger: Ledger, scenes: Path, scene: str) -> str | None:
    row = ledger.scenes.get(scene)
    if row is None:
        return f"{scene} was accepted and is not in the ledger"
    if row.state == "mapped":
        return None if ledger.maps.get(scene) is not None else f"{scene} is mapped and has no map"
    file = scenes / scene / "scene.tif"
    if row.state != "queued" or not file.is_file():
        return f"{scene} was accepted and is {row.state}: {row.problem}"
    return None if _digest(file) == recording.scenes[scene] else f"the file of {scene} is torn"


def _torn_canvas(recording: Recording, canvases: Path) -> str | None:
    """A journal may name only tiles whose pixels are there: they must be those of the finished map."""
    for journal in canvases.glob("*/canvas/journal"):
        scene = journal.parents[1].name
        words = 2 + len(recording.rasters) * len(HeadRecord._fields)
        groups = [np.frombuffer(payload, "<u4")[::words] for payload, _ in list(_records(journal))[1:]]
        tiles = [index for group in groups for index in group]
        for raster, file in recording.rasters.items() if tiles else ():
            raw = journal.with_name(raster)
            if not raw.is_file() or raw.stat().st_size != SIDE * SIDE:
                return f"the journal of {scene} names tiles of a raster that is not there: {raster}"
            if not _cores_agree(recording.root / "dest" / scene / file, raw, tiles):
                return f"the journal of {scene} names tiles whose pixels are not in {raster}"
    return None


def _cores_agree(map_path: Path, raw: Path, tiles: list[int]) -> bool:
    import rasterio

    from onboard.scene.grid import Grid

    with rasterio.open(map_path) as file:
        expected = file.read(1)
    found = np.frombuffer(raw.read_bytes(), np.uint8).reshape(SIDE, SIDE)
    grid = Grid(SIDE, SIDE, tile_size=32, halo=4)
    cores = [grid[int(index)].core for index in tiles]
    return all(np.array_equal(found[core.rows, core.cols], expected[core.rows, core.cols]) for core in cores)


def cuts(
    recording: Recording, folder: Path, count: int, ignored: Callable[[str], bool] = lambda _: False, seed: int = 0
) -> list[str]:
    """Cuts the power at so many moments; gives the promises that were broken."""
    chance = random.Random(seed)
    interesting = [n for n, call in enumerate(recording.calls) if str(recording.root) in "".join(call.arguments)]
    moments = sorted(chance.choices(interesting, k=count))
    disk, broken, accepted = begun(recording, ignored), [], set[str]()
    at = 0
    for number, moment in enumerate(moments):
        for call in recording.calls[at : moment + 1]:
            disk.play(call)
            told = re.search(r"/told/accepted (\S+) ", call.arguments[0]) if call.name == "mkdir" else None
            if told:
                accepted.add(told[1])
        at = max(at, moment + 1)
        found = folder / f"cut-{number}"
        disk.cut(found, seed=number)
        wrong = broken_promise(recording, found, accepted)
        if wrong:
            broken.append(wrong)
        shutil.rmtree(found)
    return broken


def test_no_power_cut_breaks_a_promise(recording: Recording, tmp_path: Path) -> None:
    assert cuts(recording, tmp_path, CUTS) == []


def test_no_power_cut_breaks_a_promise_of_maps_of_two_heads(of_two_heads: Recording, tmp_path: Path) -> None:
    assert cuts(of_two_heads, tmp_path, CUTS // 2) == []


# Not among them: the ledger's own. What it forgets is taken up again from the folders.
NEEDED = {
    "the scene's bytes": r"data/scenes/\.incoming/\w+\.part",
    "the scene's folder": r"data/scenes/\.incoming/[0-9a-f]{32}",
    "the name of the scene's folder": r"data/scenes",
    "the canvas's pixels": r"data/canvases/.*/classes\.raw",
    "the map's bytes": r"data/canvases/.*/product/map\.tif",
    "the map's folder": r"data/canvases/.*/product",
    "the map's bytes on the ground": r"dest/.*/map\.tif\..*\.part",
    "the map's name on the ground": r"dest/[^/.]+",
}


@pytest.mark.parametrize("what", NEEDED)
def test_without_an_fsync_that_is_needed_a_promise_is_broken(recording: Recording, tmp_path: Path, what: str) -> None:
    pattern = re.compile(NEEDED[what])
    assert cuts(recording, tmp_path, 150, lambda path: pattern.fullmatch(path) is not None), what


NEEDED_OF_HEADS = {
    "the second head's pixels": r"data/canvases/.*/light\.classes\.raw",
    "the second head's map": r"data/canvases/.*/product/light\.tif",
    "the second head's map on the ground": r"dest/.*/light\.tif\..*\.part",
}


@pytest.mark.parametrize("what", NEEDED_OF_HEADS)
def test_without_an_fsync_of_a_second_head_a_promise_is_broken(
    of_two_heads: Recording, tmp_path: Path, what: str
) -> None:
    pattern = re.compile(NEEDED_OF_HEADS[what])
    assert cuts(of_two_heads, tmp_path, 100, lambda path: pattern.fullmatch(path) is not None), what


@pytest.mark.parametrize("which", ["recording", "of_two_heads"])
def test_a_service_started_after_a_cut_ends_with_the_same_maps(
    request: pytest.FixtureRequest, tmp_path: Path, which: str
) -> None:
    recording: Recording = request.getfixturevalue(which)
    told = [n for n, call in enumerate(recording.calls) if call.name == "mkdir" and "/told/acc" in call.arguments[0]]
    for number, moment in enumerate((told[1] + 1, (told[1] + len(recording.calls)) // 2)):
        disk = begun(recording)
        for call in recording.calls[:moment]:
            disk.play(call)
        folder = tmp_path / str(number)
        disk.cut(folder, seed=2)
        shutil.rmtree(folder / "model", ignore_errors=True)  # the test's own, never synced
        shutil.copytree(recording.root / "model", folder / "model")
        with running(folder / "data") as served:
            for scene, digests in recording.maps.items():
                served.wait_for(scene, "mapped")
                for name, digest in digests.items():
                    assert _digest(folder / "data" / "maps" / scene / name) == digest, name
