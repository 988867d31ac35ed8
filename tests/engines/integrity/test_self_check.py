from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.engine import Prediction, Tiles
from engines.errors import AnswerChanged, ModelMismatch, SettingRefused
from engines.integrity.packed_tile import packed_tile, variants
from engines.integrity.redundant import RedundantEngine
from engines.integrity.self_check import SelfCheck, check_tiles, same_answer
from engines.manifest import Manifest
from engines.open import open_engine
from engines.testing import IdentityEngine
from engines.verify import read_golden, read_packed, verify_golden, write_golden


class Flipping(IdentityEngine):
    """Says what the tiles hold, and from a call on one pixel of a batch wrong, for so many calls."""

    def __init__(self, first: int, last: int = 10**9, wrong: int = 1) -> None:
        super().__init__(tile_size=64)
        self.first, self.last, self.wrong, self.calls = first, last, wrong, 0

    def infer(self, tiles: Tiles) -> Prediction:
        answer = super().infer(tiles)
        self.calls += 1
        if self.first <= self.calls <= self.last:
            classes = answer.classes.copy()
            classes[0, 0, : self.wrong] ^= 1 + self.calls % 3
            return Prediction(classes, answer.confidence)
        return answer


def test_one_pixel_that_differs_from_the_first_answer_is_too_many() -> None:
    engine = Flipping(first=4)
    check = SelfCheck.of(engine)
    assert check.exact
    check.check(engine)
    with pytest.raises(AnswerChanged, match="1 pixels of the check tile changed since the engine was opened"):
        check.check(engine)


def test_confidence_is_compared_as_well() -> None:
    classes = np.ones((1, 4, 4), np.uint8)
    sure = np.full_like(classes, 200)
    assert same_answer(Prediction(classes, sure), Prediction(classes.copy(), sure.copy()))
    other = sure.copy()
    other[0, 1, 1] += 1
    assert not same_answer(Prediction(classes, sure), Prediction(classes, other))
    assert not same_answer(Prediction(classes, sure), Prediction(classes))


def test_an_engine_that_does_not_repeat_itself_is_held_to_a_share() -> None:
    engine = Flipping(first=2, last=3)
    check = SelfCheck.of(engine)
    assert not check.exact
    assert 0.9 < check.least_agreement < 1
    check.check(engine)
    engine.first, engine.last, engine.wrong = 1, 10**9, 64
    engine.infer = lambda _: Prediction(np.full((1, 64, 64), 255, np.uint8))  # type: ignore[method-assign, assignment]
    with pytest.raises(AnswerChanged):
        check.check(engine)


def test_the_golden_tiles_tolerance_does_not_see_what_the_own_answer_shows(tiny_model: Path) -> None:
    """Issue 18: 57 of 66 wrong maps would have been seen by equality, none by 99.9 % of the pixels."""
    with open_engine(tiny_model, backend="onnxruntime") as engine:
        check, whole = SelfCheck.of(engine), engine.infer

        def infer(tiles: Tiles) -> Prediction:
            answer = whole(tiles)
            classes = answer.classes.copy()
            classes[0, 3, 3] = 1 + classes[0, 3, 3] % 4
            return Prediction(classes, answer.confidence)

        engine.infer = infer  # type: ignore[method-assign]
        assert verify_golden(engine) is not None
        with pytest.raises(AnswerChanged):
            check.check(engine)


def test_a_packaged_packed_tile_is_what_the_engine_is_asked(tiny_model: Path) -> None:
    manifest = Manifest.load(tiny_model)
    tile, classes = read_golden(manifest, tiny_model)
    assert read_packed(manifest, tiny_model) is None
    with open_engine(tiny_model, backend="onnxruntime") as engine:
        made = check_tiles(engine)
    assert made.shape == tile.shape
    golden = write_golden(
        tiny_model, tile=tile[0], classes=classes, least_agreement={"fp32": 0.999}, packed=255 - tile[0]
    )
    manifest.model_copy(update={"golden": golden}).save(tiny_model)
    with open_engine(tiny_model, backend="onnxruntime") as engine:
        assert np.array_equal(check_tiles(engine), 255 - tile)
        assert not np.array_equal(check_tiles(engine), made)


def test_a_packed_tile_of_another_shape_is_refused(tiny_model: Path) -> None:
    manifest = Manifest.load(tiny_model)
    tile, classes = read_golden(manifest, tiny_model)
    golden = write_golden(
        tiny_model, tile=tile[0], classes=classes, least_agreement={"fp32": 0.9}, packed=tile[0, :, 1:]
    )
    with pytest.raises(ModelMismatch, match="array packed"):
        read_packed(manifest.model_copy(update={"golden": golden}), tiny_model)


def test_crops_are_chosen_for_their_variety() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    classes = np.ones((3, 64, 64), np.uint8)
    classes[2, 16:32, 16:32] = np.arange(1, 5, dtype=np.uint8).repeat(64).reshape(16, 16)
    confidence = np.full_like(classes, 250)
    confidence[1, :16, :16] = np.arange(256, dtype=np.uint8).reshape(16, 16)
    packed = packed_tile(tiles, classes, confidence)
    places = [(row, col) for row in range(0, 64, 16) for col in range(0, 64, 16)]
    crops = {packed[:, row : row + 16, col : col + 16].tobytes() for row, col in places}
    assert tiles[2, :, 16:32, 16:32].tobytes() in crops
    assert tiles[1, :, :16, :16].tobytes() in crops
    assert packed_tile(tiles).shape == (3, 64, 64)
    assert variants(tiles[0]).shape == (6, 3, 64, 64)
    assert len({picture.tobytes() for picture in variants(tiles[0])}) == 6


def test_a_transient_fault_is_decided_by_a_third_computation() -> None:
    tiles = np.full((1, 3, 64, 64), 7, np.uint8)
    for hit in (1, 2):
        said: list[str] = []
        twice = RedundantEngine(Flipping(first=hit, last=hit), 1.0, said.append)
        assert (twice.infer(tiles).classes == 7).all()
        assert len(said) == 1
    with pytest.raises(AnswerChanged):
        RedundantEngine(Flipping(first=1), 1.0, lambda _: None).infer(tiles)


@pytest.mark.parametrize(("share", "calls"), [(0.0, 8), (0.25, 10), (0.5, 12), (1.0, 16)])
def test_so_large_a_share_is_computed_twice(share: float, calls: int) -> None:
    engine = Flipping(first=10**9)
    twice = RedundantEngine(engine, share, lambda _: None)
    for _ in range(8):
        twice.infer(np.zeros((1, 3, 64, 64), np.uint8))
    assert engine.calls == calls
    assert (twice.digest, twice.manifest) == (engine.digest, engine.manifest)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(SettingRefused, match="from 0 to 1"):
        RedundantEngine(Flipping(first=1), 1.5, lambda _: None)
