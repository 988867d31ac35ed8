"""One scene over a real Dask cluster on loopback: scheduler and workers are processes, and one is killed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InferenceFailed
from engines.testing import IdentityEngine
from onboard import cli
from onboard.errors import OptionsRefused, SceneRefused, StorageError
from onboard.mapping.canvas import Canvas
from onboard.mapping.dask_executor import PART_TILES, Part, _mapped, dask_executor, parts_of
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.reader import Scene, SceneOptions
from tests.onboard.mapping.counted import noted, open_counted
from tests.onboard.service import until, write_scene
from tests.tiny_model import write_model

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@dataclass
class Cluster:
    """Scheduler and workers of one test."""

    folder: Path
    address: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.folder / "cluster.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def work(self, *resources: str) -> subprocess.Popen[bytes]:
        worker = self.start(
            "worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0",
            "--local-directory", str(self.folder / "scratch"), *resources,
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def notes(self, kind: str) -> dict[int, int]:
        """By process."""
        found = {int(path.name.split("-")[1]): path.stat().st_size for path in self.folder.glob(f"{kind}-*")}
        return dict(sorted(found.items()))


def scheduler_address(file: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(file.read_text())["address"])
    return None


@contextlib.contextmanager
def cluster(
    folder: Path, workers: int, resources: tuple[str, ...] = ("--resources", "accelerator=1")
) -> Iterator[Cluster]:
    from distributed import Client

    made = Cluster(folder)
    file = folder / "scheduler.json"
    made.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    try:
        made.address = until(lambda: scheduler_address(file), "no scheduler")
        for _ in range(workers):
            made.work(*resources)
        with Client(made.address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield made
    finally:
        for process in made.processes[::-1]:
            process.kill()
            process.wait(30)


def test_a_map_by_two_workers_is_the_map_by_one_machine(tmp_path: Path) -> None:
    scene, model = write_scene(tmp_path / "scene.tif"), write_model(tmp_path / "model")
    common = ["--model", str(model), "--backend", "onnxruntime", "--confidence", "--batch", "3", "--quiet"]
    assert cli.main(["process", str(scene), *common, "--out", str(tmp_path / "alone")]) == 0
    with cluster(tmp_path, 2) as made:
        there = ["--scheduler", made.address, *common]
        assert cli.main(["process", str(scene), *there, "--out", str(tmp_path / "cluster")]) == 0
        several = [str(scene), str(write_scene(tmp_path / "b.tif", 90, seed=3)), str(tmp_path / "none.tif")]
        assert cli.main(["batch", *several, *there, "--out", str(tmp_path / "many")]) == 2
    for name in ("map.tif", "confidence.tif"):
        alone = (tmp_path / "alone" / "scene" / name).read_bytes()
        assert (tmp_path / "cluster" / "scene" / name).read_bytes() == alone
        assert (tmp_path / "many" / "scene" / name).read_bytes() == alone
    items = [json.loads((tmp_path / out / "scene" / "map.json").read_text()) for out in ("alone", "cluster")]
    assert items[0]["properties"]["onboard:mean_confidence"] == items[1]["properties"]["onboard:mean_confidence"]
    assert (tmp_path / "many" / "b" / "map.json").exists()


def test_a_killed_worker_costs_its_part_and_engines_open_once(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    opener = partial(open_counted, tmp_path, 0.01)
    alone = map_scene(MapRequest(scene, tmp_path / "alone"), IdentityEngine(32, halo=4))
    with cluster(tmp_path, 2) as made, dask_executor(made.address, opener) as executor:
        until(lambda: made.notes("openings"), "no engine")

        def kill_one(done: int, tiles: int) -> None:
            if tiles / 3 < done and all(worker.poll() is None for worker in made.workers):
                made.workers[0].send_signal(signal.SIGKILL)
                made.workers[0].wait(30)

        summary = map_scene(MapRequest(scene, tmp_path / "maps"), executor, kill_one)
        assert made.workers[0].poll() == -signal.SIGKILL
    assert summary.map_path.read_bytes() == alone.map_path.read_bytes()
    inferred = made.notes("tiles")
    assert set(made.notes("openings").values()) == {1}
    assert len(inferred) == 2, "both worked"
    # A part under way, and one whose end had not yet been heard of.
    assert summary.tiles <= sum(inferred.values()) <= summary.tiles + 2 * PART_TILES


def test_what_a_broken_off_run_finished_is_kept(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    request = MapRequest(scene, tmp_path / "maps")

    def break_off(done: int, tiles: int) -> None:
        if done > tiles / 2:
            raise KeyboardInterrupt

    with cluster(tmp_path, 1) as made, dask_executor(made.address, partial(open_counted, tmp_path)) as executor:
        with pytest.raises(KeyboardInterrupt):
            map_scene(request, executor, break_off)
        summary = map_scene(request, executor)
    assert summary.tiles / 2 < summary.tiles_resumed < summary.tiles
    alone = map_scene(MapRequest(scene, tmp_path / "alone"), IdentityEngine(32, halo=4))
    assert summary.map_path.read_bytes() == alone.map_path.read_bytes()


def test_workers_must_say_that_they_can_infer(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, 1, resources=()) as made,
        pytest.raises(OptionsRefused, match="none of the cluster's 1 workers has the resource accelerator"),
        dask_executor(made.address, partial(open_counted, tmp_path)),
    ):
        pass


def test_errors_of_workers_arrive_as_they_were(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    spoilt = bytearray(scene.read_bytes())
    spoilt[len(spoilt) // 2 : len(spoilt) // 2 + 4000] = bytes(4000)
    (tmp_path / "bad.tif").write_bytes(spoilt)
    with cluster(tmp_path, 1) as made:
        with dask_executor(made.address, partial(open_counted, tmp_path)) as executor:
            with pytest.raises(SceneRefused, match=r"bad\.tif"):
                map_scene(MapRequest(tmp_path / "bad.tif", tmp_path / "maps"), executor)
            assert map_scene(MapRequest(scene, tmp_path / "maps"), executor).tiles == 169
        refused = cli.main(["process", str(scene), "--model", "nosuch", "--scheduler", made.address])
    assert refused == 2


def test_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    assert cli.main(["process", str(scene), "--scheduler", "nonsense://127.0.0.1:1"]) == 2
    assert "no Dask scheduler answers at nonsense://127.0.0.1:1" in capsys.readouterr().err


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Part]:
    path = write_scene(tmp_path / "scene.tif")
    identity = {"what": "this work"}
    with Scene.open(path, SceneOptions()) as scene, Canvas(tmp_path / "canvas", identity, width=300, height=300):
        yield Part(
            partial(open_counted, tmp_path), open_counted(tmp_path).digest, path, scene.options, scene.decisions,
            (300, 300), (32, 32), 4, 1, 60.0, tmp_path / "canvas", identity, False, {}, (),
        )  # fmt: skip


def test_a_worker_writes_only_onto_the_canvas_it_was_sent_to(part: Part, tmp_path: Path) -> None:
    assert _mapped(part, (0, 1)).failure is None
    for wrong in (replace(part, identity={"what": "other work"}), replace(part, canvas=tmp_path / "elsewhere")):
        failure = _mapped(wrong, (0, 1)).failure
        assert isinstance(failure, StorageError)
        assert "put --out on storage that all workers see" in str(failure)


def test_a_worker_with_another_engine_refuses(part: Part) -> None:
    failure = _mapped(replace(part, engine="sha256:another"), (0, 1)).failure
    assert isinstance(failure, OptionsRefused)
    assert "give all workers the same version, model and backend" in str(failure)


@pytest.mark.parametrize(
    "error",
    [
        SceneRefused(Path("a.tif"), "is damaged", "deliver it again"), OptionsRefused("this", "that"),
        StorageError(Path("b"), "full", "make room"), InferenceFailed("cuda", "out of memory", retryable=True),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_our_errors_are_pickled_whole(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


@given(tiles=st.integers(1, 400), batch=st.integers(1, 8), workers=st.integers(1, 9), seed=st.randoms())
def test_parts_are_whole_batches_and_leave_nothing_out(tiles: int, batch: int, workers: int, seed: object) -> None:
    done = frozenset(seed.sample(range(tiles), seed.randint(0, tiles)))  # type: ignore[attr-defined]
    parts = parts_of(tiles, done, batch=batch, workers=workers)
    named = [tile for part in parts for tile in part]
    assert len(named) == len(set(named))
    assert set(named) >= set(range(tiles)) - done
    whole = {first: tuple(range(first, min(first + batch, tiles))) for first in range(0, tiles, batch)}
    for part in parts:
        assert len(part) <= max(PART_TILES, batch)
        firsts = [tile for tile in part if tile % batch == 0]
        assert part == tuple(tile for first in firsts for tile in whole[first])
        assert all(not done.issuperset(whole[first]) for first in firsts)


def test_notes_are_counted(tmp_path: Path) -> None:
    open_counted(tmp_path)
    assert noted(tmp_path, f"openings-{os.getpid()}") == 1
