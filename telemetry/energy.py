"""Energy from samples of power by the trapezoidal rule; gaps are left out and reported.

The power between two samples that are too far apart is unknown: that time counts as a gap, not as energy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Energy:
    """Energy of one rail over some time.

    Attributes:
        joules: over the time that was measured.
        covered_s: seconds that were measured.
        gap_s: seconds between the first and the last sample that were not.
        peak_w: highest sample, None before the first.
    """

    joules: float = 0.0
    covered_s: float = 0.0
    gap_s: float = 0.0
    peak_w: float | None = None

    @property
    def mean_w(self) -> float | None:
        """Mean power over the measured time; None where nothing was measured."""
        return self.joules / self.covered_s if self.covered_s > 0 else None

    def since(self, before: Energy) -> Energy:
        """What came after an earlier state of the same meter; the peak is not known for a part."""
        return Energy(self.joules - before.joules, self.covered_s - before.covered_s, self.gap_s - before.gap_s)

    def plus(self, other: Energy) -> Energy:
        """Both together."""
        peaks = [peak for peak in (self.peak_w, other.peak_w) if peak is not None]
        return Energy(
            self.joules + other.joules, self.covered_s + other.covered_s, self.gap_s + other.gap_s,
            max(peaks, default=None),
        )  # fmt: skip

    def net_j(self, idle_w: float) -> float:
        """Joules above what the machine takes with nothing to do: net power = work - idle, as the paper has it."""
        return self.joules - idle_w * self.covered_s


class EnergyMeter:
    """Adds up one rail.

    Args:
        longest_s: two samples further apart than this have a gap between them.
    """

    def __init__(self, longest_s: float) -> None:
        self.longest_s = longest_s
        self.total = Energy()
        self._last: tuple[float, float] | None = None
        self._seen_s: float | None = None

    def add(self, at_s: float, watts: float | None) -> None:
        """A sample at a monotonic time; None: it could not be measured."""
        total = self.total
        if self._seen_s is not None and at_s <= self._seen_s:
            return  # energy never falls, and a time that comes twice has no width
        if watts is None:
            if self._seen_s is not None:
                self.total = Energy(total.joules, total.covered_s, total.gap_s + at_s - self._seen_s, total.peak_w)
            # Before the first sample nothing is missing: a gap has two ends.
            self._last, self._seen_s = None, at_s if self._seen_s is not None else None
            return
        joules = covered = gap = 0.0
        if self._seen_s is not None:
            span = at_s - self._seen_s
            # Across a longer span, or from a sample without a value, any figure would be a guess.
            if self._last is not None and span <= self.longest_s:
                joules, covered = (self._last[1] + watts) / 2 * span, span
            else:
                gap = span
        peak = watts if total.peak_w is None else max(total.peak_w, watts)
        # One assignment of a frozen value: another thread reads all of a sample or nothing of it.
        self.total = Energy(total.joules + joules, total.covered_s + covered, total.gap_s + gap, peak)
        self._last, self._seen_s = (at_s, watts), at_s
