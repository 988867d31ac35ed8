from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from onboard.api import inbox as inbox_of_api
from onboard.api import serve
from onboard.api.inbox import take_inbox
from onboard.api.pass_log import PassLog
from onboard.api.service import Service
from onboard.downlink.retention import erase_for_room
from onboard.errors import LedgerDamaged, NoRoom, SceneRefused, StorageError
from onboard.jobs.inbox import accept_inbox_file, give_back_claims
from onboard.jobs.intake import Accepted, Delivery, IncomingFile, accept, erase_folder
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.reconcile import open_ledger, reconcile
from onboard.scene.probe import Probes
from onboard.settings import Settings, read_settings
from tests.full_disk import files_of_at_most
from tests.onboard.service import write_scene
from tests.tiny_model import write_model

PROBES = Probes()


@pytest.fixture(scope="module", autouse=True)
def _probes_end() -> Iterator[None]:
    yield
    PROBES.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    model = write_model(tmp_path / "model")
    return read_settings(data_dir=tmp_path / "data", model=str(model), disk_reserve_bytes=0, inbox=tmp_path / "inbox")


@pytest.fixture
def kind(settings: Settings) -> MappingConfig:
    return MappingConfig.of(settings)


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    ledger = open_ledger(settings)
    reconcile(settings, ledger)
    return ledger


def deliver(settings: Settings, ledger: Ledger, kind: MappingConfig, path: Path, **delivery: Any) -> Accepted:
    file = IncomingFile(settings, path.stat().st_size)
    file.write(path.read_bytes())
    file.finish()
    return accept(settings, ledger, kind, PROBES, file, Delivery(**({"name": path.name} | delivery)))


def kinds(ledger: Ledger) -> list[str]:
    return [event.kind for event in ledger.events.page()]


def test_an_accepted_scene_has_a_folder_and_a_row(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=40)
    accepted = deliver(settings, ledger, kind, scene, name="../../etc/passwd", priority="urgent")
    folder = settings.scenes_dir / accepted.row.id
    assert accepted.is_new
    assert (folder / "scene.tif").read_bytes() == scene.read_bytes()
    assert json.loads((folder / "scene.json").read_text())["name"] == "../../etc/passwd"
    assert ledger.scenes.next_queued() == accepted.row
    again = deliver(settings, ledger, kind, scene)
    assert (again.row.id, again.is_new) == (accepted.row.id, False)
    assert list((settings.scenes_dir / ".incoming").iterdir()) == []


def test_a_scene_that_is_over_gets_a_new_attempt(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=40)
    first = deliver(settings, ledger, kind, scene).row
    ledger.scenes.cancel(first.id)
    erase_folder(settings.scenes_dir / first.id, settings.scenes_dir / ".incoming")
    again = deliver(settings, ledger, kind, scene)
    assert (again.row.id, again.is_new, again.row.state) == (first.id, True, "queued")
    assert (settings.scenes_dir / first.id / "scene.tif").is_file()


def test_what_cannot_be_mapped_leaves_nothing(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    (tmp_path / "x.tif").write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(SceneRefused):
        deliver(settings, ledger, kind, tmp_path / "x.tif")
    assert ledger.scenes.page() == []
    assert [path.name for path in settings.scenes_dir.rglob("*")] == [".incoming"]


def test_bytes_delivered_again_take_the_place_of_damaged_ones(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=40)
    first = deliver(settings, ledger, kind, scene).row
    kept = settings.scenes_dir / first.id / "scene.tif"
    kept.write_bytes(kept.read_bytes()[:-100] + bytes(100))
    ledger.scenes.fail(first.id, "cannot be read; deliver it again")
    assert deliver(settings, ledger, kind, scene).row.state == "queued"
    assert kept.read_bytes() == scene.read_bytes()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_scene_that_was_delivered_again_has_its_new_priority_after_the_ledger_is_lost(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path, is_there: bool
) -> None:
    scene = write_scene(tmp_path / "scene.tif", side=40)
    first = deliver(settings, ledger, kind, scene).row
    ledger.scenes.fail(first.id, "cannot be read; deliver it again")
    if not is_there:
        erase_folder(settings.scenes_dir / first.id, settings.scenes_dir / ".incoming")
    assert deliver(settings, ledger, kind, scene, priority="urgent").row.priority == "urgent"
    ledger.close()
    for path in settings.data_dir.glob("ledger.*"):
        path.unlink()
    fresh = open_ledger(settings)
    reconcile(settings, fresh)
    (found,) = fresh.scenes.page()
    assert (found.id, found.priority, found.state) == (first.id, "urgent", "queued")
    assert (found.name, found.received) == (first.name, first.received)


@pytest.mark.parametrize("delivered", [False, True])
def test_a_map_that_is_lost_before_the_ground_has_it_is_made_again(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path, delivered: bool
) -> None:
    lost = [deliver(settings, ledger, kind, write_scene(tmp_path / f"{n}.tif", 40, seed=n)).row.id for n in range(2)]
    for scene_id in lost:
        ledger.scenes.start(scene_id)
        ledger.maps.adopt(MapRow(scene_id, 0, "routine", {"map.tif": {"bytes": 10, "sha256": "0" * 64}}, {}), {})
        erase_folder(settings.scenes_dir / scene_id, settings.scenes_dir / ".incoming")
        if delivered:
            ledger.maps.record_receipt(scene_id)
    made = ledger.maps.get(lost[0])
    assert made is not None
    erase_for_room(settings, ledger, made)  # to make room
    reconcile(settings, ledger)  # and the other one's files are not there
    assert [ledger.maps.holds(scene_id) for scene_id in lost] == [False, False]
    for n, scene_id in enumerate(lost):
        again = deliver(settings, ledger, kind, tmp_path / f"{n}.tif")
        assert (again.row.id, again.is_new, again.row.state) == (
            scene_id, not delivered, "mapped" if delivered else "queued"
        )  # fmt: skip


@pytest.mark.parametrize("keep", [False, True])
def test_files_that_a_cut_left_of_scenes_that_are_done_are_erased(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path, keep: bool
) -> None:
    cancelled, mapped, waiting = (
        deliver(settings, ledger, kind, write_scene(tmp_path / f"{n}.tif", 40, seed=n)).row.id for n in range(3)
    )
    ledger.scenes.start(cancelled)
    ledger.scenes.cancel(cancelled)
    ledger.scenes.start(mapped)
    ledger.maps.adopt(MapRow(mapped, 0, "routine", {}, {}), {})
    reconcile(settings.model_copy(update={"keep_scenes": keep}), ledger)
    left = {path.name for path in settings.scenes_dir.iterdir() if not path.name.startswith(".")}
    assert left == ({mapped, waiting} if keep else {waiting})


def test_a_file_without_a_row_is_taken_up(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    accepted = deliver(settings, ledger, kind, write_scene(tmp_path / "scene.tif", side=40), priority="high").row
    ledger.close()
    settings.ledger_path.unlink()
    fresh = open_ledger(settings)
    reconcile(settings, fresh)
    (found,) = fresh.scenes.page()
    assert (found.id, found.sha256, found.priority, found.state) == (accepted.id, accepted.sha256, "high", "queued")
    assert kinds(fresh) == ["ledger-rolled-back", "scene-adopted"]
    assert fresh.next_sequence() > accepted.sequence


def test_a_damaged_ledger_is_set_aside_and_built_again(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    accepted = [deliver(settings, ledger, kind, write_scene(tmp_path / f"{n}.tif", 40, seed=n)).row for n in range(3)]
    known = ledger.events.log("info", "seen", "the last that the ground has seen")
    ledger.close()
    content = bytearray(settings.ledger_path.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    settings.ledger_path.write_bytes(content)
    fresh = open_ledger(settings)
    reconcile(settings, fresh)
    assert [row.id for row in fresh.scenes.page()] == [row.id for row in accepted]
    assert (settings.data_dir / "ledger.damaged-1.sqlite").read_bytes() == bytes(content)
    assert "ledger-rebuilt" in [event.kind for event in fresh.events.page(after=known)]
    assert kinds(fresh)[0] == "ledger-rebuilt"


def lose(ledger: Ledger, begin: int = 0) -> int:
    """Ends it and overwrites a page of its file from byte ``begin`` on; gives the last number that was known of it."""
    known = ledger.events.log("info", "seen", "the last that the ground has seen")
    ledger.close()
    content = bytearray(ledger.path.read_bytes())
    content[begin : begin + 4096] = b"\xff" * 4096
    ledger.path.write_bytes(content)
    return known


def page_of(ledger: Ledger, table: str) -> int:
    """Where its first page begins."""
    with closing(sqlite3.connect(ledger.path)) as base:
        (page,) = base.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return 4096 * (int(page) - 1)


def test_events_of_a_rebuilt_ledger_come_behind_all_that_were_known(settings: Settings, ledger: Ledger) -> None:
    known = lose(ledger)
    fresh = open_ledger(settings)
    assert [event.kind for event in fresh.events.page(after=known)] == ["ledger-rebuilt"]
    assert fresh.events.acknowledge(known) == known
    assert kinds(fresh) == ["ledger-rebuilt"]


def test_numbers_go_on_over_two_lost_ledgers_though_the_clock_falls_back_to_1970(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(ledger)
    known = lose(open_ledger(settings))
    monkeypatch.setattr("onboard.jobs.reconcile.time.time", lambda: 100.0)
    assert [event.kind for event in open_ledger(settings).events.page(after=known)] == ["ledger-rebuilt"]


@pytest.mark.parametrize("folder", ["data", "a%41b", "what?now", "x#y"])
def test_a_damaged_ledger_whose_counter_is_whole_is_gone_beyond(settings: Settings, folder: str) -> None:
    settings = settings.model_copy(update={"data_dir": settings.data_dir.parent / folder})
    ledger = open_ledger(settings)
    ledger.skip_to(5 * 10**12)
    known = lose(ledger, page_of(ledger, "events"))
    assert [event.sequence for event in open_ledger(settings).events.page()] == [known + 1]


def test_a_counter_that_cannot_be_one_is_not_believed(settings: Settings, ledger: Ledger) -> None:
    known = ledger.events.log("info", "seen", "the last that the ground has seen")
    begin = page_of(ledger, "events")
    with closing(sqlite3.connect(ledger.path)) as base:
        base.execute("UPDATE counter SET value = 9223372036854775806")
        base.commit()
    lose(ledger, begin)
    (event,) = open_ledger(settings).events.page(after=known)
    assert event.sequence < 2**53


def test_a_power_cut_while_a_ledger_is_set_aside_loses_neither_numbers_nor_event(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = lose(ledger)

    def cut(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("onboard.jobs.reconcile.synced_folder", cut)
        open_ledger(settings)
    assert not settings.ledger_path.exists()
    for _ in range(2):
        fresh = open_ledger(settings)
        assert [event.kind for event in fresh.events.page(after=known)] == ["ledger-rebuilt"]
        fresh.close()


def test_a_row_without_its_file_is_reported(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    accepted = deliver(settings, ledger, kind, write_scene(tmp_path / "scene.tif", side=40)).row
    shutil.rmtree(settings.scenes_dir / accepted.id)
    reconcile(settings, ledger)
    found = ledger.scenes.get(accepted.id)
    assert found is not None
    assert (found.state, found.problem) == ("failed", "its file is gone from the disk; deliver it again")
    assert kinds(ledger) == ["scene-missing"]


def test_a_disk_that_is_full_at_the_start_costs_no_ledger(settings: Settings, ledger: Ledger) -> None:
    ledger.events.log("info", "kept", "what must not be lost")
    ledger.close()
    content = settings.ledger_path.read_bytes()
    with (
        files_of_at_most(8192),
        pytest.raises(StorageError, match=r"cannot be opened .*; make room or repair the disk"),
    ):
        open_ledger(settings)
    assert settings.ledger_path.read_bytes() == content
    assert kinds(open_ledger(settings)) == ["kept"]


def test_only_temporaries_are_removed(settings: Settings, ledger: Ledger) -> None:
    (settings.scenes_dir / ".incoming").mkdir(exist_ok=True)
    (settings.scenes_dir / ".incoming" / "x.part").write_bytes(b"x")
    (settings.scenes_dir / "strange").mkdir()
    (settings.scenes_dir / "strange" / "file").write_bytes(b"x")
    (settings.maps_dir / "odd").mkdir()
    (settings.canvases_dir / "old").mkdir()
    reconcile(settings, ledger)
    left = {str(path.relative_to(settings.data_dir)) for path in settings.data_dir.rglob("*") if path.is_dir()}
    assert left == {"scenes", "scenes/strange", "maps", "maps/odd", "canvases"}
    assert sorted(kinds(ledger)) == ["map-unreadable", "scene-unreadable"]


def test_what_was_running_is_queued_again(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    accepted = deliver(settings, ledger, kind, write_scene(tmp_path / "scene.tif", side=40)).row
    ledger.scenes.start(accepted.id)
    reconcile(settings, ledger)
    assert ledger.scenes.state_of(accepted.id) == "queued"


@pytest.mark.usefixtures("ledger")
def test_the_reserve_is_kept(settings: Settings) -> None:
    greedy = settings.model_copy(update={"disk_reserve_bytes": 1 << 60})
    with pytest.raises(NoRoom, match="would leave less than the reserve"):
        IncomingFile(greedy, 10)
    growing = IncomingFile(settings, None)
    growing._settings = greedy
    with pytest.raises(NoRoom):
        growing.write(bytes(17 << 20))
    growing.remove()


def test_a_file_of_the_inbox_is_claimed_and_one_elsewhere_is_not(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    scene = write_scene(tmp_path / "inbox" / "a.tif", side=40)
    accepted = accept_inbox_file(settings, ledger, kind, PROBES, scene, Delivery("a"))
    assert accepted.is_new
    assert list((tmp_path / "inbox").iterdir()) == []
    outside = write_scene(tmp_path / "b.tif", side=40)
    (tmp_path / "inbox" / "link.tif").symlink_to(outside)
    for path in (outside, tmp_path / "inbox" / ".." / "b.tif", tmp_path / "inbox" / "link.tif", tmp_path / "inbox/no"):
        with pytest.raises(SceneRefused, match="is no file in the inbox"):
            accept_inbox_file(settings, ledger, kind, PROBES, path, Delivery("b"))
    (tmp_path / "inbox" / "bad.tif").write_bytes(b"II*\0" + bytes(50))
    with pytest.raises(SceneRefused):
        accept_inbox_file(settings, ledger, kind, PROBES, tmp_path / "inbox" / "bad.tif", Delivery("c"))
    assert (tmp_path / "inbox" / "bad.tif").is_file()


def test_a_claim_that_a_kill_left_goes_back_and_overwrites_nothing(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    first = write_scene(inbox / "day" / "a.tif", 40, seed=1).read_bytes()
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(IncomingFile, "finish", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        accept_inbox_file(settings, ledger, kind, PROBES, inbox / "day" / "a.tif", Delivery("a"))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    second = write_scene(inbox / "day" / "a.tif", 40, seed=2).read_bytes()
    assert give_back_claims(inbox) == 1
    assert {path.read_bytes() for path in inbox.rglob("*.tif")} == {first, second}
    for path in list(inbox.rglob("*.tif")):
        assert accept_inbox_file(settings, ledger, kind, PROBES, path, Delivery(path.name)).is_new
    assert list((inbox / "day").iterdir()) == []


def test_a_file_that_comes_while_one_of_its_name_is_tried_stays(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, inbox = b"II*\0" + bytes(50), tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.tif").write_bytes(bad)
    finish = IncomingFile.finish

    def comes_meanwhile(file: IncomingFile) -> None:
        write_scene(inbox / "a.tif", 40)
        finish(file)

    monkeypatch.setattr(IncomingFile, "finish", comes_meanwhile)
    with pytest.raises(SceneRefused):
        accept_inbox_file(settings, ledger, kind, PROBES, inbox / "a.tif", Delivery("a"))
    assert sorted(path.read_bytes() == bad for path in inbox.iterdir()) == [False, True]


def test_one_odd_name_stops_no_other_file_of_the_inbox(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    latin = os.fsdecode("Zürich.tif".encode("latin-1"))
    inbox.mkdir()
    for number, name in enumerate((latin, "x" * 251 + ".tif", "z.tif")):
        write_scene(tmp_path / "scene.tif", 40, seed=number).rename(inbox / name)
    (inbox / ("b" * 251 + ".tif")).write_bytes(b"II*\0" + bytes(50))
    service = Service(settings.model_copy(update={"watch_inbox": True}), kind)
    assert [take_inbox(service) for _ in range(2)] == [0, 3]
    assert [row.name for row in ledger.scenes.page()] == ["Z?rich.tif", "x" * 200, "z.tif"]
    assert [path.name for path in inbox.iterdir()] == ["rejected"]
    assert len(list((inbox / "rejected").iterdir())) == 2
    service.ledger.close()
    service.probes.close()
    settings.ledger_path.unlink()
    facts = settings.scenes_dir / ledger.scenes.page()[0].id / "scene.json"
    facts.write_text(facts.read_text().replace("Z?rich", "Z\\udcfcrich"))  # as earlier versions left it
    ledger.close()
    fresh = open_ledger(settings)
    reconcile(settings, fresh)
    assert fresh.scenes.page()[0].name == "Z?rich.tif"


@pytest.mark.usefixtures("ledger")
def test_a_file_that_can_go_nowhere_stays_and_others_are_taken(
    settings: Settings, kind: MappingConfig, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    write_scene(inbox / "good.tif", 40)
    (inbox / "bad.tif").write_bytes(b"II*\0" + bytes(50))
    (inbox / "rejected").write_text("no folder")
    service = Service(settings.model_copy(update={"watch_inbox": True}), kind)
    assert [take_inbox(service) for _ in range(2)] == [0, 1]
    assert sorted(path.name for path in inbox.iterdir()) == ["bad.tif", "rejected"]
    service.ledger.close()
    service.probes.close()


@pytest.fixture
def watching(settings: Settings, ledger: Ledger, kind: MappingConfig) -> Iterator[Service]:
    assert ledger.scenes.page() == []
    service = Service(settings.model_copy(update={"watch_inbox": True}), kind)
    yield service
    service.ledger.close()
    service.probes.close()


def events_of(ledger: Ledger, kind: str) -> list[str]:
    return [event.text for event in ledger.events.page(limit=1000) if event.kind == kind]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_damaged_zip_in_the_inbox_is_set_aside_and_the_scene_behind_it_is_taken(
    watching: Service, ledger: Ledger, tmp_path: Path, method: int
) -> None:
    inbox = tmp_path / "inbox"
    write_scene(inbox / "b.tif", 40)
    with zipfile.ZipFile(inbox / "a.zip", "w", method) as archive:
        archive.write(inbox / "b.tif", "a.tif")
    data = bytearray((inbox / "a.zip").read_bytes())
    data[200:300] = b"\xff" * 100
    (inbox / "a.zip").write_bytes(data)
    assert [take_inbox(watching) for _ in range(2)] == [0, 1]
    assert [row.name for row in ledger.scenes.page()] == ["b.tif"]
    (event,) = events_of(ledger, "inbox-rejected")
    assert event.startswith("a.zip: is a damaged archive: ")
    assert "is a damaged archive" in (inbox / "rejected" / "a.zip.txt").read_text()


def test_a_scene_that_fails_unexpectedly_is_told_once_and_stops_no_other(
    watching: Service, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    for number, name in enumerate(("a.tif", "b.tif")):
        write_scene(inbox / name, 40, seed=number)
    tried: list[str] = []

    def failing(*words: Any) -> Accepted:
        tried.append(words[4].name)
        if words[4].name == "a.tif":
            raise ZeroDivisionError("nobody\nforesaw it")
        return accept_inbox_file(*words)

    monkeypatch.setattr(inbox_of_api, "accept_inbox_file", failing)
    assert [take_inbox(watching) for _ in range(5)] == [0, 1, 0, 0, 0]
    assert tried == ["a.tif", "b.tif"]
    (event,) = events_of(ledger, "inbox-failed")
    assert event.startswith("a.tif stays in the inbox: ZeroDivisionError: nobody foresaw it; it is tried again")
    # The hour is over: it is tried again, and not told again. Then other files come under its name.
    watching.inbox_waits = dict.fromkeys(watching.inbox_waits, 0.0)
    assert take_inbox(watching) == 0
    assert (tried.count("a.tif"), len(events_of(ledger, "inbox-failed"))) == (2, 1)
    write_scene(inbox / "a.tif", 50, seed=3)
    assert [take_inbox(watching) for _ in range(2)] == [0, 0]
    assert (tried.count("a.tif"), len(events_of(ledger, "inbox-failed"))) == (3, 2)
    monkeypatch.undo()
    watching.inbox_waits.clear()
    assert take_inbox(watching) == 1
    assert list(inbox.iterdir()) == []


def test_a_damaged_ledger_sends_no_scene_of_the_inbox_aside(
    watching: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    write_scene(inbox / "a.tif", 40)

    def damaged(*_: object) -> Accepted:
        raise LedgerDamaged(tmp_path, "malformed")

    monkeypatch.setattr(inbox_of_api, "accept_inbox_file", damaged)
    assert take_inbox(watching) == 0
    with pytest.raises(LedgerDamaged):
        take_inbox(watching)
    assert [path.name for path in inbox.iterdir()] == ["a.tif"]


def test_a_chore_that_fails_stops_no_other(
    watching: Service, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> int:
        raise ZeroDivisionError

    write_scene(tmp_path / "inbox" / "a.tif", 40)
    monkeypatch.setattr(serve, "EMPTY_LOG_S", 0.0)
    watching.wake.set()  # one turn
    for names in (("take_inbox",), ("tend", "take_inbox")):
        for name in names:
            monkeypatch.setattr(serve, name, failing)
        watching.ledger.events.log("info", "made", "so that the log is not empty")
        log_file = settings.ledger_path.with_name(settings.ledger_path.name + "-wal")
        assert log_file.stat().st_size > 0
        watching.passes = PassLog(quiet_s=0.0)
        watching.passes.received("ground", 1)
        serve._tend(watching)
        assert (watching.passes._passes, log_file.stat().st_size) == ({}, 0)


def test_scenes_that_wait_are_mapped_by_the_model_of_now(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    other = MappingConfig(kind.model, '{"halo":1}', kind.manifest)
    twice, once = write_scene(tmp_path / "a.tif", 40, seed=1), write_scene(tmp_path / "b.tif", 40, seed=2)
    old = [deliver(settings, ledger, other, path).row.id for path in (twice, once)]
    new = deliver(settings, ledger, kind, twice).row.id
    reconcile(settings, ledger, kind)
    assert [ledger.scenes.state_of(scene) for scene in (*old, new)] == ["cancelled", "queued", "queued"]
    assert {row.options for row in ledger.scenes.page(state="queued")} == {kind.options}
    assert deliver(settings, ledger, kind, once).row.id == old[1]


def test_the_watched_inbox_takes_what_is_complete_and_puts_aside_what_is_wrong(
    settings: Settings, ledger: Ledger, kind: MappingConfig, tmp_path: Path
) -> None:
    watching = settings.model_copy(update={"watch_inbox": True})
    service = Service(watching, kind)
    inbox = tmp_path / "inbox"
    write_scene(inbox / "good.tif", 40)
    (inbox / "bad.tif").write_bytes(b"II*\0" + bytes(50))
    (inbox / "notes.txt").write_text("no scene")
    (inbox / "growing.tif").write_bytes(b"II*\0")
    assert take_inbox(service) == 0  # the first look only remembers
    (inbox / "growing.tif").write_bytes(b"II*\0" + bytes(10))
    assert take_inbox(service) == 1
    assert [row.name for row in ledger.scenes.page()] == ["good.tif"]
    assert sorted(path.name for path in inbox.iterdir()) == ["growing.tif", "notes.txt", "rejected"]
    assert sorted(path.name for path in (inbox / "rejected").iterdir()) == ["bad.tif", "bad.tif.txt"]
    assert "bad.tif" in (inbox / "rejected" / "bad.tif.txt").read_text()
    assert take_inbox(Service(settings, kind)) == 0
    service.ledger.close()
    service.probes.close()
    service.probes.close()
