"""States of a scene in the ledger, and the one table of changes between them. docs/service.md shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Priority = Literal["urgent", "high", "routine"]
State = Literal["queued", "running", "mapped", "failed", "quarantined", "cancelled"]
PRIORITIES: Final[tuple[str, ...]] = get_args(Priority)
"""The most urgent first; the ledger stores the index."""
STATES: Final[tuple[str, ...]] = get_args(State)
RETRYABLE_STATES: Final = ("failed", "quarantined", "cancelled")
"""States from which the same bytes, delivered again, are a new attempt."""


@dataclass(frozen=True)
class Transition:
    """A change of state.

    Attributes:
        before: states that it may begin from; from any other one nothing is changed.
        after: the state that follows.
        reason: when it happens, for docs/service.md.
    """

    before: tuple[str, ...]
    after: str
    reason: str

    def narrowed(self, before: tuple[str, ...]) -> Transition:
        """The same change, from fewer states.

        Raises:
            ValueError: the table does not allow one of them.
        """
        if not set(before) <= set(self.before):
            raise ValueError(f"a scene does not change from {before} to {self.after}")
        return Transition(before, self.after, self.reason)


TRANSITIONS: Final[Mapping[str, Transition]] = {
    "start": Transition(("queued",), "running", "the worker begins to map it"),
    "requeue": Transition(
        ("running",), "queued", "an urgent scene, a stop, or the end of the worker or its engine interrupts it"
    ),
    "finish": Transition(("running",), "mapped", "its map is published"),
    "fail": Transition(("queued", "running"), "failed", "it cannot be mapped, or its file is gone from the disk"),
    "quarantine": Transition(("queued", "running"), "quarantined", "it ended the worker too often"),
    "cancel": Transition(("queued", "running", "mapped", "failed", "quarantined"), "cancelled", "`DELETE /scenes/ID`"),
    "retry": Transition(RETRYABLE_STATES, "queued", "the same bytes are delivered again"),
    "adopt": Transition(
        ("queued", "running", "mapped", "failed", "quarantined"),
        "mapped",
        "at a start: a finished map that is found on the disk is accepted",
    ),
    "remap": Transition(("mapped",), "queued", "at a start: its map is gone, its file is there"),
    "lose": Transition(("mapped",), "failed", "its map is gone or erased before the ground had it"),
}
