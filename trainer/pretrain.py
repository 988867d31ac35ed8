"""Masked-reconstruction pre-training of the student on all unlabelled imagery at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import PretrainSettings, Stage
from trainer.data.augment import resized_crop, turned
from trainer.data.batches import Batch
from trainer.data.labelled import data_root, read_scenes
from trainer.data.unlabelled import ImageSampler, read_images
from trainer.loop import Run, run_to_end
from trainer.models.reconstruction import Reconstruction, drawn_visibility, reconstruction_loss
from trainer.models.tokens import PATCH


class ReconstructionTask:
    """Guess hidden patches. A batch is pixels (B, 3, S, S) and visibility float (B, 1, S/16, S/16)."""

    def __init__(self, settings: PretrainSettings, images: Sequence[NDArray[np.uint8]]) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.sampler = ImageSampler(images)
        self.network = Reconstruction(settings.model.student).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.settle_norms(self.draw(0, settings.stages[0])[0])

    def draw(self, step: int, stage: Stage) -> Batch:
        """Turned and scaled crops with their masks; see :class:`trainer.loop.Task`."""
        rng = np.random.default_rng([self.settings.seed, step])
        pixels, seen = [], []
        for _ in range(stage.batch):
            image, labels = resized_crop(self.sampler.draw(stage.crop, self.settings.scale, rng), stage.crop)
            pixels.append(turned(image, labels, rng)[0].float())
            mask = drawn_visibility(stage.crop // PATCH, hidden=self.settings.hidden, cell=self.settings.cell, rng=rng)
            seen.append(torch.from_numpy(mask).float()[None])
        return torch.stack(pixels).contiguous(memory_format=torch.channels_last), torch.stack(seen)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of the hidden patches, in normalised pixels."""
        pixels, visible = batch
        guess, truth = self.network(pixels, visible)
        return reconstruction_loss(guess, truth, visible)


def pretrain(settings: PretrainSettings, folder: Path) -> None:
    """Read the imagery, take up the run in ``folder`` or start it, and go to the end."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    root = data_root(settings.root)
    images = [scene.pixels for scene in read_scenes(root, settings.dataset, settings.scenes)]
    for name in settings.folders:
        images += read_images(root / name)
    run_to_end(Run(settings, ReconstructionTask(settings, images), folder))
