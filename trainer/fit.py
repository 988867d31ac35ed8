"""The supervised fit: labelled crops in, averaged weights out, always annealed, always resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint import load_weights, read_average
from trainer.config import FitSettings, Stage
from trainer.data.batches import Batch, draw_batch
from trainer.data.labelled import (
    CropSampler,
    LabelledScene,
    MixedSampler,
    class_shares,
    data_root,
    made_scenes,
    read_scenes,
)
from trainer.loop import Run, run_to_end
from trainer.loss import class_weights, segmentation_loss
from trainer.models.segmenter import Segmenter


class LandCoverTask:
    """Learn the labels of scenes held in memory. ``network`` is a :class:`Segmenter`."""

    def __init__(self, settings: FitSettings, scenes: list[LabelledScene]) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.network = Segmenter(settings.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.start_from is not None:
            load_weights(self.network, read_average(settings.start_from), settings.start_from)
        if settings.pretrained is not None:
            load_student(self.network, settings.pretrained)
        classes = settings.model.classes
        self.sampler = _sampler(settings, scenes)
        shares = torch.from_numpy(class_shares(scenes, classes)).float()
        self.weights = class_weights(shares, settings.class_weight_power)

    def draw(self, step: int, stage: Stage) -> Batch:
        """Augmented crops; see :class:`trainer.loop.Task`."""
        rng = np.random.default_rng([self.settings.seed, step])
        return draw_batch(self.sampler, self.settings.data, stage, rng)

    def loss(self, batch: Batch) -> Tensor:
        """Weighted cross-entropy and dice over labelled pixels."""
        pixels, labels = batch
        return segmentation_loss(self.network(pixels), labels, weights=self.weights, dice=self.settings.dice)


def _sampler(settings: FitSettings, scenes: list[LabelledScene]) -> CropSampler | MixedSampler:
    data, classes = settings.data, settings.model.classes
    real = CropSampler(scenes, classes=classes, balanced=data.balanced, seed=settings.seed)
    if data.landscape_share == 0:
        return real
    made = CropSampler(made_scenes(data.landscape_seeds), classes=classes, balanced=0.5, seed=settings.seed)
    return MixedSampler(real, made, share=data.landscape_share)


def load_student(network: Segmenter, folder: Path) -> None:
    """Take the student, and only it, from the averaged weights of a pre-training run.

    Raises:
        CheckpointRefused: the run's student is of another shape.
    """
    prefix = "student."
    weights = {
        name.removeprefix(prefix): value for name, value in read_average(folder).items() if name.startswith(prefix)
    }
    load_weights(network.student, weights, folder)


def fit(settings: FitSettings, folder: Path) -> None:
    """Read the scenes, take up the run in ``folder`` or start it, and fit to the end."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    scenes = read_scenes(data_root(settings.data.root), settings.data.dataset, settings.data.scenes)
    run_to_end(Run(settings, LandCoverTask(settings, scenes), folder))
