"""Checkpoints: tensors in safetensors, the rest in JSON, each replaced whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.errors import CheckpointRefused

STATE = "state.safetensors"
FACTS = "state.json"
AVERAGE = "average.safetensors"
"""Averaged weights alone: what evaluation, export and a later fit start from."""


class WeightAverage:
    """Exponential moving average of a network's parameters and buffers.

    The decay warms up as (1 + t) / (10 + t), so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the network as it is after ``step`` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            mean = self.tensors[name]
            if mean.is_floating_point():
                mean.lerp_(value.to(mean.dtype), 1 - decay)
            else:
                mean.copy_(value)


def write_checkpoint(
    folder: Path, *, network: nn.Module, average: WeightAverage, optimiser: torch.optim.Optimizer, facts: dict[str, Any]
) -> None:
    """Everything needed to go on, as ``folder``/state.*; the average also by itself.

    The facts come last: a checkpoint without them, or with those of an older state, names its own step and is refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.tensors.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors["step"] = torch.tensor(facts["step"])
    _replace(folder / STATE, tensors)
    _replace(folder / AVERAGE, average.tensors)
    partial = folder / (FACTS + ".part")
    partial.write_text(json.dumps(facts, indent=1))
    partial.replace(folder / FACTS)


def read_checkpoint(
    folder: Path, *, network: nn.Module, average: WeightAverage, optimiser: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put the state back into the three and give the facts; None where the folder holds no checkpoint.

    Raises:
        CheckpointRefused: it is of another network, or its two files are of different steps.
    """
    if not (folder / FACTS).is_file():
        return None
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    tensors = load_file(folder / STATE)
    if int(tensors["step"]) != facts["step"]:
        raise CheckpointRefused(folder, f"tensors of step {int(tensors['step'])}, facts of step {facts['step']}")
    load_weights(network, _under("network.", tensors), folder)
    average.tensors = _under("average.", tensors)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimiser.", tensors).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return facts


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Put weights into a network that has exactly these.

    Raises:
        CheckpointRefused: names or shapes differ.
    """
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CheckpointRefused(
            source, f"weights of another network ({str(error).splitlines()[-1].strip()})"
        ) from error


def read_average(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of a run.

    Raises:
        CheckpointRefused: there are none yet.
    """
    path = folder / AVERAGE
    if not path.is_file():
        raise CheckpointRefused(folder, f"no {AVERAGE} in it")
    return load_file(path)


def _replace(path: Path, tensors: Mapping[str, Tensor]) -> None:
    partial = path.with_name(path.name + ".part")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
    os.replace(partial, path)  # noqa: PTH105 -- same call, one line


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def checkout_commit() -> str:
    """Of the checkout this runs from; "unknown" where there is none."""
    answer = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 -- git as the PATH has it
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"
