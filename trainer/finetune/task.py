"""Finetuning on labelled crops: a decoder on a frozen encoder, or both together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config import FinetuneSettings
from trainer.data.batches import draw_crop
from trainer.data.description import read_description
from trainer.data.labelled import CropSampler, MixedSampler, Scenes, class_shares, made_scenes
from trainer.data.landscape import CLASS_NAMES
from trainer.data.scene_cache import scenes_of
from trainer.errors import SettingsRefused
from trainer.finetune.encoder import check_start, load_encoder, take_published
from trainer.finetune.loss import class_weights, segmentation_loss
from trainer.finetune.many_sets import ManySetsTask, mixture_of
from trainer.finetune.start_from import load_earlier
from trainer.models.segmenter import Segmenter
from trainer.models.teachers.build import build_teacher
from trainer.models.teachers.encoder import TeacherEncoder
from trainer.training.loop import fabric_of, run_to_end
from trainer.training.task import Batch, Slice, StatelessTask


class LandCoverTask(StatelessTask):
    """Trains a :class:`Segmenter` on labelled scenes; a :class:`trainer.training.task.Task`."""

    saves_frozen = True

    def __init__(self, settings: FinetuneSettings, scenes: Scenes) -> None:
        torch.manual_seed(settings.seed)
        self.samples = len(scenes)  # an epoch is as many crops as there are images
        self.settings = settings
        segmenter = segmenter_of(settings).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        take_published(segmenter.student, settings)
        if settings.start_from is not None:
            load_earlier(segmenter, settings.start_from)
        if settings.encoder is not None:
            load_encoder(segmenter.student, settings.encoder)
        if settings.frozen_encoder:
            # Last: published, earlier and distilled weights have been loaded by now.
            segmenter.freeze_student()
        self.network: nn.Module = segmenter
        self.sampler = _sampler(settings, scenes)
        shares = torch.from_numpy(class_shares(scenes, settings.model.classes)).float()
        if not shares.sum() > 0:
            raise SettingsRefused(settings.data.set, "no pixel of these images is labelled")
        self.weights = class_weights(shares, settings.class_weight_power)

    def draw(self, part: Slice) -> Batch:
        """Augmented crops: pixels float (B, 3, S, S) of 0..255 and labels int64 (B, S, S), 0 = ignore."""
        crops = [
            draw_crop(
                self.sampler, self.settings.data, part.stage.crop,
                # Seeded by step and number, so that neither workers nor a resumption change what is drawn.
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
        return {"total": segmentation_loss(network(pixels), labels, weights=weights, dice=self.settings.dice)}


def segmenter_of(settings: FinetuneSettings) -> Segmenter:
    """The network of these settings, with random weights from torch's generator, except a teacher's own."""
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
    """Refuses synthetic landscapes beside a set whose classes differ: their codes would be wrong labels."""
    names = [item.name for item in read_description(given).classes]
    made = list(CLASS_NAMES.values())
    if [_plain(name) for name in names] != [_plain(name) for name in made]:
        raise SettingsRefused(
            "data.landscape_share", f"made landscapes are of {', '.join(made)}, the set {given} of {', '.join(names)}"
        )


def _plain(name: str) -> str:
    """A class name in lower case with spaces, for comparison."""
    return name.lower().replace("_", " ").replace("-", " ")


def finetune(settings: FinetuneSettings, folder: Path) -> None:
    """Reads the scenes, then resumes or starts the run in ``folder`` and trains to the end.

    Raises:
        CheckpointRefused, SettingsRefused: before anything is read, as :func:`check_start` raises them.
    """
    # Cheap questions first: next, every label of the set is read for the shares of its classes.
    check_start(settings)
    fabric = fabric_of(settings)
    if settings.data.sets:
        run_to_end(settings, ManySetsTask(settings, mixture_of(settings)), folder, fabric)
        return
    scenes = scenes_of(settings.data, classes=settings.model.classes)
    run_to_end(settings, LandCoverTask(settings, scenes), folder, fabric)
