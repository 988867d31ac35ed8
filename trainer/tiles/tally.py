"""What was kept and what was dropped, source by source."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from onboard.scene.grid import Window
from trainer.tiles.reject import UNREADABLE


@dataclass
class SourceTally:
    """Of one source: tiles kept, tiles dropped by reason, and what was wrong with the file, if anything."""

    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    problem: str | None = None

    def drop(self, reason: str) -> None:
        """One tile more that is dropped."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    @property
    def was_read(self) -> bool:
        """Whether any of it could be read."""
        return self.problem is None or self.kept + sum(self.dropped.values()) > self.dropped.get(UNREADABLE, 0)


@dataclass(frozen=True)
class DroppedTile:
    """An example for the contact sheet. `window` is None where the whole source was dropped."""

    source: int
    reason: str
    detail: str
    window: Window | None

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able, taken up again by :meth:`of`."""
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> DroppedTile:
        """From its facts."""
        window = facts["window"]
        return cls(facts["source"], facts["reason"], facts["detail"], Window(**window) if window else None)


@dataclass
class Tally:
    """Of a run. `examples` holds at most `most_examples` dropped tiles a reason; sources are named by their number."""

    sources: dict[int, SourceTally] = field(default_factory=dict)
    examples: list[DroppedTile] = field(default_factory=list)
    most_examples: int = 8

    def of(self, source: int) -> SourceTally:
        """The source's tally, to be counted in."""
        return self.sources.setdefault(source, SourceTally())

    def drop(self, source: int, reason: str, detail: str, window: Window | None) -> None:
        """Counts a dropped tile; the first few of each reason become examples."""
        self.of(source).drop(reason)
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
