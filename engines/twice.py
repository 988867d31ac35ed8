"""Tiles computed twice: what a transient fault changes in one computation, another one shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from engines.engine import Engine, Prediction, Tiles
from engines.errors import AnswerChanged, SettingRefused
from engines.manifest import Manifest
from engines.self_check import same_answer

if TYPE_CHECKING:
    from typing_extensions import Self


class TwiceEngine:
    """An engine that computes a share of its calls twice; where the two differ, a third one decides.

    Keeps the Engine contract; closing is left to the owner of the engine within.

    Args:
        engine: that computes.
        share: of calls, 0..1, evenly spread.
        differed: called with a text where two computations of the same tiles differed.

    Raises:
        SettingRefused: the share is none.
    """

    def __init__(self, engine: Engine, share: float, differed: Callable[[str], object]) -> None:
        if not 0 <= share <= 1:
            raise SettingRefused("share of tiles computed twice", share, "a number from 0 to 1")
        self._engine, self._share, self._differed = engine, share, differed
        self._due = 0.0

    @property
    def manifest(self) -> Manifest:
        """See Engine."""
        return self._engine.manifest

    @property
    def backend(self) -> str:
        """See Engine."""
        return self._engine.backend

    @property
    def precision(self) -> str:
        """See Engine."""
        return self._engine.precision

    @property
    def max_batch(self) -> int:
        """See Engine."""
        return self._engine.max_batch

    @property
    def digest(self) -> str:
        """See Engine: what is said does not depend on how often it is computed."""
        return self._engine.digest

    @property
    def folder(self) -> Path | None:
        """See Engine."""
        return self._engine.folder

    def infer(self, tiles: Tiles) -> Prediction:
        """See Engine.

        Raises:
            AnswerChanged: three computations of the same tiles all differ.
        """
        first = self._engine.infer(tiles)
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

    def close(self) -> None:
        """Nothing: the engine within is not this one's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
