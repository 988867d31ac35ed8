"""The supervised fit: crops in, averaged weights out, always annealed, always resumable."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.checkpoint import WeightAverage, load_weights, read_average, read_checkpoint, write_checkpoint
from trainer.config import FitSettings
from trainer.data.batches import Batch, draw_batch, drawn_ahead
from trainer.data.labelled import CropSampler, LabelledScene, class_shares, data_root, read_scenes
from trainer.loss import class_weights, segmentation_loss
from trainer.models.segmenter import Segmenter
from trainer.schedule import elapsed_share, learning_rate, stage_at

log = logging.getLogger(__name__)

Report = Callable[[dict[str, float]], None]


class Fit:
    """One run: the network, its average, the optimiser, and how far it has come."""

    def __init__(
        self, settings: FitSettings, folder: Path, scenes: list[LabelledScene], clock: Callable[[], float] = time.monotonic
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.folder = folder
        self.clock = clock
        self.network = Segmenter(settings.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.start_from is not None:
            load_weights(self.network, read_average(settings.start_from), settings.start_from)
        self.average = WeightAverage(self.network, settings.average)
        self.optimiser = torch.optim.AdamW(_groups(self.network, settings.weight_decay), betas=(0.9, 0.98))
        self.sampler = CropSampler(
            scenes, classes=settings.model.classes, balanced=settings.data.balanced, seed=settings.seed
        )
        shares = torch.from_numpy(class_shares(scenes, settings.model.classes)).float()
        self.weights = class_weights(shares, settings.class_weight_power)
        self.step = 0
        self.seconds = 0.0
        self.crops = 0

    @property
    def share(self) -> float:
        """Elapsed share of the fit, 0..1."""
        return elapsed_share(self.settings, step=self.step, seconds=self.seconds)

    def resume(self) -> bool:
        """Go on from the folder's checkpoint, if it has one."""
        facts = read_checkpoint(self.folder, network=self.network, average=self.average, optimiser=self.optimiser)
        if facts is None:
            return False
        self.step, self.seconds, self.crops = facts["step"], facts["seconds"], facts["crops"]
        return True

    def save(self) -> None:
        """Checkpoint into the folder."""
        facts: dict[str, Any] = {"step": self.step, "seconds": self.seconds, "crops": self.crops}
        facts["settings"] = self.settings.model_dump(mode="json")
        write_checkpoint(
            self.folder, network=self.network, average=self.average, optimiser=self.optimiser, facts=facts
        )

    def run(self, report: Report) -> None:
        """Fit until the budget is spent; reports each step's figures; saves every few minutes and at the end."""
        self.network.train()
        saved = started = self.clock()
        before = self.seconds
        with closing(self._batches()) as batches:
            while self.share < 1.0:
                loss = self.learn(next(batches))
                now = self.clock()
                self.seconds = before + now - started
                report({"step": self.step, "share": self.share, "loss": loss, "crops": self.crops})
                if now - saved > 60 * self.settings.checkpoint_minutes:
                    self.save()
                    saved = now
        self.save()

    def learn(self, batch: Batch) -> float:
        """One step on one batch; the loss before it. A batch whose loss is not finite teaches nothing."""
        settings = self.settings
        pixels, labels = batch
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(settings, self.share)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bfloat16):
            logits = self.network(pixels)
        loss = segmentation_loss(logits, labels, weights=self.weights, dice=settings.dice)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_norm)
        if math.isfinite(float(norm)):
            self.optimiser.step()
        self.step += 1
        self.crops += len(pixels)
        self.average.update(self.network, self.step)
        return float(loss)

    def _batches(self) -> Iterator[Batch]:
        def draw(step: int) -> Batch:
            rng = np.random.default_rng([self.settings.seed, step])
            return draw_batch(self.sampler, self.settings.data, stage_at(self.settings, self.share), rng)

        return drawn_ahead(draw, self.step)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms, biases and positions do not."""
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for name, parameter in network.named_parameters():
        (kept if parameter.ndim < 2 or name.endswith("positions") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def fit(settings: FitSettings, folder: Path) -> None:
    """Read the scenes, take up the run in ``folder`` or start it, and fit to the end."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    scenes = read_scenes(data_root(settings.data.root), settings.data.dataset, settings.data.scenes)
    run = Fit(settings, folder, scenes)
    if run.resume():
        log.info("resumed at step %d, %.0f s", run.step, run.seconds)
    smoothed = math.nan

    def report(facts: dict[str, float]) -> None:
        nonlocal smoothed
        loss = facts["loss"]
        smoothed = loss if math.isnan(smoothed) else 0.97 * smoothed + 0.03 * loss
        if run.step % 20 == 0:
            log.info(
                "step %d share %.3f loss %.4f smoothed %.4f crops %d", run.step, run.share, loss, smoothed, run.crops
            )

    run.run(report)
    log.info("done: %d steps, %d crops, %.0f s", run.step, run.crops, run.seconds)
