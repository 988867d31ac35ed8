"""Whether an engine still answers, byte for byte, as it did when it was opened and verified.

The golden tile's tolerance (engines.verify) decides whether an engine is the model at all; it is too wide to notice a
flipped bit. From its opening on an engine is compared with itself: all that it gives of a packed tile, for
equality. Measured: ONNX Runtime and OpenVINO (FP32, bfloat16) repeat themselves bit for bit, from call to call, from
process to process and whatever the number of threads (docs/radiation.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.engine import Engine, Prediction, Tiles
from engines.errors import AnswerChanged
from engines.packed_tile import packed_tile, variants
from engines.verify import golden_tiles, pixel_agreement, read_packed


@dataclass(frozen=True)
class SelfCheck:
    """An engine's answer at its opening.

    Attributes:
        tiles: what it was asked, (1, bands, S, S).
        answer: what it said.
        exact: whether it said the same when asked twice. One that does not is held to the share of pixels in
            `least_agreement` instead, which sees large faults only.
        least_agreement: 1 where exact.
    """

    tiles: Tiles
    answer: Prediction
    exact: bool = True
    least_agreement: float = 1.0

    @classmethod
    def of(cls, engine: Engine) -> SelfCheck:
        """Asks an engine that was just opened, twice.

        Raises:
            InferenceFailed: the runtime failed.
        """
        tiles = check_tiles(engine)
        answer, again = engine.infer(tiles), engine.infer(tiles)
        if same_answer(answer, again):
            return cls(tiles, answer)
        apart = 1 - pixel_agreement(answer.classes, again.classes)
        return cls(tiles, answer, exact=False, least_agreement=max(0.0, 1 - 4 * apart - 1e-4))

    def check(self, engine: Engine) -> None:
        """Asks again.

        Raises:
            AnswerChanged: it says something else.
            InferenceFailed: the runtime failed.
        """
        again = engine.infer(self.tiles)
        if same_answer(self.answer, again):
            return
        agreement = pixel_agreement(self.answer.classes, again.classes)
        if self.exact or agreement < self.least_agreement:
            raise AnswerChanged(engine.backend, engine.precision, differing=round((1 - agreement) * again.classes.size))


def same_answer(one: Prediction, other: Prediction) -> bool:
    """Whether classes, confidence and familiarity are equal, byte for byte."""
    return np.array_equal(one.classes, other.classes) and all(
        array is another if array is None or another is None else array.tobytes() == another.tobytes()
        for array, another in ((one.confidence, other.confidence), (one.familiarity, other.familiarity))
    )


def check_tiles(engine: Engine) -> Tiles:
    """The model's packed tile (1, bands, S, S); made here of its golden tile where the model was packaged without."""
    if engine.manifest.golden is not None and engine.folder is not None:
        packed = read_packed(engine.manifest, engine.folder)
        if packed is not None:
            return packed
    return packed_tile(variants(golden_tiles(engine, 1)[0]))[np.newaxis]
