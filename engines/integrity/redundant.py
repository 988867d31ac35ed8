"""Detects transient faults by computing a share of the calls twice and comparing the results."""

from __future__ import annotations

from collections.abc import Callable

from engines.engine import Engine, Prediction, Tiles
from engines.errors import AnswerChanged, SettingRefused
from engines.integrity.self_check import same_answer
from engines.wrapped import WrappedEngine


class RedundantEngine(WrappedEngine):
    """Wraps an engine and computes a share of the calls twice; where both differ, a third computation decides.

    Args:
        engine: the wrapped engine.
        share: of calls that are computed twice, 0..1, evenly spread.
        differed: called with a text where two computations of the same tiles differed.

    Raises:
        SettingRefused: the share is not a number from 0 to 1.
    """

    def __init__(self, engine: Engine, share: float, differed: Callable[[str], object]) -> None:
        if not 0 <= share <= 1:
            raise SettingRefused("share of tiles computed twice", share, "a number from 0 to 1")
        super().__init__(engine)
        self._share, self._differed = share, differed
        self._due = 0.0

    def infer(self, tiles: Tiles) -> Prediction:
        """See Engine.

        Raises:
            AnswerChanged: three computations of the same tiles all differ.
        """
        first = self._engine.infer(tiles)
        # A sum instead of a draw: a share of 0.25 is every fourth call, so calls are spread evenly and runs repeat.
        self._due += self._share
        if self._due < 1:
            return first
        self._due -= 1
        second = self._engine.infer(tiles)
        if same_answer(first, second):
            return first
        third = self._engine.infer(tiles)
        self._differed("two computations of the same tiles differed; a third one decided")
        if same_answer(first, third):
            return first
        if same_answer(second, third):
            return second
        differing = int((first.classes != third.classes).sum())
        raise AnswerChanged(self.backend, self.precision, differing=differing)
