"""Who looks over a long run's shoulder: stops it between batches, and doubts its engine now and then."""

from __future__ import annotations


class Watch:
    """Does nothing: a run by hand is stopped by a signal and has checked its engine at the start.

    Every method is called on the thread that drives the engine, so it may use the engine.

    Attributes:
        doubts: tiles inferred since the last good check are done again when the engine fails.
    """

    doubts = False

    def before_batch(self) -> None:
        """Called before each batch.

        Raises:
            MappingStopped: the run ends here; what is finished stays, the same request continues.
        """

    def check_due(self) -> bool:
        """Whether it is time to check the engine, between two batches."""
        return False

    def check(self) -> None:
        """Checks the engine; also called once after the last tile, before anything is published.

        Raises:
            EngineError: it no longer computes what the reference does.
        """
