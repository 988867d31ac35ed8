from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onboard.scene.radiometry import Stretch


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "float64"])
@pytest.mark.parametrize("offset", [-(2**31), 0, 2**30, 2**31 - 3])
def test_large_numbers_close_together_keep_their_contrast(dtype: str, offset: int) -> None:
    if offset < 0 and dtype == "uint32":
        offset = 2**32 - 3
    steps = np.arange(3 * 8 * 8).reshape(3, 8, 8) % 3
    values = (steps + offset).astype(dtype)
    stretch = Stretch.measured(values, np.ones((8, 8), bool), (0.0, 100.0))
    assert np.array_equal(stretch.applied(values), np.array([0, 128, 255], np.uint8)[steps])


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_numbers_that_float32_holds_are_computed_in_it(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(3 * 8 * 8).reshape(3, 8, 8).astype(dtype)
    stretch = Stretch.measured(values, np.ones((8, 8), bool), (2.0, 98.0))
    seen: list[str] = []
    clip = np.clip

    def watched(scaled: NDArray[Any], low: float, high: float) -> Any:
        seen.append(str(scaled.dtype))
        return clip(scaled, low, high)

    monkeypatch.setattr(np, "clip", watched)
    stretch.applied(values)
    assert seen == ["float32"]
