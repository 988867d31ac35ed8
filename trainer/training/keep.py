"""A run's averaged weights and facts alone, in half precision: an eighth of its folder, for a repository."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from trainer.errors import CheckpointRefused
from trainer.training.checkpoint import AVERAGE, CHECKPOINTS, FACTS, read_average
from trainer.training.history import EARLIER, history


def keep(run: Path, out: Path) -> Path:
    """Writes OUT/checkpoints/step-N with the averaged weights of ``run`` as float16, and its facts.

    Whatever reads the averaged weights of a run takes OUT in its place (start, encoder, export, places); the run itself
    cannot be continued from it. Facts of the runs that it started from are written with its own.

    Args:
        run: folder of a distillation or a finetuning.
        out: a new folder.

    Returns:
        The file of the weights.

    Raises:
        CheckpointRefused: no checkpoint, a weight that float16 cannot hold, or OUT holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointRefused(out, "there is something in its place", "give a new folder")
    *earlier, facts = history(run)
    tensors = {name: _half(name, value, run) for name, value in read_average(run).items()}
    target = out / CHECKPOINTS / f"step-{facts['step']:08d}"
    partial = target.with_name(target.name + ".part")
    partial.mkdir(parents=True)
    save_file(tensors, partial / AVERAGE)
    (partial / FACTS).write_text(json.dumps({**facts, EARLIER: earlier}, indent=1))
    partial.rename(target)
    return target / AVERAGE


def _half(name: str, value: Tensor, run: Path) -> Tensor:
    if not value.is_floating_point():
        return value.contiguous()
    half = value.to(torch.float16).contiguous()
    if not torch.isfinite(half).all():
        raise CheckpointRefused(run, f"{name} has values that float16 cannot hold", "give the run's own folder instead")
    return half
