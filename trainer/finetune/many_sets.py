"""Finetuning on several labelled sets at once, with one or several heads on one encoder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config import FinetuneSettings
from trainer.data.mixture import Mixture
from trainer.data.targets import HeadCodes
from trainer.errors import SettingsRefused
from trainer.finetune.encoder import load_encoder, take_published
from trainer.finetune.loss import allowed_loss, class_weights, soft_loss
from trainer.finetune.start_from import load_earlier
from trainer.models.segmenter import SeveralHeads
from trainer.training.task import Batch, Slice, StatelessTask


class ManySetsTask(StatelessTask):
    """Trains on the labels of several sets; a :class:`trainer.training.task.Task`.

    Args:
        settings: with ``data.sets`` and ``heads``.
        mixture: of these sets.

    Raises:
        SettingsRefused: a head has another number of classes than its class table, or no labelled pixel.
        CheckpointRefused: ``start_from`` is of another network, or ``encoder`` of another encoder.
    """

    saves_frozen = True

    def __init__(self, settings: FinetuneSettings, mixture: Mixture) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.mixture = settings, mixture
        self.samples = len(mixture)
        self.segmenter = SeveralHeads(settings.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._check_classes()
        self._take_weights()
        self.network: nn.Module = self.segmenter
        self.heads = [
            _Head(
                codes,
                settings.heads[name].weight,
                _code_weights(mixture, name, settings.class_weight_power, settings.heads[name].weight),
            )
            for name, codes in mixture.heads.items()
        ]

    def draw(self, part: Slice) -> Batch:
        """Augmented crops.

        Returns:
            Pixels float (B, 3, S, S) of 0..255, codes int64 (B, H, S / stride, S / stride), and, where a set has soft
            labels, these, float (B, K of all heads, S / 4, S / 4).
        """
        samples = []
        for number in part.numbers:
            rng = np.random.default_rng([self.settings.seed, part.step, number])
            # One offset for the whole step, whichever process draws this image: together they fill the weights evenly.
            offset = float(np.random.default_rng([self.settings.seed, part.step]).random())
            source = self.mixture.source_of(number, part.stage.batch, offset)
            samples.append(self.mixture.draw(source, part.stage.crop, rng))
        stride = self.settings.label_stride
        pixels = torch.stack([sample.pixels for sample in samples]).contiguous(memory_format=torch.channels_last)
        # From the middle of each step, so that labels and pixels stay centred on each other.
        codes = torch.stack([sample.codes[:, stride // 2 :: stride, stride // 2 :: stride] for sample in samples])
        soft = [sample.soft for sample in samples if sample.soft is not None]
        return (pixels, codes.long(), torch.stack(soft)) if soft else (pixels, codes.long())

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss of each head over the pixels labelled for it, and the weighted sum as "total".

        Soft labels have a share of ``soft_weight`` in the total, over the pixels that have them.
        """
        pixels, codes, *soft = batch
        share = self.settings.soft_weight if soft else 0.0
        named: dict[str, Tensor] = {}
        first = 0
        for place, (head, logits) in enumerate(zip(self.heads, network(pixels), strict=True)):
            named[head.codes.name] = allowed_loss(
                logits, codes[:, place], allowed=head.allowed.to(pixels.device),
                weights=head.weights.to(pixels.device), dice=self.settings.dice,
            )  # fmt: skip
            # Channels of all heads lie one after another, in the order of the heads.
            if soft:
                probability = soft[0][:, first : first + head.classes]
                first += head.classes
                named[f"{head.codes.name}_soft"] = soft_loss(logits, head.held_to_labels(probability, codes[:, place]))
        total = torch.zeros((), device=pixels.device)
        for head in self.heads:
            total = total + (1 - share) * head.weight * named[head.codes.name]
            if soft:
                total = total + share * head.weight * named[f"{head.codes.name}_soft"]
        return {"total": total, **named}

    def _check_classes(self) -> None:
        shapes = [self.settings.model.classes, *(head.classes for head in self.settings.model.heads.values())]
        for codes, classes in zip(self.mixture.heads.values(), shapes, strict=True):
            if len(codes.classes) != classes:
                raise SettingsRefused(
                    f"heads.{codes.name}", f"its table has {len(codes.classes)} classes and the model's head {classes}"
                )

    def _take_weights(self) -> None:
        settings = self.settings
        take_published(self.segmenter.student, settings)
        # After the published weights: an earlier run's replace them.
        if settings.start_from is not None:
            load_earlier(self.segmenter, settings.start_from, fresh_heads=settings.fresh_heads)
        if settings.encoder is not None:
            load_encoder(self.segmenter.student, settings.encoder)
        if settings.frozen_encoder:
            self.segmenter.freeze_student()
        for place, head in enumerate(settings.heads.values()):
            if head.weight == 0:
                self.segmenter.freeze_head(place)
        if settings.frozen_depthwise:
            for module in self.segmenter.modules():
                # Their gradient in bfloat16 took 25 times as long as all else
                # of such a layer on a CPU (docs/decisions/0010).
                if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
                    module.weight.requires_grad_(False)


class _Head:
    """A head's codes and what its loss needs as tensors."""

    def __init__(self, codes: HeadCodes, weight: float, weights: Tensor) -> None:
        self.codes, self.weight, self.weights = codes, weight, weights
        self.allowed = torch.from_numpy(codes.allowed)
        self.classes = len(codes.classes)

    def held_to_labels(self, probability: Tensor, codes: Tensor) -> Tensor:
        """A teacher's probabilities (B, K, h, w), set to zero for classes that a label set (B, H, W) excludes.

        Where a label is a single class the probabilities stay unchanged: there the label has its own term of the loss.
        """
        stride = codes.shape[-1] // probability.shape[-1]
        coarse = codes[:, stride // 2 :: stride, stride // 2 :: stride]
        weights = self.allowed.to(probability.device)[coarse].permute(0, 3, 1, 2)
        held = probability * weights
        total = held.sum(dim=1, keepdim=True)
        # A teacher that gives the allowed classes next to nothing would be blown up to certainty.
        several = (coarse > self.classes)[:, None] & (total > 0.02)
        return torch.where(several, held / total.clamp_min(1e-6), probability)


def _code_weights(mixture: Mixture, head: str, power: float, weight: float) -> Tensor:
    """Weight of each code's pixels, (codes,): of classes by their frequency in the crops drawn.

    The weight of a set of classes is the mean over the classes it allows. Of a head of ``weight`` 0 without labels all
    are 0.

    Raises:
        SettingsRefused: nothing is labelled for a head that is to learn.
    """
    codes = mixture.heads[head]
    shares = torch.zeros(len(codes.allowed))
    for source in mixture.sources:
        table, scenes = source.tables[head], source.sampler.scenes
        counts = sum((scenes.counts(index, len(table) - 1) for index in range(len(scenes))), np.zeros(len(table)))[1:]
        for own, count in enumerate(counts / max(counts.sum(), 1), start=1):
            # By the sets' weights and not their sizes: crops are drawn by the weights.
            shares[int(table[own])] += source.settings.weight * float(count)
    classes = len(codes.classes)
    if shares[1:].sum() == 0:
        if weight > 0 and not mixture.soft_channels:
            # Such a run would end with a loss of 0 and random answers.
            raise SettingsRefused(f"heads.{head}", "no pixel of its sets is labelled for it")
        return torch.zeros(len(codes.allowed))
    single = class_weights(shares[1 : classes + 1] / shares[1:].sum(), power)
    # A class that appears only in sets of classes, never alone, gets the weight of the most frequent class.
    present = single[single > 0]
    single = torch.where(single > 0, single, present.min() if len(present) else torch.ones(()))
    allowed = torch.from_numpy(codes.allowed)
    weights = (allowed @ single) / allowed.sum(dim=1).clamp_min(1e-9)
    weights[0] = 0
    return weights / float((weights * shares).sum() / shares[1:].sum())  # the mean over drawn pixels is 1


def mixture_of(settings: FinetuneSettings) -> Mixture:
    """The sets of a configuration.

    Raises:
        SettingsRefused, DataMissing, DataRefused: as :class:`Mixture` raises them.
    """
    return Mixture(
        settings.data,
        {name: head.classes_of for name, head in settings.heads.items()},
        seed=settings.seed,
        untaught=[name for name, head in settings.heads.items() if head.weight == 0],
    )
