"""Counts of accepted and rejected tiles for each source."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from onboard.scene.grid import Window


@dataclass
class SourceTally:
    """Counts of one source: accepted tiles, rejected tiles by reason, and the file's problem, if any."""

    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    problem: str | None = None

    def drop(self, reason: str) -> None:
        """Counts one rejected tile."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


@dataclass(frozen=True)
class DroppedTile:
    """An example for the contact sheet. `window` is None where the whole source was dropped."""

    source: int
    reason: str
    detail: str
    window: Window | None

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able form, read again by :meth:`of`."""
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> DroppedTile:
        """The tile of such a form."""
        window = facts["window"]
        return cls(facts["source"], facts["reason"], facts["detail"], Window(**window) if window else None)


@dataclass
class Tally:
    """Counts of a run. `examples` has at most `most_examples` rejected tiles per reason; sources by number."""

    sources: dict[int, SourceTally] = field(default_factory=dict)
    examples: list[DroppedTile] = field(default_factory=list)
    most_examples: int = 8

    def of(self, source: int) -> SourceTally:
        """The counts of a source, which the caller may change."""
        return self.sources.setdefault(source, SourceTally())

    def drop(self, source: int, reason: str, detail: str, window: Window | None) -> None:
        """Counts a rejected tile; the first few of each reason become examples."""
        self.of(source).drop(reason)
        # The first ones, not a random choice: a resumed run has to draw the same sheet.
        if sum(example.reason == reason for example in self.examples) < self.most_examples:
            self.examples.append(DroppedTile(source, reason, detail, window))

    @property
    def kept(self) -> int:
        """Tiles kept."""
        return sum(source.kept for source in self.sources.values())

    @property
    def dropped(self) -> Counter[str]:
        """Tiles dropped by reason, over all sources."""
        total: Counter[str] = Counter()
        for source in self.sources.values():
            total.update(source.dropped)
        return total
