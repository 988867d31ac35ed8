from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trainer.distill.settings import DistillSettings

STUDENT = {
    "width": 24, "depth": 2, "heads": 3, "stem": "linear", "window": None, "kv_pool": 1, "global_blocks": [],
    "out_blocks": [1, 2], "positions": 4,
}  # fmt: skip
SETTINGS = {
    "name": "tiny", "stages": [{"until": 1.0, "crop": 64, "batch": 2}], "max_steps": 1, "student": STUDENT,
    "student_levels": [1], "head": {"depth": 1, "heads": 3},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"student": STUDENT | {"stem": "lite0"}}, "stem lite0 cannot be masked"),
        ({"head": {"depth": 1, "heads": 5}}, "heads 5 does not divide the student's width 24"),
    ],
)
def test_what_could_not_be_built_is_refused_with_the_settings(changes: dict[str, Any], problem: str) -> None:
    DistillSettings.model_validate(SETTINGS)
    with pytest.raises(ValidationError, match=problem):
        DistillSettings.model_validate(SETTINGS | changes)
