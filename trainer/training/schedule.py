"""Learning rate and stage by the elapsed share of a run."""

from __future__ import annotations

import math

from trainer.config import RunSettings, Stage


def elapsed_share(settings: RunSettings, *, max_steps: int | None, step: int, seconds: float) -> float:
    """Elapsed share of the run, 0..1: by time or by steps, whichever is larger.

    ``max_steps``: from the settings, or computed from their epochs.
    """
    # The share drives rate and stages, not the step: a run that is
    # limited by time is annealed to the end on any machine.
    shares = [0.0]
    if settings.max_minutes is not None:
        shares.append(seconds / (60 * settings.max_minutes))
    if max_steps is not None:
        shares.append(step / max_steps)
    return min(1.0, max(shares))


def learning_rate(settings: RunSettings, share: float) -> float:
    """Linear warm-up, then half a cosine down to ``final_learning_rate`` at share 1."""
    if share < settings.warmup:
        # The very first step has a share of 0; with a rate of 0 it would be wasted.
        return settings.learning_rate * max(share / settings.warmup, 0.01)
    progress = (share - settings.warmup) / (1 - settings.warmup)
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress))


def stage_at(settings: RunSettings, share: float) -> Stage:
    """The stage a share belongs to."""
    return next((stage for stage in settings.stages if share < stage.until), settings.stages[-1])
