from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from onboard.errors import LedgerDamaged
from onboard.jobs.ledger import Ledger, MapRow, SceneRow


def row(ledger: Ledger, sha: str = "a", priority: str = "routine") -> SceneRow:
    number = ledger.next_sequence()
    return SceneRow(
        f"s{number}", number, sha * 64, 10, "a scene", priority, None, "m" * 64, "{}", {"utc": "1970-01-01T00:00:00Z"}
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def test_the_most_urgent_goes_first_and_the_oldest_of_those(ledger: Ledger) -> None:
    for sha, priority in (("a", "routine"), ("b", "high"), ("c", "urgent"), ("d", "urgent"), ("e", "routine")):
        ledger.add_scene(row(ledger, sha, priority))
    order = []
    while (waiting := ledger.waiting()) is not None:
        order.append(waiting.sha256[0])
        assert ledger.start(waiting.id)
    assert order == ["c", "d", "b", "a", "e"]


def test_the_same_work_is_one_row_and_other_options_are_another(ledger: Ledger) -> None:
    first = ledger.add_scene(row(ledger))
    assert ledger.add_scene(row(ledger)).id == first.id
    other = row(ledger)
    assert ledger.add_scene(SceneRow(**{**other.__dict__, "options": '{"halo":1}'})).id == other.id
    assert len(ledger.scenes()) == 2


def test_states_change_only_along_their_ways(ledger: Ledger) -> None:
    scene = ledger.add_scene(row(ledger))
    assert not ledger.put_back(scene.id)
    assert ledger.start(scene.id)
    assert not ledger.start(scene.id)
    assert ledger.queue_again(scene.id, "urgent") is None
    assert ledger.cancel(scene.id)
    assert not ledger.cancel(scene.id)
    assert not ledger.put_back(scene.id)
    again = ledger.queue_again(scene.id, "urgent")
    assert again is not None
    assert (again.state, again.priority, again.problem) == ("queued", "urgent", None)
    assert ledger.fail(scene.id, "it is empty; send another")
    assert (ledger.scene(scene.id) or again).problem == "it is empty; send another"
    assert ledger.scene("nothing") is None


def test_the_third_death_is_one_too_many(ledger: Ledger) -> None:
    scene = ledger.add_scene(row(ledger))
    assert [ledger.record_death(scene.id, 3) for _ in range(3)] == [False, False, True]
    found = ledger.scene(scene.id)
    assert found is not None
    assert (found.state, found.deaths) == ("quarantined", 3)
    assert "died on it 3 times" in (found.problem or "")
    again = ledger.queue_again(scene.id, "routine")
    assert again is not None
    assert again.deaths == 0


def test_a_map_and_its_scene_change_together_and_a_cancelled_one_stays_cancelled(ledger: Ledger) -> None:
    scenes = [ledger.add_scene(row(ledger, sha)) for sha in "ab"]
    ledger.cancel(scenes[1].id)
    for scene in scenes:
        ledger.publish(MapRow(scene.id, 0, "high", {"map.tif": {"bytes": 1, "sha256": "x"}}, {"id": 1}), {"tiles": 4})
    assert [ledger.state_of(scene.id) for scene in scenes] == ["mapped", "cancelled"]
    assert (ledger.scene(scenes[0].id) or scenes[0]).figures == {"tiles": 4}
    assert ledger.receipt(scenes[0].id)
    assert not ledger.receipt(scenes[0].id)
    assert [found.id for found in ledger.maps(undelivered=True)] == [scenes[1].id]
    assert ledger.remove_map(scenes[0].id)
    assert ledger.map(scenes[0].id) is None


def test_events_are_read_from_where_one_was(ledger: Ledger) -> None:
    numbers = [ledger.tell("info", "test", f"event {n}") for n in range(5)]
    assert numbers == sorted(set(numbers))
    assert [event.text for event in ledger.events(after=numbers[2])] == ["event 3", "event 4"]
    assert ledger.events()[0].at["boot_id"]


def _count(path: Path, times: int) -> list[int]:
    with Ledger(path) as ledger:
        return [ledger.next_sequence() for _ in range(times)]


def test_numbers_given_to_several_processes_are_all_different(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        told = pool.starmap(_count, [(path, 50)] * 3)
    assert sorted(number for part in told for number in part) == list(range(1, 151))
    assert all(part == sorted(part) for part in told)


def test_what_was_committed_is_durable(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.path) as base:
        assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ledger._base.connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(content)
    with pytest.raises(LedgerDamaged, match="sets it aside"):
        Ledger(tmp_path / "ledger.sqlite").check()


def test_a_ledger_of_a_later_version_is_refused(ledger: Ledger) -> None:
    ledger.close()
    with sqlite3.connect(ledger.path) as base:
        base.execute("PRAGMA user_version=7")
    base.close()
    with pytest.raises(LedgerDamaged, match="version 7"):
        Ledger(ledger.path)
