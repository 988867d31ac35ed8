"""Models in the ledger: one is active, changes go by the table, and the way back leads to the last good one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from onboard.jobs.ledger import Ledger
from onboard.jobs.model_states import MODEL_STATES, MODEL_TRANSITIONS
from onboard.jobs.model_store import ModelRow, ModelStore
from onboard.models.failures import count_crash, count_failure

SHIPPED = ModelRow("0" * 64, 0, "tiny", "1.0", "shipped", "standby", files={"model.onnx": {"sha256": "a", "bytes": 1}})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.models.note_shipped(SHIPPED)
        yield ledger


def verified(store: ModelStore, number: int) -> str:
    model_id = f"{number:064x}"
    assert store.name_signed(model_id, "tiny", f"{number}.0", {}, 1)
    assert store.complete(model_id)
    assert store.verify(model_id, "it opens", {"tile_s": 0.1})
    return model_id


def states(store: ModelStore) -> dict[str, str]:
    return {row.version: row.state for row in store.all()}


def test_the_shipped_model_is_active_until_another_one_is(ledger: Ledger) -> None:
    store = ledger.models
    second = verified(store, 2)
    assert states(store) == {"1.0": "active", "2.0": "verified"}
    assert store.activate(second, "by a test")
    assert states(store) == {"1.0": "standby", "2.0": "active"}
    store.note_shipped(SHIPPED)  # as at a start
    assert states(store) == {"1.0": "standby", "2.0": "active"}


def test_another_shipped_model_takes_the_place_of_the_one_before(ledger: Ledger) -> None:
    ledger.models.note_shipped(replace(SHIPPED, id="f" * 64, version="1.1"))
    assert states(ledger.models) == {"1.1": "active"}


@pytest.mark.parametrize("state", ["receiving", "received", "refused"])
def test_what_is_not_verified_cannot_be_activated(ledger: Ledger, state: str) -> None:
    store, model_id = ledger.models, "2" * 64
    store.name_signed(model_id, "tiny", "2.0", {}, 1)
    if state != "receiving":
        store.complete(model_id)
    if state == "refused":
        store.refuse(model_id, "wrong")
    assert not store.activate(model_id, "by a test")
    assert states(store) == {"1.0": "active", "2.0": state}


def test_two_models_are_never_active(ledger: Ledger) -> None:
    import sqlite3

    second = verified(ledger.models, 2)
    with pytest.raises(sqlite3.IntegrityError), ledger._database.writing():
        ledger._database.change("UPDATE models SET state = 'active' WHERE id = ?", second)


def test_after_so_many_failures_the_last_good_model_is_active(ledger: Ledger) -> None:
    store = ledger.models
    second, third = verified(store, 2), verified(store, 3)
    store.activate(second, "by a test")
    store.prove(second)
    store.activate(third, "by a test")
    for number in range(3):
        row = store.active()
        assert row is not None
        assert row.id == third
        assert count_failure(ledger, row, "it computes wrong", 3) == (number == 2)
    assert states(store) == {"1.0": "standby", "2.0": "active", "3.0": "retired"}
    kinds = [event.kind for event in ledger.events.page()]
    assert kinds == ["model-failed", "model-failed", "model-rolled-back"]


def test_a_mapped_scene_ends_the_count_of_failures(ledger: Ledger) -> None:
    store = ledger.models
    second = verified(store, 2)
    store.activate(second, "by a test")
    for _ in range(5):
        row = store.active()
        assert row is not None
        assert not count_failure(ledger, row, "once", 2)
        store.prove(second)
    assert store.active_id() == second


def test_the_last_resort_stays_whatever_happens(ledger: Ledger) -> None:
    for _ in range(10):
        row = ledger.models.active()
        assert row is not None
        assert not count_failure(ledger, row, "lost", 3)
    assert states(ledger.models) == {"1.0": "active"}
    assert not ledger.events.page()


def test_a_crash_counts_against_a_model_that_is_new_or_is_being_opened(ledger: Ledger) -> None:
    store = ledger.models
    second = verified(store, 2)
    store.activate(second, "by a test")
    assert not count_crash(ledger, "signal SIGSEGV", 2, while_opening=False)
    store.prove(second)
    for _ in range(5):  # a proved model: the scene is to blame, or the machine
        assert not count_crash(ledger, "signal SIGKILL", 2, while_opening=False)
    assert not count_crash(ledger, "signal SIGSEGV", 2, while_opening=True)
    assert count_crash(ledger, "signal SIGSEGV", 2, while_opening=True)
    assert states(store) == {"1.0": "active", "2.0": "retired"}


def test_changes_only_go_by_the_table(ledger: Ledger) -> None:
    store = ledger.models
    second = verified(store, 2)
    assert not store.complete(second)
    assert not store.verify(second, "again", {})
    assert not store.retire(SHIPPED.id, "it is active")
    assert store.retire(second, "not wanted")
    assert not store.refuse(second, "too late")
    assert store.begin_again(second, 2)
    assert states(store)["2.0"] == "receiving"


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "uplink.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([a-z, ]+) \| (\w+) \| (.+) \|$", page, re.MULTILINE)
    shown = {
        name: (tuple(before.split(", ")), after, reason)
        for name, before, after, reason in rows
        if after in MODEL_STATES
    }
    assert shown == {name: (change.before, change.after, change.reason) for name, change in MODEL_TRANSITIONS.items()}
    assert all(f"| {state} |" in page for state in MODEL_STATES)
