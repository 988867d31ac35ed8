"""The encoder that a finetuning takes from an earlier run: its averaged weights, and nothing else of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from trainer.config import FinetuneSettings
from trainer.errors import CheckpointRefused, SettingsRefused
from trainer.models.lite_stem import LiteStem, LiteTrunk
from trainer.models.segmenter import Segmenter
from trainer.models.stem import LinearStem
from trainer.models.student import Student
from trainer.training.checkpoint import ANOTHER_RUN, check_part, load_part, read_average, read_facts
from trainer.training.history import is_finetuning

PREFIX = "student."
"""Of the encoder's weights, in the checkpoints of distillations and of finetunings."""


def take_published(student: nn.Module, settings: FinetuneSettings) -> None:
    """Loads ``stem_weights`` and sets their share of the learning rate, where the encoder is of a kind that has any.

    To be called before the optimiser is made, which groups weights by that share.

    Raises:
        SettingsRefused: ``stem_weights`` for an encoder without such a stem.
        CheckpointRefused: they are of another size, or not readable.
    """
    # A teacher as the encoder has no stem.
    stem = getattr(student, "stem", None)
    if isinstance(stem, LiteStem | LiteTrunk):
        stem.trunk.learning_rate_share = settings.stem_learning_rate
        if settings.stem_weights is not None:
            stem.load(settings.stem_weights)
    elif settings.stem_weights is not None and isinstance(stem, LinearStem) and isinstance(student, Student):
        # transformers takes seconds to import.
        from trainer.models.dinov2_weights import load_dinov2

        student.learning_rate_share = settings.stem_learning_rate
        load_dinov2(student, Path(settings.stem_weights))
    elif settings.stem_weights is not None:
        raise SettingsRefused("stem_weights", "this encoder has no EfficientNet-Lite stem that they could go into")


def load_encoder(student: nn.Module, run: Path) -> None:
    """Loads the averaged encoder of a distillation or of a finetuning, bit by bit.

    Raises:
        CheckpointRefused: the run has no averaged weights, or its encoder is of another shape.
    """
    load_part(student, read_average(run), PREFIX, run)


def check_start(settings: FinetuneSettings) -> None:
    """Looks whether the encoder fits, before any data is read.

    Raises:
        CheckpointRefused: the run has no averaged weights, or its encoder is of another shape.
        SettingsRefused: several sets, and a frozen encoder that no run or published weights gave.
    """
    known = (settings.encoder, settings.start_from, settings.stem_weights)
    if settings.data.sets and settings.frozen_encoder and all(given is None for given in known):
        raise SettingsRefused(
            settings.name, "the encoder is frozen and would stay random: give `encoder`, or `frozen_encoder: false`"
        )
    if settings.encoder is None:
        return
    # Names and shapes alone: no memory is allocated for a network that may be refused.
    with torch.device("meta"):
        student = Segmenter(settings.model.model_copy(update={"heads": {}})).student
    check_part(student, read_average(settings.encoder), PREFIX, settings.encoder)
    # An encoder that goes on learning may be changed in such settings; it is compared by its weights' shapes alone.
    if settings.frozen_encoder:
        _check_settings(settings, settings.encoder)


def _check_settings(settings: FinetuneSettings, run: Path) -> None:
    """A frozen encoder is to do what it did: settings without weights, as windows of attention, have to agree too."""
    facts = read_facts(run)
    if not is_finetuning(facts):
        return
    before, now = facts["settings"]["model"]["student"], settings.model.student.model_dump(mode="json")
    for name, value in now.items():
        # A setting that only one version of the program knows is let be.
        if name in before and before[name] != value:
            raise CheckpointRefused(run, f"its encoder has {name} {before[name]}, here it is {value}", ANOTHER_RUN)
