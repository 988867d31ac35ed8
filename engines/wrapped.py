"""An engine around another one, which gives its answers in its own way."""

from __future__ import annotations

from pathlib import Path

from engines.engine import ClosesOnExit, Engine, Prediction, Tiles
from engines.manifest import Manifest


class WrappedEngine(ClosesOnExit):
    """Keeps the Engine contract by asking another engine; `close` does not close that one, its owner does.

    Args:
        engine: the wrapped engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def manifest(self) -> Manifest:  # type: ignore[override] # asked of the wrapped engine each time
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
    def tile_sides(self) -> tuple[int, ...]:
        """See Engine."""
        return self._engine.tile_sides

    @property
    def digest(self) -> str:
        """Of the wrapped engine: the wrapping does not change the output."""
        return self._engine.digest

    @property
    def folder(self) -> Path | None:
        """See Engine."""
        return self._engine.folder

    def infer(self, tiles: Tiles) -> Prediction:
        """See Engine."""
        return self._engine.infer(tiles)

    def close(self) -> None:
        """Does nothing: the owner of the wrapped engine closes it."""
