from __future__ import annotations

import re
from pathlib import Path

import pytest

from onboard.jobs.ledger import Ledger
from onboard.jobs.scene_states import STATES, TRANSITIONS
from onboard.jobs.scene_store import SceneRow

ROOT = Path(__file__).resolve().parents[3]
ROW = SceneRow("s1", 1, "a" * 64, 10, "a scene", "routine", None, "model", "{}", {})


def test_the_service_page_shows_the_table_of_changes() -> None:
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([\w, ]+) \| (\w+) \| (.+) \|$", page, flags=re.MULTILINE)
    expected = [(name, ", ".join(t.before), t.after, t.reason) for name, t in TRANSITIONS.items()]
    assert [row for row in rows if row[0] in TRANSITIONS] == expected


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_change_begins_only_from_its_states(tmp_path: Path, name: str, state: str) -> None:
    transition = TRANSITIONS[name]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.scenes.add(ROW)
        with ledger._database.numbered():
            ledger._database.change("UPDATE scenes SET state = ?", state)
            assert ledger.scenes.change_state("s1", transition) == (state in transition.before)
        assert ledger.scenes.state_of("s1") == (transition.after if state in transition.before else state)


def test_a_change_is_narrowed_to_states_of_the_table_only() -> None:
    assert TRANSITIONS["fail"].narrowed(("running",)).before == ("running",)
    with pytest.raises(ValueError, match="does not change from"):
        TRANSITIONS["fail"].narrowed(("mapped",))


def test_every_state_is_reached_and_left() -> None:
    assert {t.after for t in TRANSITIONS.values()} == set(STATES)
    assert {state for t in TRANSITIONS.values() for state in t.before} == set(STATES)
