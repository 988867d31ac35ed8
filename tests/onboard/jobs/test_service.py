"""The whole service: real processes, a real socket, real SIGKILLs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from engines.open import open_engine
from onboard.jobs.event_log import Event
from onboard.mapping.run import MapRequest, map_scene
from tests.onboard.service import Served, running, until, write_scene
from tests.tiny_model import write_model

FAULTY = "tests.onboard.faulty"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def undisturbed(served: Served, scene: Path, folder: Path) -> str:
    """SHA-256 of the map that the plain command makes of the scene."""
    with open_engine(str(served.data.parent / "model"), backend="onnxruntime", threads=1) as engine:
        return hashlib.sha256(map_scene(MapRequest(scene, folder), engine).map_path.read_bytes()).hexdigest()


def digest_of(served: Served, scene_id: str) -> str:
    return hashlib.sha256((served.data / "maps" / scene_id / "map.tif").read_bytes()).hexdigest()


def same_pixels(served: Served, scene_id: str, reference: Path) -> bool:
    with rasterio.open(served.data / "maps" / scene_id / "map.tif") as ours, rasterio.open(reference) as theirs:
        return bool(np.array_equal(ours.read(1), theirs.read(1)))


def events(served: Served, kind: str) -> list[Event]:
    with served.ledger() as ledger:
        return [event for event in ledger.events.page(limit=1000) if event.kind == kind]


def test_a_scene_goes_in_and_its_map_comes_out(data: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif")
    with running(data) as served:
        posted = served.post(scene, name="one", priority="high", acquired="2026-01-02T03:04:05Z")
        assert (posted["state"], posted["priority"]) == ("queued", "high")
        served.wait_for(posted["id"], "mapped")
        assert digest_of(served, posted["id"]) == undisturbed(served, scene, tmp_path / "plain")
        assert list((data / "scenes").glob("s*")) == []
        with served.client() as client:
            (item,) = client.get("/maps").json()["features"]
            assert item["properties"]["datetime"] == "2026-01-02T03:04:05Z"
            assert item["properties"]["title"] == "Land cover of one"
            again = client.post("/scenes", content=scene.read_bytes(), headers={"Content-Type": "image/tiff"})
            assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, posted["id"], "mapped")


def test_a_worker_killed_again_and_again_gives_the_same_map(data: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=800)
    with running(data, ONBOARD_MAX_CRASHES="1000") as served:
        posted = served.post(scene)
        kills = 0
        while served.wait_for(posted["id"], "queued", "running", "mapped") != "mapped":
            served.kill("worker")
            kills += 1
            until(lambda: "worker" in served.children(), "no new worker")
            _some_progress(served, posted["id"])
        assert kills >= 3
        assert digest_of(served, posted["id"]) == undisturbed(served, scene, tmp_path / "plain")
        assert len(events(served, "worker-died")) == kills


def _some_progress(served: Served, scene_id: str) -> None:
    """Waits until the canvas's journal has grown, or the scene is done."""
    journal = served.data / "canvases" / scene_id / "canvas" / "journal"

    def size() -> int:
        return journal.stat().st_size if journal.exists() else 0

    before = size()

    def is_done() -> bool:
        with served.ledger() as ledger:
            return ledger.scenes.state_of(scene_id) == "mapped"

    until(lambda: size() > before or is_done(), "no progress")


def test_the_api_comes_back_and_the_worker_goes_on_meanwhile(data: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=600)
    with running(data, ONBOARD_PORT=_free_port()) as served:
        posted = served.post(scene)
        served.kill("api")
        served.wait_for(posted["id"], "mapped")
        with served.client() as client:
            until(lambda: _answers(client), "the API did not come back")
            assert client.get(f"/scenes/{posted['id']}").json()["state"] == "mapped"


def _free_port() -> str:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def _answers(client: object) -> bool:
    import httpx

    assert isinstance(client, httpx.Client)
    try:
        return client.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_the_service_and_the_next_one_continues(data: Path, tmp_path: Path, number: int) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=800)
    with running(data) as served:
        posted = served.post(scene)
        served.wait_for(posted["id"], "running")
        children = list(served.children().values())
        served.stop(number)
        until(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in children), "a child lives on")
    with running(data) as again:
        again.wait_for(posted["id"], "mapped")
        assert digest_of(again, posted["id"]) == undisturbed(again, scene, tmp_path / "plain")


def test_an_urgent_scene_overtakes_and_the_other_continues(data: Path, tmp_path: Path) -> None:
    slow, urgent = write_scene(tmp_path / "slow.tif", 400, seed=1), write_scene(tmp_path / "urgent.tif", 60, seed=2)
    with running(data, FAULTY, FAULT="slow:0.01", FAULT_STATE=str(tmp_path / "state")) as served:
        first = served.post(slow)
        served.wait_for(first["id"], "running")
        second = served.post(urgent, priority="urgent")
        served.wait_for(second["id"], "mapped")
        with served.ledger() as ledger:
            assert ledger.scenes.state_of(first["id"]) != "mapped"
        served.wait_for(first["id"], "mapped")
        assert digest_of(served, first["id"]) == undisturbed(served, slow, tmp_path / "plain")
        with served.ledger() as ledger:
            row = ledger.scenes.get(first["id"])
        assert row is not None
        assert row.attempts == 2
        assert row.crashes == 0


def white_scene(path: Path) -> Path:
    """Noise, and one white block that holds a whole tile."""
    write_scene(path, 200, seed=9)
    with rasterio.open(path, "r+") as file:
        pixels = file.read()
        pixels[:, 60:140, 60:140] = 255
        file.write(pixels)
    return path


@pytest.mark.parametrize("fault", ["kills", "raises"])
def test_a_scene_that_kills_the_worker_is_quarantined_and_others_go_on(data: Path, tmp_path: Path, fault: str) -> None:
    scene, good = white_scene(tmp_path / "white.tif"), write_scene(tmp_path / "good.tif", 100, seed=3)
    with running(data, FAULTY, FAULT=fault, FAULT_STATE=str(tmp_path / "state")) as served:
        posted = served.post(scene, priority="urgent")
        other = served.post(good)
        served.wait_for(posted["id"], "quarantined")
        served.wait_for(other["id"], "mapped")
        with served.client() as client:
            told = client.get(f"/scenes/{posted['id']}").json()
        assert told["crashes"] == 3
        assert "the worker crashed on it 3 times" in told["problem"]
        assert not (data / "maps" / posted["id"]).exists()
        assert len(events(served, "worker-died")) == 3


def test_a_scene_that_the_engine_fails_on_is_quarantined_and_others_go_on(data: Path, tmp_path: Path) -> None:
    scene, good = white_scene(tmp_path / "white.tif"), write_scene(tmp_path / "good.tif", 100, seed=3)
    state = tmp_path / "state"
    with running(data, FAULTY, FAULT="fails", FAULT_STATE=str(state)) as served:
        posted = served.post(scene, priority="urgent")
        other = served.post(good)
        served.wait_for(posted["id"], "quarantined")
        served.wait_for(other["id"], "mapped")
        assert len(state.read_bytes()) == 4
        assert not events(served, "worker-died")


@pytest.mark.parametrize("check_minutes", ["10", "0.00001"])
def test_a_worker_that_hangs_is_killed(data: Path, tmp_path: Path, check_minutes: str) -> None:
    """Also right after a check of the engine, which is before each tile here."""
    scene = white_scene(tmp_path / "white.tif")
    settings = {
        "ONBOARD_HEARTBEAT_TIMEOUT_S": "5",
        "ONBOARD_MAX_CRASHES": "1",
        "ONBOARD_ENGINE_CHECK_MINUTES": check_minutes,
    }
    with running(data, FAULTY, FAULT="hangs", FAULT_STATE=str(tmp_path / "state"), **settings) as served:
        posted = served.post(scene)
        served.wait_for(posted["id"], "quarantined")
        assert events(served, "worker-silent")


def test_an_engine_that_opens_for_long_is_waited_for(data: Path, tmp_path: Path) -> None:
    """TensorRT builds for minutes at the first start, and would build for ever if it were killed meanwhile."""
    state = tmp_path / "state"
    settings = {"ONBOARD_HEARTBEAT_TIMEOUT_S": "3", "FAULT": "opens:5", "FAULT_STATE": str(state)}
    with running(data, FAULTY, **settings) as served, served.client() as client:
        until(lambda: client.get("/health/ready").status_code == 200, "never ready")
        assert len(state.read_bytes()) == 1
        assert not events(served, "worker-silent")


def test_an_engine_that_goes_wrong_publishes_nothing_wrong(data: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=200)
    state = tmp_path / "state"
    with running(data, FAULTY, FAULT="wrong:20", FAULT_STATE=str(state)) as served:
        posted = served.post(scene)
        served.wait_for(posted["id"], "mapped")
        assert digest_of(served, posted["id"]) == undisturbed(served, scene, tmp_path / "plain")
        assert len(state.read_bytes()) == 2
        assert events(served, "engine-failed")


def test_scenes_wait_for_an_engine_that_is_lost(data: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=100)
    touched = tmp_path / "touched"
    settings = {"ONBOARD_RECOVERY_COMMAND": f"touch {touched}", "ONBOARD_ENGINE_RETRY_S": "0.5"}
    with running(data, FAULTY, FAULT="lost:5", FAULT_STATE=str(tmp_path / "state"), **settings) as served:
        with served.client() as client:
            posted = served.post(scene)
            until(lambda: client.get("/telemetry").json()["engine"]["state"] == "lost", "never lost")
            ready = client.get("/health/ready")
            assert ready.status_code == 503
            assert "scenes are taken and wait" in ready.text
            served.wait_for(posted["id"], "mapped")
            until(lambda: client.get("/health/ready").status_code == 200, "never ready")
        assert touched.exists()
        assert [event.kind for event in [*events(served, "engine-lost"), *events(served, "recovery")]] == [
            "engine-lost", "recovery",
        ]  # fmt: skip
        assert events(served, "engine-reloaded")


def test_a_cancelled_scene_leaves_nothing(data: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=400)
    with running(data, FAULTY, FAULT="slow:0.02", FAULT_STATE=str(tmp_path / "state")) as served:
        posted, waiting = served.post(scene), served.post(write_scene(tmp_path / "b.tif", 60, seed=5))
        served.wait_for(posted["id"], "running")
        with served.client() as client:
            assert client.delete(f"/scenes/{posted['id']}").status_code == 202
            assert client.delete(f"/scenes/{waiting['id']}").status_code == 204
            until(lambda: client.get("/telemetry").json()["scene"] is None, "still at it")
        left = {path.name for folder in ("scenes", "maps", "canvases") for path in (data / folder).glob("s*")}
        assert left == set()


def test_two_services_never_share_a_folder(data: Path) -> None:
    with running(data) as served:
        second = Served(data, {"ONBOARD_MODEL": str(served.data.parent / "model")})
        with pytest.raises(AssertionError, match="another onboard works in"):
            second.start()
        os.kill(served.children()["worker"], 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing_and_heals(small_disk: Path, tmp_path: Path) -> None:
    data, filler = small_disk / "data", small_disk / "filler"
    scene, other = write_scene(tmp_path / "scene.tif", 300), write_scene(tmp_path / "other.tif", 310, seed=8)
    write_model(small_disk / "model")
    with running(data, FAULTY, FAULT="slow:0.01", FAULT_STATE=str(tmp_path / "state")) as served:
        posted = served.post(scene)
        served.wait_for(posted["id"], "running")
        _fill(filler)
        with served.client() as client:
            refused = client.post("/scenes", content=other.read_bytes(), headers={"Content-Type": "image/tiff"})
            assert (refused.status_code, refused.json()["type"]) == (507, "urn:onboard:problem:no-room")
            waits = "waits for disk space"
            until(lambda: waits in served.log.read_text() or events(served, "no-storage"), "it did not stop")
            assert client.get("/health/live").status_code == 200
        filler.unlink()
        served.wait_for(posted["id"], "mapped")
        assert digest_of(served, posted["id"]) == undisturbed(served, scene, tmp_path / "plain")
        again = served.post(other)
        served.wait_for(again["id"], "mapped")
        with served.ledger() as ledger:
            assert [row.crashes for row in ledger.scenes.page()] == [0, 0]


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
