"""A run's averaged weights and facts alone, in half precision: an eighth of its folder, for a repository."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from engines.files import synced_file, synced_folder
from trainer.errors import CheckpointNotWritten, CheckpointRefused
from trainer.models.necks import has_neck, with_neck
from trainer.training.checkpoint import (
    ANOTHER_RUN,
    AVERAGE,
    CHECKPOINTS,
    FACTS,
    has_checkpoint,
    read_average,
    read_facts,
)  # fmt: skip
from trainer.training.history import DISTILLED, EARLIER, history

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def keep(run: Path, out: Path, mean_with: Sequence[Path] = (), changed: Change | None = None) -> Path:
    """Writes OUT/checkpoints/step-N with the averaged weights of ``run`` as float16, and its facts.

    Whatever reads the averaged weights of a run takes OUT in its place (start, encoder, export, places); the run itself
    cannot be continued from it. Facts of the runs that it started from are written with its own.

    Args:
        run: folder of a distillation or a finetuning.
        out: a new folder.
        mean_with: runs of the same network, or of one without its neck: weights are the mean over all, and ``run``'s
            own in further heads that another lacks, or has in another shape. What these runs were fitted on is told
            with ``run``'s own facts.
        changed: what is done to the weights before they are written; None: nothing.

    Returns:
        The file of the weights.

    Raises:
        CheckpointRefused: no checkpoint, a run of another network, a weight that float16 cannot hold, or OUT holds
            something.
        CheckpointNotWritten: the disk is full or failed; nothing of it stays.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointRefused(out, "there is something in its place", "give a new folder")
    *earlier, facts = _with_distillation(history(run))
    # A card of the mean names all that its weights have learnt from.
    others = [stretch for other in mean_with for stretch in history(other)]
    earlier += [stretch for stretch in others if stretch not in (*earlier, facts)]
    whole = _mean(read_average(run), {other: read_average(other) for other in mean_with})
    if changed is not None:
        whole = changed(whole)
    tensors = {name: _half(name, value, run) for name, value in whole.items()}
    target = out / CHECKPOINTS / f"step-{facts['step']:08d}"
    partial = target.with_name(target.name + ".part")
    was_there = out.is_dir()
    try:
        partial.mkdir(parents=True)
        save_file(tensors, partial / AVERAGE)
        synced_file(partial / AVERAGE)
        (partial / FACTS).write_text(json.dumps({**facts, EARLIER: earlier}, indent=1))
        synced_file(partial / FACTS)
        partial.rename(target)
        synced_folder(target.parent)
    except (OSError, SafetensorError) as error:
        # Nothing stays, so that the same command may be given again.
        shutil.rmtree(out / CHECKPOINTS if was_there else out, ignore_errors=True)
        raise CheckpointNotWritten(out, str(error), then="") from error
    return target / AVERAGE


def _mean(own: Mapping[str, Tensor], others: Mapping[Path, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    moved = {run: _comparable(own, other) for run, other in others.items()}
    mean = {}
    for name, value in own.items():
        alike = []
        for run, other in moved.items():
            if name in other and other[name].shape == value.shape:
                alike.append(other[name])
            # Without this look the mean with another network would be these weights, and nobody would be told.
            elif not name.startswith("heads."):
                raise CheckpointRefused(run, f"{name} is not in it, or of another shape", ANOTHER_RUN)
        # Counters of batches have no mean; a weight that some run lacks stays as it is.
        has_mean = value.is_floating_point() and len(alike) == len(others)
        mean[name] = torch.stack([value.float(), *(item.float() for item in alike)]).mean(dim=0) if has_mean else value
    return mean


def _comparable(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if has_neck(own) and not has_neck(other):
        # Its further heads were made for features that the neck does not give.
        other = {name: value for name, value in other.items() if not name.startswith("heads.")}
    return with_neck(own, other)


def _with_distillation(stretches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same facts; the first also with those of the distillation that gave its encoder."""
    first, *others = stretches
    encoder = first.get("settings", {}).get("encoder")
    if encoder is None or DISTILLED in first or not has_checkpoint(Path(encoder)):
        return stretches
    return [{**first, DISTILLED: read_facts(Path(encoder))}, *others]


def _half(name: str, value: Tensor, run: Path) -> Tensor:
    if not value.is_floating_point():
        return value.contiguous()
    half = value.to(torch.float16).contiguous()
    if not torch.isfinite(half).all():
        raise CheckpointRefused(run, f"{name} has values that float16 cannot hold", "give the run's own folder instead")
    return half
