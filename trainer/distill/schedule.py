"""Schedule of the loss weights: a state machine that only moves forward.

Source: Mask-CDKD (Shu et al. 2026): early to middle when the teacher reconstructs clearly better than the student,
middle to late when the student has caught up. The article's listing tests the first threshold first and so can never
reach "late"; here each state has its own way out.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

StageName = Literal["early", "middle", "late"]


class LossWeights(BaseModel):
    """Weights of the alignment loss and of the teacher's and the student's reconstruction losses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alignment: float = Field(ge=0)
    teacher: float = Field(ge=0)
    student: float = Field(ge=0)


class RelativeThresholds(BaseModel):
    """Thresholds relative to r's own course, for runs in which r never falls to the paper's 0.85.

    r starts high, falls while the teacher improves faster, and rises again as the student catches up; the size of the
    fall depends on both networks and the imagery. The early stage ends when r has risen again by the share ``turned``
    of its fall (first value minus lowest value so far), the middle stage at the share ``regained``. This is our
    extension of the paper.

    Attributes:
        turned, regained: shares of the fall.
        least_fall: a fall smaller than this is noise: no stage ends on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    turned: float = Field(default=0.15, gt=0, lt=1)
    regained: float = Field(default=0.5, gt=0, lt=1)
    least_fall: float = Field(default=0.03, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> RelativeThresholds:
        if self.turned > self.regained:
            raise ValueError(f"turned {self.turned} must not be above regained {self.regained}")
        return self


class ScheduleSettings(BaseModel):
    """Weights of each stage, and what ends it. Defaults are the paper's; it leaves ``window`` open.

    ``window`` is the steps that r's two losses are averaged over; no stage ends before so many steps of it.
    ``relative`` thresholds take the place of ``middle_below`` and ``late_above``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    early: LossWeights = LossWeights(alignment=0.20, teacher=0.40, student=0.40)
    middle: LossWeights = LossWeights(alignment=0.60, teacher=0.20, student=0.20)
    late: LossWeights = LossWeights(alignment=0.70, teacher=0.15, student=0.15)
    middle_below: float = 0.85
    late_above: float = 0.95
    window: int = Field(default=100, ge=1)
    relative: RelativeThresholds | None = None

    def weights(self, stage: StageName) -> LossWeights:
        """Of a stage."""
        weights: LossWeights = getattr(self, stage)
        return weights


@dataclass
class Schedule:
    """The stage a distillation is in. Create with settings; feed it every step's losses."""

    settings: ScheduleSettings
    stage: StageName = "early"

    def __post_init__(self) -> None:
        self._losses: deque[tuple[float, float]] = deque(maxlen=self.settings.window)
        self._first: float | None = None
        self._lowest = math.inf

    @property
    def weights(self) -> LossWeights:
        """Weights of the current stage."""
        return self.settings.weights(self.stage)

    def update(self, teacher: float, student: float) -> float:
        """Adds a step's reconstruction losses, advances the stage if due, and returns the smoothed ratio r.

        r is the teacher's loss divided by the student's, each averaged over the window first: a mean of quotients would
        be dominated by steps with a small student loss.
        """
        self._losses.append((teacher, student))
        r = sum(pair[0] for pair in self._losses) / sum(pair[1] for pair in self._losses)
        # A loss that is no number spoils the windows it is in: none of them is r's first or lowest, or ends a stage.
        if len(self._losses) == self.settings.window and math.isfinite(r):
            self._first = r if self._first is None else self._first
            # The lowest of all stages so far: the fall is of the whole course of r.
            self._lowest = min(self._lowest, r)
            if self.stage == "early" and self._ends_early(r):
                self._enter("middle")
            elif self.stage == "middle" and self._ends_middle(r):
                self._enter("late")
        return r

    def _ends_early(self, r: float) -> bool:
        relative = self.settings.relative
        return r < self.settings.middle_below if relative is None else self._regained(r, relative) >= relative.turned

    def _ends_middle(self, r: float) -> bool:
        relative = self.settings.relative
        return r > self.settings.late_above if relative is None else self._regained(r, relative) >= relative.regained

    def _regained(self, r: float, relative: RelativeThresholds) -> float:
        """Share of its fall that r has regained, 0 while there was none to speak of."""
        fall = (self._first or 0.0) - self._lowest
        return (r - self._lowest) / fall if fall >= relative.least_fall else 0.0

    def _enter(self, stage: StageName) -> None:
        self.stage = stage
        # Each stage begins with an empty window: losses under the former weights say nothing of the new ones.
        self._losses.clear()

    def state(self) -> dict[str, Any]:
        """JSON-able, for a checkpoint."""
        # JSON has no infinity.
        lowest = None if math.isinf(self._lowest) else self._lowest
        losses = [list(pair) for pair in self._losses]
        return {"stage": self.stage, "losses": losses, "first": self._first, "lowest": lowest}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state` returned."""
        self.stage = state["stage"]
        first = state.get("first")
        # Checkpoints of earlier versions may hold NaN, above which nothing ever rises.
        self._first = first if first is not None and math.isfinite(first) else None
        lowest = state.get("lowest")
        self._lowest = math.inf if lowest is None else lowest
        self._losses.clear()
        self._losses.extend((pair[0], pair[1]) for pair in state["losses"])
