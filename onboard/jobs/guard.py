"""The engine in service: opened, held to its golden tile, taken out of service when it computes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable

from engines.engine import Engine
from engines.errors import EngineError
from engines.verify import GoldenCheck, verify_golden

Open = Callable[[], Engine]


class EngineGuard:
    """Owns the engine of one worker; used on the thread that drives it.

    Args:
        open_engine: opens and verifies an engine (digest of the file, then the golden tile).
        period_s: seconds between two checks while it works.
        verify: the check.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        open_engine: Open,
        *,
        period_s: float,
        verify: Callable[[Engine], GoldenCheck | None] = verify_golden,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open, self._verify, self._period_s, self._clock = open_engine, verify, period_s, clock
        self._engine: Engine | None = None
        self._checked = clock()

    @property
    def engine(self) -> Engine:
        """The engine in service.

        Raises:
            RuntimeError: there is none; open it first.
        """
        if self._engine is None:
            raise RuntimeError("no engine is open")
        return self._engine

    def open(self) -> Engine:
        """Opens it afresh from disk, in place of one that is open.

        Raises:
            EngineError: it cannot be opened, or does not compute what the reference does.
        """
        self.close()
        engine = self._open()
        try:
            self._verify(engine)
        except BaseException:
            engine.close()
            raise
        self._engine, self._checked = engine, self._clock()
        return engine

    def check_due(self) -> bool:
        """Whether the last check is long enough ago."""
        return self._clock() - self._checked >= self._period_s

    def check(self) -> None:
        """Holds the engine to its golden tile.

        Raises:
            EngineError: it fails; it is out of service until it is opened again.
        """
        try:
            self._verify(self.engine)
        except EngineError:
            self.close()
            raise
        self._checked = self._clock()

    def close(self) -> None:
        """Takes it out of service."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
