"""Statistics of batch norms taken anew, as a mean of several runs' weights needs them: those of the runs do not fit it.

Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from trainer.config import FinetuneSettings
from trainer.errors import SettingsRefused
from trainer.finetune.many_sets import ManySetsTask, mixture_of
from trainer.training.checkpoint import load_weights, read_facts
from trainer.training.history import history, is_finetuning
from trainer.training.precision import fast_inference
from trainer.training.task import Slice

CROPS: Final = 16
"""Of a batch: large enough that each holds crops of every set that weighs enough."""


def with_new_norms(tensors: Mapping[str, Tensor], run: Path, batches: int) -> dict[str, Tensor]:
    """The same weights, with means and variances of crops of all sets of a run in the norms that learn them.

    Args:
        tensors: weights of the run's network, by name.
        run: whose sets, augmentation and crops are taken; of a run with a frozen encoder, those of the last one before
            it that taught the encoder: the sets of one head would give the others norms that they did not learn with.
        batches: of :data:`CROPS` crops each; the statistics are the mean over them.

    Raises:
        SettingsRefused: the run is of one set.
        DataMissing, DataRefused: as the sets raise them.
        CheckpointRefused: the weights are of another network.
    """
    settings = FinetuneSettings.model_validate(read_facts(run)["settings"])
    if not settings.data.sets:
        raise SettingsRefused("--norms", f"{run} is a run of one set; this is for runs of several (`data.sets`)")
    taught = _taught_encoder(run, settings)
    # As they are now: neither an earlier run nor a frozen part is to be looked for.
    alone = settings.model_copy(
        update={
            "start_from": None, "encoder": None, "fresh_heads": (), "frozen_encoder": False, "stem_weights": None,
            "data": taught.data, "heads": taught.heads, "stages": taught.stages,
        }
    )  # fmt: skip
    task = ManySetsTask(alone, mixture_of(alone))
    network = task.segmenter
    load_weights(network, tensors, run)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.eval()
        # Those of a published trunk stay in eval mode and keep theirs (trainer/models/lite_stem.py).
        elif isinstance(module, nn.BatchNorm2d) and module.training:
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    stage = alone.stages[-1].model_copy(update={"batch": CROPS})
    with torch.inference_mode():
        for number in range(batches):
            pixels = task.draw(Slice(number, stage, range(CROPS)))[0]
            with fast_inference():
                network.all_logits(pixels)
    found = network.state_dict()
    return {name: found[name] if name.endswith((".running_mean", ".running_var")) else value
            for name, value in tensors.items()}  # fmt: skip


def _taught_encoder(run: Path, settings: FinetuneSettings) -> FinetuneSettings:
    """Of the stretches of a run, the last that taught the encoder with the same heads; its own where none did."""
    for facts in reversed(history(run)):
        if not is_finetuning(facts):
            continue
        earlier = FinetuneSettings.model_validate(facts["settings"])
        if not earlier.frozen_encoder and earlier.data.sets and earlier.heads.keys() == settings.heads.keys():
            return earlier
    return settings
