"""Checks that an engine still gives, byte for byte, the output that it gave when it was opened and verified.

The tolerance of the golden tile (engines.verify) is too wide to notice a flipped bit. So after its opening an engine is
compared with itself: all its outputs for a packed tile must stay equal. Measured: ONNX Runtime and OpenVINO (FP32,
bfloat16) give identical bits in every call and every process, for any number of threads (docs/radiation.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.engine import Engine, Prediction, Tiles
from engines.errors import AnswerChanged
from engines.integrity.packed_tile import packed_tile, variants
from engines.verify import golden_tiles, pixel_agreement, read_packed


@dataclass(frozen=True)
class SelfCheck:
    """An engine's output for the check tile when it was opened.

    Attributes:
        tiles: the check tile, uint8 (1, bands, S, S).
        answer: the engine's output for it.
        exact: whether two calls gave equal bytes. Otherwise only a share of equal pixels is required, which detects
            large faults only.
        least_agreement: that share; 1 where exact.
    """

    tiles: Tiles
    answer: Prediction
    exact: bool = True
    least_agreement: float = 1.0

    @classmethod
    def of(cls, engine: Engine) -> SelfCheck:
        """Runs the check tile twice on an engine that was just opened.

        Raises:
            InferenceFailed: the runtime failed.
        """
        tiles = check_tiles(engine)
        # Two calls: only equal answers show that bytes can be compared at all.
        answer, again = engine.infer(tiles), engine.infer(tiles)
        if same_answer(answer, again):
            return cls(tiles, answer)
        # Two calls are a small sample: four times their difference is allowed, and one pixel in 10,000.
        apart = 1 - agreement_of(answer, again)
        return cls(tiles, answer, exact=False, least_agreement=max(0.0, 1 - 4 * apart - 1e-4))

    def check(self, engine: Engine) -> None:
        """Runs the check tile again and compares.

        Raises:
            AnswerChanged: the output differs.
            InferenceFailed: the runtime failed.
        """
        again = engine.infer(self.tiles)
        if same_answer(self.answer, again):
            return
        agreement = agreement_of(self.answer, again)
        if self.exact or agreement < self.least_agreement:
            raise AnswerChanged(engine.backend, engine.precision, differing=round((1 - agreement) * again.classes.size))


def same_answer(first: Prediction, second: Prediction) -> bool:
    """Whether classes, confidence and familiarity of two predictions are equal for all heads, byte for byte."""
    pairs: list[tuple[NDArray[Any] | None, NDArray[Any] | None]] = [(first.familiarity, second.familiarity)]
    for head, match in zip(first.heads, second.heads, strict=True):
        pairs += [(head.classes, match.classes), (head.confidence, match.confidence)]
    return all(
        # Bytes, not ==: a NaN equals itself, and -0.0 is another answer than 0.0.
        array is match if array is None or match is None else array.tobytes() == match.tobytes()
        for array, match in pairs
    )


def agreement_of(first: Prediction, second: Prediction) -> float:
    """Share of pixels with equal classes, of the head where it is smallest."""
    heads = zip(first.heads, second.heads, strict=True)
    return min(pixel_agreement(head.classes, match.classes) for head, match in heads)


def check_tiles(engine: Engine) -> Tiles:
    """The model's packed tile (1, bands, S, S); made from the golden tile where the model has none."""
    if engine.manifest.golden is not None and engine.folder is not None:
        packed = read_packed(engine.manifest, engine.folder)
        if packed is not None:
            return packed
    return packed_tile(variants(golden_tiles(engine, 1)[0]))[np.newaxis]


MOST_SHAPES = 9
"""Shapes of tiles that an engine meets at its opening: all, or the squares alone where there are more."""


def first_shapes(sides: Sequence[int]) -> list[tuple[int, int]]:
    """Heights and widths of tiles that an engine meets at its opening, the largest last.

    Args:
        sides: `tile_sides` of the engine, rising.
    """
    squares = [(side, side) for side in sides]
    return [(height, width) for height in sides for width in sides] if len(sides) ** 2 <= MOST_SHAPES else squares


def of_shapes(tiles: Tiles, shapes: Iterable[tuple[int, int]]) -> Iterator[Tiles]:
    """Crops of tiles (N, bands, S, S), of the largest side, one of each height and width."""
    return (tiles[:, :, :height, :width] for height, width in shapes)
