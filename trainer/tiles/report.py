"""Report of how many tiles of each source were accepted or rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.command_line import counted
from trainer.tiles.reject import REASONS
from trainer.tiles.sources import in_words
from trainer.tiles.tally import SourceTally, Tally

MOST_LINES = 200
"""Largest number of sources with a row each; of more, only those with a problem and the totals are listed."""


@dataclass(frozen=True)
class Report:
    """The report of a finished folder; ``files`` are the sources in the order of the tally's numbers."""

    out: Path
    files: Sequence[Path]
    tally: Tally

    def summary(self) -> str:
        """A few lines for the terminal."""
        looked = self.tally.kept + sum(self.tally.dropped.values())
        sources = counted(len(self.files), "source")
        lines = [f"{self.tally.kept} tiles kept of {looked} looked at, from {sources}, in {in_words(self.out)}"]
        lines += [f"{count:>8} dropped: {reason}" for reason, count in self._reasons()]
        problems = [number for number, source in self.tally.sources.items() if source.problem]
        # A few lines for the terminal; thousands of damaged files would push the totals out of sight.
        lines += [f"{in_words(self.files[number])}: {self.tally.sources[number].problem}" for number in problems[:5]]
        if len(problems) > 5:
            lines.append(f"... and {len(problems) - 5} more sources with a problem, see report.md")
        return "\n".join(lines)

    def reasons(self) -> str:
        """Why tiles were dropped and how many, in a few words; empty where none was."""
        return ", ".join(f"{reason}: {count}" for reason, count in self._reasons())

    def markdown(self) -> str:
        """The complete report."""
        lines = ["# Tiles\n", f"{self.tally.kept} kept, from {counted(len(self.files), 'source')}.\n"]
        lines += ["| reason | dropped |", "|---|---|"]
        lines += [f"| {reason} | {count} |" for reason, count in self._reasons()]
        lines += ["\n![kept and dropped](contact.png)\n", "## Sources\n"]
        shown = sorted(self.tally.sources.items())
        if len(shown) > MOST_LINES:
            lines.append(f"The first {MOST_LINES}, and every one with a problem.\n")
            shown = [(number, tally) for number, tally in shown if tally.problem or number < MOST_LINES]
        reasons = [reason for reason, _ in self._reasons()]
        lines.append("| " + " | ".join(["source", "kept", *reasons, "problem"]) + " |")
        lines.append("|" + "---|" * (len(reasons) + 3))
        lines += [self._line(number, tally, reasons) for number, tally in shown]
        return "\n".join(lines) + "\n"

    def _line(self, number: int, source: SourceTally, reasons: Sequence[str]) -> str:
        cells = [in_words(self.files[number]), str(source.kept)]
        cells += [str(source.dropped.get(reason, "")) for reason in reasons]
        return "| " + " | ".join([*cells, source.problem or ""]) + " |"

    def _reasons(self) -> list[tuple[str, int]]:
        dropped: Counter[str] = self.tally.dropped
        return [(reason, dropped[reason]) for reason in REASONS if dropped[reason]]
