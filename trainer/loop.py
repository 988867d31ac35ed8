"""The training loop, for any task: what is learnt is the task's business, when and how fast is the loop's."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.checkpoint import WeightAverage, checkout_commit, read_checkpoint, write_checkpoint
from trainer.config import RunSettings, Stage
from trainer.data.batches import Batch, drawn_ahead
from trainer.schedule import elapsed_share, learning_rate, stage_at

log = logging.getLogger(__name__)


class Task(Protocol):
    """What is learnt: a network, batches for it, and the loss of a batch."""

    network: nn.Module

    def draw(self, step: int, stage: Stage) -> Batch:
        """The batch of a step; the same for the same step and stage. Called from another thread than ``loss``."""

    def loss(self, batch: Batch) -> Tensor:
        """Scalar loss with a graph to go back through."""


class Run:
    """One run of a task: the average of its weights, the optimiser, and how far it has come."""

    def __init__(
        self, settings: RunSettings, task: Task, folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.task = task
        self.folder = folder
        self.clock = clock
        self.average = WeightAverage(task.network, settings.average)
        self.optimiser = torch.optim.AdamW(_groups(task.network, settings.weight_decay), betas=(0.9, 0.98))
        self.commit = checkout_commit()
        self.step = 0
        self.seconds = 0.0
        self.crops = 0
        self.pixels = 0

    @property
    def share(self) -> float:
        """Elapsed share of the run, 0..1."""
        return elapsed_share(self.settings, step=self.step, seconds=self.seconds)

    def resume(self) -> bool:
        """Go on from the folder's checkpoint, if it has one."""
        facts = read_checkpoint(self.folder, network=self.task.network, average=self.average, optimiser=self.optimiser)
        if facts is None:
            return False
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.crops, self.pixels = facts["crops"], facts["pixels"]
        return True

    def save(self) -> None:
        """Checkpoint into the folder."""
        facts: dict[str, Any] = {"step": self.step, "seconds": self.seconds, "crops": self.crops, "pixels": self.pixels}
        facts |= {"settings": self.settings.model_dump(mode="json"), "commit": self.commit}
        write_checkpoint(
            self.folder, network=self.task.network, average=self.average, optimiser=self.optimiser, facts=facts
        )

    def go(self, report: Callable[[float], None]) -> None:
        """Learn until the budget is spent; reports each loss; saves every few minutes and at the end."""
        self.task.network.train()
        saved = started = self.clock()
        before = self.seconds
        with closing(drawn_ahead(self._draw, self.step)) as batches:
            while self.share < 1.0:
                report(self.learn(next(batches)))
                now = self.clock()
                self.seconds = before + now - started
                if now - saved > 60 * self.settings.checkpoint_minutes:
                    self.save()
                    saved = now
        self.save()

    def _draw(self, step: int) -> Batch:
        return self.task.draw(step, stage_at(self.settings, self.share))

    def learn(self, batch: Batch) -> float:
        """One step on one batch; the loss before it. A batch whose gradient is not finite teaches nothing."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.share)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.settings.bfloat16):
            loss = self.task.loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.task.network.parameters(), self.settings.gradient_norm)
        if math.isfinite(float(norm)):
            self.optimiser.step()
        self.step += 1
        self.crops += len(batch[0])
        self.pixels += batch[0][:, 0].numel()
        self.average.update(self.task.network, self.step)
        return float(loss.detach())


def run_to_end(run: Run) -> None:
    """Resume or start a run, log every 20 steps, and see it through."""
    if run.resume():
        log.info("resumed at step %d, %.0f s", run.step, run.seconds)
    smoothed = math.nan

    def report(loss: float) -> None:
        nonlocal smoothed
        smoothed = loss if math.isnan(smoothed) else 0.97 * smoothed + 0.03 * loss
        if run.step % 20 == 0:
            log.info(
                "step %d share %.3f loss %.4f smoothed %.4f crops %d", run.step, run.share, loss, smoothed, run.crops
            )

    run.go(report)
    log.info("done: %d steps, %d crops, %.0f s", run.step, run.crops, run.seconds)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms, biases and positions do not."""
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for name, parameter in network.named_parameters():
        (kept if parameter.ndim < 2 or name.endswith("positions") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
