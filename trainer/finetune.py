"""Finetuning: labelled crops in, a decoder on a frozen encoder out, or both learnt together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.checkpoint import load_part, load_weights, read_average
from trainer.config import FinetuneSettings
from trainer.data.batches import draw_crop
from trainer.data.description import read_description
from trainer.data.labelled import CropSampler, MixedSampler, Scenes, class_shares, made_scenes
from trainer.data.landscape import CLASS_NAMES
from trainer.data.pool import scenes_of
from trainer.errors import SettingsRefused
from trainer.loop import Batch, Slice, fabric_of, run_to_end
from trainer.loss import class_weights, segmentation_loss
from trainer.many_sets import ManySetsTask, mixture_of
from trainer.models.lite_stem import LiteStem
from trainer.models.segmenter import Segmenter
from trainer.models.teacher import build_teacher
from trainer.models.teacher_encoder import TeacherEncoder


class LandCoverTask:
    """Learn the labels of scenes; a :class:`trainer.loop.Task` whose network is a :class:`Segmenter`."""

    saves_frozen = True

    def __init__(self, settings: FinetuneSettings, scenes: Scenes) -> None:
        torch.manual_seed(settings.seed)
        self.samples = len(scenes)  # an epoch is as many crops as there are images
        self.settings = settings
        segmenter = segmenter_of(settings).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        stem = getattr(segmenter.student, "stem", None)
        if isinstance(stem, LiteStem):
            stem.trunk.learning_rate_share = settings.stem_learning_rate
            if settings.stem_weights is not None:
                stem.load(settings.stem_weights)
        if settings.start_from is not None:
            load_weights(segmenter, read_average(settings.start_from), settings.start_from)
        if settings.encoder is not None:
            load_part(segmenter.student, read_average(settings.encoder), "student.", settings.encoder)
        if settings.frozen_encoder:
            segmenter.freeze_student()
        self.network: nn.Module = segmenter
        self.sampler = _sampler(settings, scenes)
        shares = torch.from_numpy(class_shares(scenes, settings.model.classes)).float()
        self.weights = class_weights(shares, settings.class_weight_power)

    def draw(self, part: Slice) -> Batch:
        """Augmented crops: pixels float (B, 3, S, S) of 0..255 and labels int64 (B, S, S), 0 = ignore."""
        crops = [
            draw_crop(
                self.sampler, self.settings.data, part.stage.crop,
                np.random.default_rng([self.settings.seed, part.step, number]),
            )
            for number in part.numbers
        ]  # fmt: skip
        pixels, labels = zip(*crops, strict=True)
        return torch.stack(pixels).contiguous(memory_format=torch.channels_last), torch.stack(labels).long()

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Weighted cross-entropy and dice over labelled pixels."""
        pixels, labels = batch
        weights = self.weights.to(pixels.device)
        return {
            "total": segmentation_loss(network(pixels), labels, weights=weights, dice=self.settings.dice)
        }

    def after_step(self, losses: dict[str, float]) -> dict[str, float | str]:  # noqa: ARG002 -- nothing to remember
        """Nothing more to record."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""

    def show(self, folder: Path, step: int) -> None:
        """No pictures: maps are looked at after evaluation."""


def segmenter_of(settings: FinetuneSettings) -> Segmenter:
    """The network of some settings, its weights drawn from torch's generator but for a teacher's own."""
    if settings.teacher is None:
        return Segmenter(settings.model)
    return Segmenter(settings.model, TeacherEncoder(build_teacher(settings.teacher)))


def _sampler(settings: FinetuneSettings, scenes: Scenes) -> CropSampler | MixedSampler:
    data, classes = settings.data, settings.model.classes
    real = CropSampler(scenes, classes=classes, balanced=data.balanced, seed=settings.seed)
    if data.landscape_share == 0:
        return real
    _check_landscape_classes(data.set)
    made = CropSampler(made_scenes(data.landscape_seeds), classes=classes, balanced=0.5, seed=settings.seed)
    return MixedSampler(real, made, share=data.landscape_share)


def _check_landscape_classes(given: str) -> None:
    """Made landscapes have codes of their own: mixed into a set that means others by them, they teach what is wrong."""
    names = [item.name for item in read_description(given).classes]
    made = list(CLASS_NAMES.values())
    if [_plain(name) for name in names] != [_plain(name) for name in made]:
        raise SettingsRefused(
            "data.landscape_share", f"made landscapes are of {', '.join(made)}, the set {given} of {', '.join(names)}"
        )


def _plain(name: str) -> str:
    """A class name as both a file and people may write it."""
    return name.lower().replace("_", " ").replace("-", " ")


def finetune(settings: FinetuneSettings, folder: Path) -> None:
    """Read the scenes, take up the run in ``folder`` or start it, and go to the end."""
    fabric = fabric_of(settings)
    if settings.data.sets:
        run_to_end(settings, ManySetsTask(settings, mixture_of(settings)), folder, fabric)
        return
    scenes = scenes_of(settings.data, classes=settings.model.classes)
    run_to_end(settings, LandCoverTask(settings, scenes), folder, fabric)
