"""A distillation small enough to run in a test: a SAM of four blocks, a student of four, tiles of 64 pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.distill.settings import DistillSettings

SAM = {
    "kind": "sam", "levels": [1, 2, 3], "patch": 8,
    "shape": {"width": 24, "depth": 4, "heads": 2, "window": 3, "global_blocks": [2, 4], "image": 64, "patch": 8},
    "mmoa": {"fine": [1, 2], "coarse": [3]},
}  # fmt: skip
TINY: dict[str, Any] = {
    "name": "tiny", "max_steps": 6, "stages": [{"until": 1.0, "crop": 64, "batch": 2}],
    "student": {"width": 16, "depth": 4, "heads": 2, "stem": "linear", "patch": 8, "window": None, "kv_pool": 1,
                "global_blocks": [], "out_blocks": [1, 2, 3, 4], "positions": 8},
    "student_levels": [1, 2, 3], "head": {"depth": 1, "heads": 2}, "teachers": {"sam": SAM},
    "schedule": {"window": 2}, "learning_rate": 1.0e-3, "average": 0.5,
    "machine": {"accelerator": "cpu", "precision": "32-true"},
}  # fmt: skip


@pytest.fixture
def tiny() -> dict[str, Any]:
    """Settings as a configuration file gives them."""
    return dict(TINY)


@pytest.fixture
def settings_with() -> Callable[..., DistillSettings]:
    """The tiny settings, with changes."""

    def made(**changes: Any) -> DistillSettings:
        return DistillSettings.model_validate(TINY | changes)

    return made


@pytest.fixture
def tiles() -> list[NDArray[np.uint8]]:
    """Ten tiles of 72 pixels: blobs of colour, so that there is something to guess."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (10, 3, 6, 6), dtype=np.uint8)
    return list(coarse.repeat(12, axis=2).repeat(12, axis=3))
