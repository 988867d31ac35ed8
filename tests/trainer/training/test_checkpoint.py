"""Facts of a checkpoint: what every reader may rely on, and what is refused as damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.errors import CheckpointRefused
from trainer.training.checkpoint import read_facts


def state_in(run: Path, content: bytes) -> Path:
    folder = run / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (folder / "state.json").write_bytes(content)
    return run


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[1,2]", "no facts by name"),
        (b"null", "no facts by name"),
        (b"{}", "no 'step'"),
        (b'{"settings": {}}', "no 'step'"),
        (b'{"step": "one", "settings": {}}', "no 'step' in it, or of another kind"),
        (b'{"step": 1}', "no 'settings'"),
        (b'{"step": 1, "settings": []}', "no 'settings' in it, or of another kind"),
        (b'{"step": 1, "settings": {"name": "\xff\xfe"}}', "utf-8"),
        (b'{"step": 1, "sett', "Unterminated string"),
        (b"", "Expecting value"),
    ],
)
def test_a_damaged_state_is_refused_by_its_path(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(CheckpointRefused, match=rf"step-00000001/state\.json: damaged \(.*{problem}.*give the folder"):
        read_facts(state_in(tmp_path, content))


def test_whole_facts_are_given_as_they_are(tmp_path: Path) -> None:
    assert read_facts(state_in(tmp_path, b'{"step": 1, "settings": {}, "more": 2}')) == {
        "step": 1, "settings": {}, "more": 2,
    }  # fmt: skip
