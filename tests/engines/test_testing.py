from __future__ import annotations

import time

import numpy as np
import pytest

from engines.engine import Prediction
from engines.errors import SettingRefused
from engines.testing import ConstantEngine, IdentityEngine


def test_the_constant_engine_says_its_code() -> None:
    with ConstantEngine(code=7, tile_size=8, bands=4) as engine:
        assert (engine.infer(np.zeros((2, 4, 8, 8), np.uint8)).classes == 7).all()
        assert len(engine.manifest.classes) == 7


def test_the_identity_engine_says_the_first_band_and_one_for_zero() -> None:
    tile = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    with IdentityEngine(tile_size=16) as engine:
        classes = engine.infer(np.concatenate([tile, tile * 0, tile * 0], axis=1)).classes
    assert np.array_equal(classes.ravel(), [1, *range(1, 256)])


def test_all_colours_of_the_identity_engine_differ() -> None:
    classes = IdentityEngine(tile_size=16).manifest.classes
    assert len({item.color for item in classes}) == len(classes) == 255


def test_the_delay_is_slept_for_each_tile() -> None:
    with ConstantEngine(tile_size=8, delay_s=0.02) as engine:
        begin = time.monotonic()
        engine.infer(np.zeros((3, 3, 8, 8), np.uint8))
        assert time.monotonic() - begin >= 0.06


def test_engines_that_say_other_things_have_other_digests() -> None:
    digests = {
        ConstantEngine(code=1).digest,
        ConstantEngine(code=2).digest,
        ConstantEngine(code=1, confidence=True).digest,
        ConstantEngine(code=1, tile_size=64).digest,
        IdentityEngine().digest,
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    "options", [{"code": 0}, {"code": 256}, {"max_batch": 0}, {"delay_s": -1}, {"delay_s": np.nan}]
)
def test_impossible_engines_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(SettingRefused):
        ConstantEngine(**options)  # type: ignore[arg-type]


def test_a_prediction_holds_itself_to_its_shape() -> None:
    classes = np.ones((1, 4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"uint8 \(N, h, w\)"):
        Prediction(classes, np.ones((1, 4, 5), np.uint8))
    with pytest.raises(ValueError, match="int64"):
        Prediction(classes.astype(np.int64))
    with pytest.raises(ValueError, match="uint8"):
        Prediction(classes[0])
