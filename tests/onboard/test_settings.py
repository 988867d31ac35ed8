"""Settings in groups: each in one group, each on the page, and names of before refused with the name of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onboard.errors import OptionsRefused
from onboard.setting_groups import GROUPS, RENAMED
from onboard.settings import PREFIX, Settings, read_settings, setting_lines, settings_as_json, settings_as_text

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def tables() -> str:
    """The tables of docs/settings.md as the settings are today."""
    parts = []
    for group, kind in GROUPS.items():
        rows = [line for line in setting_lines(Settings(data_dir=Path("/"))) if line.group == group]
        parts.append(f"## {group.capitalize()}\n{kind.__doc__}\n\n| setting | default | meaning |\n|---|---|---|\n")
        for line in rows:
            default = "" if line.default in (None, "") else f"`{line.default}`"
            parts.append(f"| `{line.key}` | {default} | {line.meaning} |\n")
        parts.append("\n")
    return "".join(parts)


def test_each_setting_is_in_one_group() -> None:
    names = [name for kind in GROUPS.values() for name in kind.model_fields]
    assert sorted(names) == sorted(Settings.model_fields)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_name_of_before_is_refused_with_the_name_of_today(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    assert old not in Settings.model_fields
    assert new in Settings.model_fields
    monkeypatch.setenv(PREFIX + old.upper(), "1")
    with pytest.raises(OptionsRefused) as refused:
        read_settings()
    assert refused.value.advice == (f"the setting {PREFIX}{old.upper()} has a new name; write {PREFIX}{new.upper()}")


def test_the_token_of_a_report_is_no_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """`onboard report URL` asks for this variable where it is refused: other commands of the same shell go on."""
    monkeypatch.setenv("ONBOARD_TOKEN", "secret")
    assert "secret" not in settings_as_text(read_settings())


def test_the_listing_has_a_heading_for_each_group() -> None:
    lines = settings_as_text(Settings(max_crashes=5)).splitlines()
    assert [line.partition(":")[0] for line in lines if not line.startswith((" ", "*"))] == list(GROUPS)
    (changed,) = [line for line in lines if line.startswith("*") and "MAX_CRASHES" in line]
    assert changed.split()[1:] == ["ONBOARD_MAX_CRASHES", "5", "(default:", "3)"]


def test_what_is_not_set_and_what_is_on_or_off_is_said_in_words() -> None:
    text = settings_as_text(Settings(watch_inbox=True, heads=""))
    values = {words[1 if words[0] == "*" else 0]: words for words in map(str.split, text.splitlines()) if words}
    assert values["ONBOARD_WATCH_INBOX"] == ["*", "ONBOARD_WATCH_INBOX", "on", "(default:", "off)"]
    assert values["ONBOARD_INBOX"][1:] == values["ONBOARD_HEADS"][1:] == ["not", "set"]
    shown = [line for line in text.splitlines() if "ONBOARD_" in line[:12]]
    assert not [line for line in shown if line.endswith(("None", "True", "False"))]


def test_values_for_programs_are_json() -> None:
    rows = {row["key"]: row["value"] for row in json.loads(settings_as_json(Settings()))}
    assert (rows["ONBOARD_INBOX"], rows["ONBOARD_WATCH_INBOX"]) == (None, False)


def test_the_page_has_every_setting() -> None:
    assert tables() in PAGE.read_text(encoding="utf-8"), f"write into {PAGE}:\n{tables()}"
