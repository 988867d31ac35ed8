"""A ledger that falls back, by a bit of its write-ahead log or by the loss of it: nothing of it goes unsaid."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.testing import IdentityEngine
from onboard.files import sha256_file
from onboard.jobs.highwater import HighWaterMark, Note, read_mark, rewrite_mark
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.jobs.published import map_row_of
from onboard.jobs.reconcile import open_ledger, reconcile
from onboard.jobs.scene_store import SceneRow
from onboard.mapping.run import MapRequest, map_scene
from onboard.settings import Settings
from tests.full_disk import files_of_at_most
from tests.onboard.service import write_scene

SHA = "a" * 64


def scene(ledger: Ledger, sha: str) -> SceneRow:
    number = ledger.next_sequence()
    return ledger.scenes.add(SceneRow(f"s{number}", number, sha * 64, 1, "a scene", "routine", None, "m", "{}", {}))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def in_a_child(work: Callable[[], Ledger]) -> None:
    """Does it in a process that is killed at its end: what was committed stays in the write-ahead log.

    The work gives its ledger, which stays open: one that nobody holds is closed, and its log emptied.
    """
    child = os.fork()
    if child == 0:
        held = []
        try:
            held.append(work())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def begun(settings: Settings) -> None:
    """A map and two scenes, all of it in the file; then a receipt and a cancellation that only the log has."""
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
        mapped, doomed, again = (scene(ledger, sha) for sha in "012")
        for row in (mapped, doomed, again):
            (settings.scenes_dir / row.id).mkdir()
            (settings.scenes_dir / row.id / "scene.tif").write_bytes(b"pixels")
        (settings.maps_dir / mapped.id).mkdir()
        (settings.maps_dir / mapped.id / "map.tif").write_bytes(b"map")
        ledger.maps.adopt(MapRow(mapped.id, 0, "routine", {"map.tif": {"bytes": 3, "sha256": SHA}}, {}), {})

    def work() -> Ledger:
        ledger = Ledger(settings.ledger_path)
        ledger.maps.record_receipt(mapped.id)
        ledger.scenes.cancel(doomed.id)
        ledger.scenes.cancel(again.id)
        ledger.scenes.retry(again.id, "high")
        for number in range(20):
            ledger.events.log("info", "told", f"the ground has read number {number}")
        return ledger

    in_a_child(work)


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def harm_by_a_bit(wal: Path) -> None:
    flip(wal, 32 + 24 + 1000)


def harm_by_the_last_frame(wal: Path) -> None:
    flip(wal, wal.stat().st_size - 100)


def harm_by_loss(wal: Path) -> None:
    wal.unlink()


@pytest.mark.parametrize("harm", [harm_by_a_bit, harm_by_loss])
def test_a_rollback_is_an_event_and_costs_no_number_no_receipt_and_no_cancellation(
    settings: Settings, harm: Callable[[Path], None]
) -> None:
    begun(settings)
    last = read_mark(settings.ledger_path).number
    wal = settings.ledger_path.with_name("ledger.sqlite-wal")
    assert wal.stat().st_size > 20 * 4096
    harm(wal)
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
        (event,) = [event for event in ledger.events.page() if event.kind == "ledger-rolled-back"]
        assert event.severity == "error"
        assert event.sequence > last
        assert f"from number {last} to" in event.text
        rows = ledger.scenes.page()
        assert [row.state for row in rows] == ["mapped", "cancelled", "queued"]
        (map_row,) = ledger.maps.page()
        assert map_row.delivered is not None
        events = [event for event in ledger.events.page() if event.kind == "ledger-restored"]
        restored = [(event.about, event.text.split()[1]) for event in events]
        assert restored == [(rows[1].id, "cancellation"), (rows[0].id, "receipt")]
        assert not (settings.scenes_dir / rows[1].id).exists()
        assert (settings.scenes_dir / rows[2].id / "scene.tif").exists()
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
        assert [event.kind for event in ledger.events.page()].count("ledger-rolled-back") == 1


def test_the_last_transaction_alone_is_missed_too(settings: Settings) -> None:
    begun(settings)
    harm_by_the_last_frame(settings.ledger_path.with_name("ledger.sqlite-wal"))
    with open_ledger(settings) as ledger:
        assert [event.kind for event in ledger.events.page()][-1] == "ledger-rolled-back"


def test_a_ledger_that_is_whole_is_left_as_it_is(settings: Settings) -> None:
    begun(settings)
    with open_ledger(settings) as ledger:
        before = ledger.reached()
        reconcile(settings, ledger)
        assert {event.kind for event in ledger.events.page()} == {"told"}
        assert ledger.reached() == before


class Unnoted:
    """Stands for a process that is killed after its commit and before its note."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __enter__(self) -> None:
        self.monkeypatch.setattr(HighWaterMark, "note", lambda *_: None)

    def __exit__(self, *_: object) -> None:
        self.monkeypatch.undo()


@pytest.fixture
def unnoted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> tuple[SceneRow, SceneRow, SceneRow]:
    """A scene that was cancelled and is wanted again, one that is cancelled, a map that the ground holds: not noted."""
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
        wanted, unwanted, held = (scene(ledger, sha) for sha in "012")
        ledger.maps.adopt(MapRow(held.id, 0, "routine", {"map.tif": {"bytes": 3, "sha256": SHA}}, {}), {})
        ledger.scenes.cancel(wanted.id)
        with Unnoted(monkeypatch):
            ledger.scenes.retry(wanted.id, "routine")
            ledger.scenes.cancel(unwanted.id)
            ledger.maps.record_receipt(held.id)
    before = read_mark(settings.ledger_path)
    assert (before.states[wanted.id][1], unwanted.id in before.states, before.receipts) == (True, False, {})
    return wanted, unwanted, held


def test_what_was_committed_and_not_noted_is_noted_before_it_is_told_again(
    settings: Settings, unnoted: tuple[SceneRow, SceneRow, SceneRow]
) -> None:
    """A client that had no answer asks again, and gets one: from then on the ledger may fall back without harm."""
    wanted, unwanted, held = unnoted
    with Ledger(settings.ledger_path) as ledger:
        last = ledger.events.log("info", "told", "a number after all of them")
    with Ledger(settings.ledger_path) as ledger:
        again = ledger.scenes.get(wanted.id)
        assert again is not None
        ledger.scenes.confirm(again)
        assert ledger.scenes.cancel(unwanted.id) is None
        assert not ledger.maps.record_receipt(held.id)
        mark = read_mark(settings.ledger_path)
        assert mark.states[wanted.id] == (again.changed, False)
        assert mark.states[unwanted.id][1]
        assert mark.receipts[held.id][1] == SHA
        size = [path.stat().st_size for path in HighWaterMark(settings.ledger_path).paths]
        # An older fact, noted by a connection that knows no newer number: the mark keeps the last one.
        assert mark.number == last
        ledger.scenes.confirm(again)  # what is noted is noted once
        assert [path.stat().st_size for path in HighWaterMark(settings.ledger_path).paths] == size


def test_what_was_committed_and_not_noted_is_noted_at_the_next_start(
    settings: Settings, unnoted: tuple[SceneRow, SceneRow, SceneRow]
) -> None:
    wanted, unwanted, held = unnoted
    with open_ledger(settings):
        mark = read_mark(settings.ledger_path)
    assert [mark.states[row.id][1] for row in (wanted, unwanted)] == [False, True]
    assert mark.receipts[held.id][1] == SHA


def test_a_ledger_that_fell_back_lists_the_map_that_stands(settings: Settings, tmp_path: Path) -> None:
    """The scene was cancelled and mapped again since: folder and item are others, of the same name and size."""
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
        row = scene(ledger, "0")
        ledger.maps.adopt(mapped(tmp_path, settings.maps_dir, row.id), {})
        ledger.maps.record_receipt(row.id)
    # Made here: a child that was forked from a process of many threads must not begin to map.
    second = mapped(tmp_path, tmp_path / "second", row.id)

    def work() -> Ledger:
        ledger = Ledger(settings.ledger_path)
        ledger.scenes.cancel(row.id)
        ledger.maps.remove_cancelled(row.id)
        shutil.rmtree(settings.maps_dir / row.id)
        ledger.scenes.retry(row.id, "routine")
        ledger.scenes.start(row.id)
        (tmp_path / "second" / row.id).rename(settings.maps_dir / row.id)
        ledger.maps.finish(second, {})
        return ledger

    in_a_child(work)
    harm_by_loss(settings.ledger_path.with_name("ledger.sqlite-wal"))
    with open_ledger(settings) as ledger:
        assert differing(settings, ledger)  # the ledger knows the first map, and the second stands
        reconcile(settings, ledger)
        assert differing(settings, ledger) == []
        assert ledger.scenes.state_of(row.id) == "mapped"
        assert "map-adopted" in [event.kind for event in ledger.events.page()]
        # What is damaged without a later map beside it is not taken for one.
        item = settings.maps_dir / row.id / "map.json"
        item.write_text(item.read_text().replace("Land cover", "Sand cover"))
        reconcile(settings, ledger)
        assert differing(settings, ledger) == ["map.json"]


def test_a_map_made_again_takes_the_place_of_one_that_the_ledger_still_lists(settings: Settings) -> None:
    with open_ledger(settings) as ledger:
        row = scene(ledger, "0")
        ledger.scenes.start(row.id)
        facts = {"map.tif": {"bytes": 3, "sha256": SHA}}
        first = ledger.maps.adopt(MapRow(row.id, 0, "routine", {}, {}), {})
        ledger.scenes.requeue_mapped(row.id)
        ledger.scenes.start(row.id)
        assert ledger.maps.finish(MapRow(row.id, 0, "routine", facts, {}), {})
        (listed,) = ledger.maps.page()
        assert listed.assets == facts
        assert listed.sequence > first.sequence


def mapped(folder: Path, out: Path, name: str) -> MapRow:
    """A real map of this name."""
    scene = write_scene(folder / "scene.tif", side=40)
    map_scene(MapRequest(scene, out, name=name, overwrite=True), IdentityEngine(tile_size=64))
    row = map_row_of(out / name)
    assert row is not None
    return row


def differing(settings: Settings, ledger: Ledger) -> list[str]:
    """Files of the listed map that are not those on the disk."""
    (row,) = ledger.maps.page()
    folder = settings.maps_dir / row.id
    return [name for name, facts in row.assets.items() if sha256_file(folder / name) != facts["sha256"]]


def test_a_rebuilt_ledger_gets_its_receipts_and_cancellations_back(settings: Settings) -> None:
    begun(settings)
    for ending in ("", "-wal", "-shm"):
        settings.ledger_path.with_name(f"ledger.sqlite{ending}").write_bytes(b"no database" * 1000)
    last = read_mark(settings.ledger_path).number
    with open_ledger(settings) as ledger:
        assert ledger.next_sequence() > last
        mark = read_mark(settings.ledger_path)
    assert len(mark.receipts) == 1
    assert len(mark.cancelled) == 1


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_one_copy_is_enough_and_the_other_is_made_anew(settings: Settings, which: int, seed: int) -> None:
    begun(settings)
    whole = read_mark(settings.ledger_path)
    path = HighWaterMark(settings.ledger_path).paths[which]
    if seed == 0:
        path.unlink()
    else:
        content, chance = bytearray(path.read_bytes()), random.Random(seed)
        for offset in chance.sample(range(len(content)), 20):
            content[offset] ^= 1 << seed
        path.write_bytes(content)
    found = read_mark(settings.ledger_path)
    assert (found.number, found.receipts, found.states) == (whole.number, whole.receipts, whole.states)
    assert found.damaged == [path.name]
    with open_ledger(settings) as ledger:
        assert [event.kind for event in ledger.events.page()][-1] == "ledger-mark-damaged"
    again = read_mark(settings.ledger_path)
    assert (again.damaged, again.receipts, again.states) == ([], whole.receipts, whole.states)


def test_notes_wait_for_room_and_cost_no_transaction(tmp_path: Path) -> None:
    mark = HighWaterMark(tmp_path / "ledger.sqlite")
    with files_of_at_most(0):
        mark.note(Note(5, receipts={"one": SHA}))
        mark.note(Note(6, cancelled=["two"]))
    assert read_mark(tmp_path / "ledger.sqlite").number == 0
    mark.note(Note(7))
    mark.close()
    found = read_mark(tmp_path / "ledger.sqlite")
    assert (found.number, found.receipts, found.cancelled, found.damaged) == (7, {"one": (5, SHA)}, {"two": 6}, [])


@pytest.mark.parametrize("room", [10, 64, 100])
def test_a_note_that_fits_in_part_waits_for_room_as_a_whole(tmp_path: Path, room: int) -> None:
    """Of the write that meets the limit, the system takes the beginning and gives no error."""
    path = tmp_path / "ledger.sqlite"
    mark = HighWaterMark(path)
    with files_of_at_most(room):
        mark.note(Note(5, receipts={"one": SHA}))
    assert read_mark(path).receipts == {}
    mark.note(Note(6))
    mark.close()
    found = read_mark(path)
    assert (found.number, found.receipts) == (6, {"one": (5, SHA)})


def test_a_line_that_a_cut_tore_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    mark = HighWaterMark(path)
    mark.note(Note(1, receipts={"one": SHA}))
    for copy in mark.paths:
        with copy.open("ab") as file:
            file.write(b'\n1234abcd {"n":2,"r":{"tw')
    mark.note(Note(3, receipts={"three": SHA}))
    mark.close()
    found = read_mark(path)
    assert set(found.receipts) == {"one", "three"}
    rewrite_mark(path, found)
    assert read_mark(path).damaged == []


def test_the_newest_are_kept_and_the_mark_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onboard.jobs.highwater.RECEIPTS_KEPT", 10)
    path = tmp_path / "ledger.sqlite"
    mark = HighWaterMark(path)
    for number in range(1, 30):
        mark.note(Note(number, receipts={f"s{number}": SHA}))
    mark.close()
    rewrite_mark(path, read_mark(path))
    found = read_mark(path)
    assert sorted(found.receipts) == sorted(f"s{number}" for number in range(20, 30))
    assert found.number == 29


def test_what_stands_in_the_log_is_moved_into_the_file(settings: Settings) -> None:
    with open_ledger(settings) as ledger, Ledger(settings.ledger_path) as other:
        wal = settings.ledger_path.with_name("ledger.sqlite-wal")
        other.events.log("info", "told", "by another process")
        assert wal.stat().st_size > 0
        assert ledger.checkpoint()
        assert wal.stat().st_size == 0
        other.events.log("info", "told", "one more")
        other._database.connection.execute("BEGIN")
        assert other.events.page()
        ledger.events.log("info", "told", "which the other does not see yet")
        assert not ledger.checkpoint()  # and does not wait for it
        other._database.connection.execute("ROLLBACK")
        assert ledger.checkpoint()
    assert not wal.exists()


def test_a_new_attempt_that_only_the_log_knew_is_not_lost(settings: Settings) -> None:
    with open_ledger(settings) as ledger:
        reconcile(settings, ledger)
        row = scene(ledger, "0")
        ledger.scenes.cancel(row.id)

    def work() -> Ledger:
        ledger = Ledger(settings.ledger_path)
        (settings.scenes_dir / row.id).mkdir()
        (settings.scenes_dir / row.id / "scene.tif").write_bytes(b"pixels")
        ledger.scenes.retry(row.id, "high")
        return ledger

    in_a_child(work)
    harm_by_loss(settings.ledger_path.with_name("ledger.sqlite-wal"))
    with open_ledger(settings) as ledger:
        assert ledger.scenes.state_of(row.id) == "cancelled"
        reconcile(settings, ledger)
        assert ledger.scenes.state_of(row.id) == "queued"
        assert (settings.scenes_dir / row.id / "scene.tif").is_file()
