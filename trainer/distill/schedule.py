"""When the losses' weights change: a state machine that never goes back.

Source: Mask-CDKD (Shu et al. 2026): early to middle when the teacher reconstructs clearly better than the student,
middle to late when the student has caught up. The article's listing tests the first threshold first and so can never
reach "late"; here each state has its own way out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

StageName = Literal["early", "middle", "late"]


class LossWeights(BaseModel):
    """Of the alignment, of the teacher's reconstruction and of the student's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alignment: float = Field(ge=0)
    teacher: float = Field(ge=0)
    student: float = Field(ge=0)


class ScheduleSettings(BaseModel):
    """Weights of each stage, and what ends it. Defaults are the paper's; it leaves ``window`` open.

    ``window`` is the steps that r's two losses are averaged over; no stage ends before so many steps of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    early: LossWeights = LossWeights(alignment=0.20, teacher=0.40, student=0.40)
    middle: LossWeights = LossWeights(alignment=0.60, teacher=0.20, student=0.20)
    late: LossWeights = LossWeights(alignment=0.70, teacher=0.15, student=0.15)
    middle_below: float = 0.85
    late_above: float = 0.95
    window: int = Field(default=100, ge=1)

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

    @property
    def weights(self) -> LossWeights:
        """In force now."""
        return self.settings.weights(self.stage)

    def update(self, teacher: float, student: float) -> float:
        """Takes a step's reconstruction losses, moves on where it is time, and gives the smoothed r.

        r is the teacher's loss over the student's, each averaged over the window first: a mean of quotients would be
        ruled by the steps whose student loss happens to be small.
        """
        self._losses.append((teacher, student))
        r = sum(pair[0] for pair in self._losses) / sum(pair[1] for pair in self._losses)
        if len(self._losses) == self.settings.window:
            if self.stage == "early" and r < self.settings.middle_below:
                self._enter("middle")
            elif self.stage == "middle" and r > self.settings.late_above:
                self._enter("late")
        return r

    def _enter(self, stage: StageName) -> None:
        self.stage = stage
        self._losses.clear()

    def state(self) -> dict[str, Any]:
        """JSON-able, for a checkpoint."""
        return {"stage": self.stage, "losses": [list(pair) for pair in self._losses]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state` gave."""
        self.stage = state["stage"]
        self._losses.clear()
        self._losses.extend((pair[0], pair[1]) for pair in state["losses"])
