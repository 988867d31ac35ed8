"""Deliveries and cancellations of the same bytes at the same time: what was accepted has its file, or its map."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from onboard.jobs.erase import erase_map, erase_scene, erase_scene_file
from onboard.jobs.highwater import HighWaterMark, Note, read_mark
from onboard.jobs.intake import Accepted, Delivery, IncomingFile, accept
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.reconcile import open_ledger, reconcile
from onboard.jobs.scene_states import RETRYABLE_STATES
from onboard.scene.probe import Probes
from onboard.settings import Settings, read_settings
from tests.onboard.service import running, until, write_scene
from tests.tiny_model import write_model

TIFF = {"Content-Type": "image/tiff"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings(data_dir=tmp_path / "data", model=str(write_model(tmp_path / "model")), disk_reserve_bytes=0)


@pytest.fixture
def probes() -> Iterator[Probes]:
    with Probes() as probes:
        yield probes


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
        yield ledger


@pytest.fixture
def deliver(settings: Settings, ledger: Ledger, probes: Probes, tmp_path: Path) -> Callable[[], Accepted]:
    """Delivers one scene, over and over."""
    content, kind = write_scene(tmp_path / "scene.tif", 40).read_bytes(), MappingConfig.of(settings)

    def delivered() -> Accepted:
        file = IncomingFile(settings, len(content))
        file.write(content)
        file.finish()
        return accept(settings, ledger, kind, probes, file, Delivery("a scene"))

    return delivered


def has_file(settings: Settings, scene_id: str) -> bool:
    return (settings.scenes_dir / scene_id / "scene.tif").is_file()


def published(settings: Settings, ledger: Ledger, scene_id: str) -> MapRow:
    (settings.maps_dir / scene_id).mkdir()
    (settings.maps_dir / scene_id / "map.tif").write_bytes(b"a map")
    ledger.maps.adopt(MapRow(scene_id, 0, "routine", {"map.tif": {"bytes": 5, "sha256": "0" * 64}}, {}), {})
    row = ledger.maps.get(scene_id)
    assert row is not None
    return row


def test_a_scene_delivered_between_its_cancellation_and_the_erasing_keeps_its_file(
    settings: Settings, ledger: Ledger, deliver: Callable[[], Accepted]
) -> None:
    scene = deliver().row.id
    ledger.scenes.cancel(scene)
    again = deliver()
    assert (again.row.id, again.row.state, again.is_new) == (scene, "queued", True)
    erase_scene(settings, ledger, scene)
    assert has_file(settings, scene)


def test_a_scene_delivered_again_outlives_a_ledger_that_falls_back_although_the_first_answer_was_lost(
    settings: Settings, ledger: Ledger, deliver: Callable[[], Accepted], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = deliver().row.id
    ledger.scenes.cancel(scene)
    with monkeypatch.context() as killed:
        killed.setattr(HighWaterMark, "note", lambda *_: None)
        assert deliver().is_new
    assert read_mark(settings.ledger_path).states[scene][1]
    assert not deliver().is_new
    assert not read_mark(settings.ledger_path).states[scene][1]


def test_a_scene_cancelled_and_delivered_again_while_its_map_is_published_keeps_its_file(
    settings: Settings, ledger: Ledger, deliver: Callable[[], Accepted]
) -> None:
    scene = deliver().row.id
    ledger.scenes.start(scene)
    row = MapRow(scene, 0, "routine", {"map.tif": {"bytes": 5, "sha256": "0" * 64}}, {})
    assert ledger.scenes.cancel(scene) == "running"
    assert deliver().is_new
    assert not ledger.maps.finish(row, {})
    assert not ledger.scenes.fail(scene, "it cannot be read", before=("running",))
    assert not ledger.scenes.requeue(scene)
    erase_scene_file(settings, ledger, scene)
    assert (ledger.scenes.state_of(scene), ledger.maps.holds(scene), has_file(settings, scene)) == (
        "queued",
        False,
        True,
    )
    ledger.scenes.start(scene)
    assert ledger.maps.finish(row, {"tiles": 1})
    erase_scene_file(settings, ledger, scene)
    assert (ledger.scenes.state_of(scene), ledger.maps.holds(scene), has_file(settings, scene)) == (
        "mapped",
        True,
        False,
    )


def test_a_delivery_answers_with_the_state_it_made_though_a_cancellation_follows_at_once(
    settings: Settings, ledger: Ledger, deliver: Callable[[], Accepted], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = ledger._database._mark.note

    def cancelled_just_after(entry: Note) -> None:
        note(entry)
        with Ledger(settings.ledger_path) as other:
            for row in other.scenes.page():
                other.scenes.cancel(row.id)

    monkeypatch.setattr(ledger._database._mark, "note", cancelled_just_after)
    for _ in ("new", "again"):
        accepted = deliver()
        assert (accepted.is_new, accepted.row.state) == (True, "queued")
        assert ledger.scenes.state_of(accepted.row.id) == "cancelled"


def test_a_map_made_anew_is_not_erased_in_place_of_the_one_before(
    settings: Settings, ledger: Ledger, deliver: Callable[[], Accepted]
) -> None:
    scene = deliver().row.id
    before = published(settings, ledger, scene)
    ledger.maps.record_receipt(scene)
    ledger.maps.remove(scene)
    after = MapRow(scene, 0, "routine", before.assets, before.item)
    ledger.maps.adopt(after, {})
    assert not erase_map(settings, ledger, before, problem="no room", event=("info", "map-erased", "to make room"))
    assert (settings.maps_dir / scene / "map.tif").is_file()
    assert ledger.maps.holds(scene)


def test_whoever_delivers_while_another_cancels_has_a_scene_with_its_file(
    settings: Settings, probes: Probes, tmp_path: Path, ledger: Ledger
) -> None:
    content, kind = write_scene(tmp_path / "scene.tif", 40).read_bytes(), MappingConfig.of(settings)
    start = threading.Barrier(4)

    def post() -> bool:
        with Ledger(settings.ledger_path) as own:
            file = IncomingFile(settings, len(content))
            file.write(content)
            file.finish()
            start.wait(60)
            row = accept(settings, own, kind, probes, file, Delivery("a scene")).row
            return row.state not in RETRYABLE_STATES

    def cancel() -> bool:
        with Ledger(settings.ledger_path) as own:
            start.wait(60)
            for row in own.scenes.page():
                own.scenes.cancel(row.id)
                erase_scene(settings, own, row.id)
        return True

    with ThreadPoolExecutor(4) as pool:
        for _ in range(15):
            done = [pool.submit(work) for work in (post, cancel, post, cancel)]
            assert all(each.result(120) for each in done)
            (row,) = ledger.scenes.page()
            assert has_file(settings, row.id) == (row.state == "queued")
            assert list((settings.scenes_dir / ".incoming").iterdir()) == []


def test_no_accepted_scene_is_lost_over_http(tmp_path: Path) -> None:
    """The whole service: deliveries and cancellations in the same instant, while the worker is at it."""
    rounds = 10
    paths = [write_scene(tmp_path / f"{n}.tif", 60 + n, seed=n) for n in range(rounds)]
    with running(tmp_path / "data") as served, ThreadPoolExecutor(4) as pool:
        start = threading.Barrier(4)

        def post(content: bytes) -> str:
            with served.client() as client:
                start.wait(60)
                while (answer := client.post("/scenes", content=content, headers=TIFF)).status_code == 429:
                    pass
            assert answer.status_code in (200, 202), answer.text
            assert answer.json()["state"] not in RETRYABLE_STATES
            return str(answer.json()["id"])

        def cancel(scene: str) -> None:
            with served.client() as client:
                start.wait(60)
                assert client.delete(f"/scenes/{scene}").status_code in (202, 204)

        scenes = []
        for path in paths:
            content = path.read_bytes()
            scene = served.post(path)["id"]
            posted = [pool.submit(post, content) for _ in range(2)]
            cancelled = [pool.submit(cancel, scene) for _ in range(2)]
            scenes.append((scene, path))
            assert {each.result(120) for each in posted} == {scene}
            for each in cancelled:
                each.result(120)
        with served.client() as client:
            until(lambda: not _at_work(client), "not at rest", 180)
        with served.ledger() as ledger:
            told = {event.kind for event in ledger.events.page(limit=1000)}
            assert not told & {"scene-failed", "no-storage", "engine-failed", "worker-died", "scene-missing"}
            assert {row.state for row in ledger.scenes.page()} <= {"mapped", "cancelled"}
            for row in ledger.scenes.page():
                is_there = (served.data / "maps" / row.id / "map.tif").is_file()
                assert is_there == ledger.maps.holds(row.id) == (row.state == "mapped")
        for scene, path in scenes:
            assert served.post(path)["id"] == scene
        for scene, _ in scenes:
            served.wait_for(scene, "mapped")


def _at_work(client: httpx.Client) -> bool:
    rows = client.get("/scenes", params={"limit": 1000}).json()["scenes"]
    return any(row["state"] in ("queued", "running") for row in rows)
