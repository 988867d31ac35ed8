"""docs/telemetry.md names every kind of event: an operator who meets one finds it there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOGGED = re.compile(r'"(?:info|warning|error)",\s*"([a-z]+(?:-[a-z]+)*)"')
SHORTENED = re.compile(r"(?:scene|map)-(?:adopted|missing|unreadable)")
"""The page has their two halves."""


def test_the_page_has_every_kind_of_event() -> None:
    kinds = {kind for path in (ROOT / "onboard").rglob("*.py") for kind in LOGGED.findall(path.read_text("utf-8"))}
    kinds -= {"warning"}  # of the table of severities
    assert {"source-lost", "model-verified", "recovery", "ledger-restored"} <= kinds
    page = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", page))
    assert not {kind for kind in kinds - named if not SHORTENED.fullmatch(kind)}
