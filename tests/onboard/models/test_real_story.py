"""The whole way of a head that was really trained, with the shipped model; minutes, so only where it is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.onboard.models.real_story import Story


@pytest.mark.skipif(not os.environ.get("REAL_STORY"), reason="it takes minutes: REAL_STORY=1, or make campaign")
def test_a_trained_head_flies_and_bad_ones_do_not(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    steps = Story(tmp_path, shared_data / "openearthmap_tokyo" / "images").run()
    pushed = next(step for step in steps if step.up)
    assert pushed.up < 3_450_000  # a tenth of the 34.5 MB that a model of one graph took
