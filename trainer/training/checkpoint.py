"""Checkpoints: tensors in safetensors, the rest in JSON; each appears complete, by one rename.

    RUN/checkpoints/step-00001000/network.safetensors      weights and buffers
                                  average.safetensors      the same, averaged over the steps
                                  optimiser.safetensors
                                  state.json               settings, step, commit, the task's own state

The folder is written under a temporary name and renamed when complete; older checkpoints are removed only after that.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from engines.files import synced_file, synced_folder
from trainer.errors import START_AFRESH, CheckpointNotWritten, CheckpointRefused
from trainer.training.weight_average import WeightAverage

CHECKPOINTS = "checkpoints"
NETWORK, AVERAGE, OPTIMISER, FACTS = "network.safetensors", "average.safetensors", "optimiser.safetensors", "state.json"
ANOTHER_RUN = "give the folder of a run that fits, or change the configuration to what this one is of"
"""Remedy where another run than the current one is read."""
RESUMED = ("images", "pixels", "seconds", "task")
"""Facts that a run goes on from, besides those that every reader needs."""
# torch names moments by their weight and not by number: what one
# strategy saved (one process, DDP, FSDP), another loads.
_PUT = StateDictOptions(full_state_dict=True, strict=False)


@dataclass(frozen=True)
class State:
    """Contents of a checkpoint: a network, wrapped by the strategy or not, its optimiser and its averaged weights.

    ``saves_frozen``: whether frozen weights are saved too.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: WeightAverage
    saves_frozen: bool = True

    @property
    def bare_network(self) -> nn.Module:
        """Without Fabric's wrapper, whose names torch does not know; a strategy's own wrapper stays."""
        inner = getattr(self.network, "_forward_module", self.network)
        return inner if isinstance(inner, nn.Module) else self.network

    @property
    def bare_optimiser(self) -> torch.optim.Optimizer:
        """Without Fabric's wrapper."""
        inner = getattr(self.optimiser, "optimizer", self.optimiser)
        return inner if isinstance(inner, torch.optim.Optimizer) else self.optimiser

    def network_tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name, whole on every process, whatever the strategy shards."""
        options = StateDictOptions(full_state_dict=True, ignore_frozen_params=not self.saves_frozen)
        # Copies: on a CPU the tensors given are the network's own.
        state = get_model_state_dict(self.bare_network, options=options)
        return {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}

    def optimiser_tensors(self) -> dict[str, Tensor]:
        """The optimiser's moments and counts as "weight/moment", whole."""
        state = self._optimiser_state()["state"]
        return {f"{name}/{key}": value for name, values in state.items() for key, value in values.items()}

    def put_network(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads the tensors that :meth:`network_tensors` returned."""
        set_model_state_dict(self.bare_network, dict(tensors), options=_PUT)

    def put_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads the tensors that :meth:`optimiser_tensors` returned; rates and decay stay those of the settings."""
        state: dict[str, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            name, key = path.rsplit("/", 1)
            state.setdefault(name, {})[key] = value
        whole = {"state": state, "param_groups": self._optimiser_state()["param_groups"]}
        # Not strict: a weight without gradients (SAM's neck) has no moments to restore.
        set_optimizer_state_dict(self.bare_network, self.bare_optimiser, optim_state_dict=whole, options=_PUT)

    def _optimiser_state(self) -> dict[str, Any]:
        options = StateDictOptions(full_state_dict=True)
        return get_optimizer_state_dict(self.bare_network, self.bare_optimiser, options=options)


def write_checkpoint(run: Path, state: State, facts: Mapping[str, Any], *, writes: bool = True) -> None:
    """Writes ``facts`` (JSON-able, with "step") and the state into ``run``.

    Every process must call it (tensors are gathered); only the one with ``writes`` writes files. An existing checkpoint
    of the same step is kept unchanged.

    Raises:
        CheckpointNotWritten: the disk is full or failed; the last good checkpoint is still there.
    """
    # Gathering is a collective operation: a process that returned before it would leave the others waiting.
    files = {NETWORK: state.network_tensors(), OPTIMISER: state.optimiser_tensors()}
    with state.average.applied():
        files[AVERAGE] = state.network_tensors()
    if not writes:
        return
    target = run / CHECKPOINTS / f"step-{facts['step']:08d}"
    if target.is_dir():
        return  # the same content; replacing it would leave a moment without any checkpoint
    partial = target.with_name(target.name + ".part")
    try:
        # A run that was killed while it wrote may have left this folder half full.
        shutil.rmtree(partial, ignore_errors=True)
        first = not target.parent.is_dir()
        partial.mkdir(parents=True)
        if first:
            # A new folder is an entry of the one above it, which the syncs below do not cover (fsync(2)).
            synced_folder(run)
            synced_folder(run.resolve().parent)
        for name, tensors in files.items():
            save_file({key: value.contiguous() for key, value in tensors.items()}, partial / name)
            # Bytes first, then the name: after a power cut a folder named step-... is whole or is not there.
            synced_file(partial / name)
        (partial / FACTS).write_text(json.dumps(facts, indent=1))
        synced_file(partial / FACTS)
        # The names of these files are entries of the folder.
        synced_folder(partial)
        # Until this line the run has the checkpoint before this one; after it, both.
        partial.rename(target)
        synced_folder(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointNotWritten(target, str(error)) from error
    # Only now, when the new one is durable. A kill in between leaves two checkpoints, and the newest is read.
    for older in _complete(run)[:-1]:
        shutil.rmtree(older, ignore_errors=True)


def read_checkpoint(run: Path, state: State) -> dict[str, Any] | None:
    """Restores the newest checkpoint's state and returns its facts; None where the run has no checkpoint.

    Raises:
        CheckpointRefused: it is of another network, or damaged.
    """
    folders = _complete(run)
    if not folders:
        return None
    folder = folders[-1]
    facts = read_facts(run)
    if missing := [name for name in RESUMED if name not in facts]:
        raise CheckpointRefused(folder / FACTS, f"damaged (no {missing[0]!r} in it)")
    wanted = state.network_tensors()
    # The average goes through the network, whose strategy may have
    # sharded it; the network's own weights come last and stay.
    for name in (AVERAGE, NETWORK):
        tensors = _loaded(folder / name)
        _check_names(wanted, tensors, folder / name)
        state.put_network(tensors)
        if name == AVERAGE:
            state.average.take()
    state.put_optimiser(_loaded(folder / OPTIMISER))
    return facts


def has_checkpoint(run: Path) -> bool:
    """Whether the run has a checkpoint."""
    return bool(_complete(run))


def check_whole(run: Path) -> None:
    """Looks whether a run can go on in a folder that has a checkpoint.

    Raises:
        CheckpointRefused: the checkpoint has averaged weights alone.
    """
    folder = _newest(run)
    if not (folder / NETWORK).exists() and (folder / AVERAGE).exists():
        # No advice to remove it: it may be all that is left of these weights.
        raise CheckpointRefused(
            run, "it holds averaged weights alone, as `trainer keep` writes them, and no run can go on in it",
            "give another run folder, and this one as --start-from",
        )  # fmt: skip


def read_facts(run: Path) -> dict[str, Any]:
    """The facts of a run's newest checkpoint; "step" (a number) and "settings" (by name) are always among them.

    Raises:
        CheckpointRefused: there is none yet, or it is damaged.
    """
    path = _newest(run) / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    # ValueError: no JSON, or no UTF-8.
    except (OSError, ValueError) as error:
        raise CheckpointRefused(path, f"damaged ({error})", ANOTHER_RUN) from error
    if not isinstance(facts, dict):
        raise CheckpointRefused(path, "damaged (no facts by name in it)", ANOTHER_RUN)
    for name, kind in (("step", int), ("settings", dict)):
        if not isinstance(facts.get(name), kind):
            raise CheckpointRefused(path, f"damaged (no {name!r} in it, or of another kind)", ANOTHER_RUN)
    return facts


def read_average(run: Path) -> dict[str, Tensor]:
    """The averaged weights of a run: what evaluation, export and a later run start from.

    Raises:
        CheckpointRefused: there are none yet, or they are damaged.
    """
    return _loaded(_newest(run) / AVERAGE, ANOTHER_RUN)


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Loads weights into a network that has exactly these names and shapes.

    Raises:
        CheckpointRefused: names or shapes differ.
    """
    _check_names(network.state_dict(), tensors, source, ANOTHER_RUN)
    network.load_state_dict(dict(tensors))


def load_part(network: nn.Module, tensors: Mapping[str, Tensor], prefix: str, source: object) -> None:
    """Loads the weights whose names begin with ``prefix`` into a network that has exactly these names and shapes.

    Raises:
        CheckpointRefused: names or shapes differ.
    """
    load_weights(network, _part(tensors, prefix), source)


def check_part(network: nn.Module, tensors: Mapping[str, Tensor], prefix: str, source: object) -> None:
    """As load_part, without loading: the network may be on the meta device.

    Raises:
        CheckpointRefused: names or shapes differ.
    """
    _check_names(network.state_dict(), _part(tensors, prefix), source, ANOTHER_RUN)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def checkout_commit() -> str:
    """Git commit of the checkout that this code runs from; "unknown" outside a checkout."""
    answer = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 -- git as the PATH has it
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def _complete(run: Path) -> list[Path]:
    """Folders of whole checkpoints, the newest last."""
    # Steps are written with eight digits, so names sort as numbers do.
    return sorted(path for path in (run / CHECKPOINTS).glob("step-*") if path.suffix != ".part")


def _newest(run: Path) -> Path:
    folders = _complete(run)
    if not folders:
        raise CheckpointRefused(run, "no checkpoint in it", "give the folder of a run that has one")
    return folders[-1]


def _loaded(path: Path, remedy: str = START_AFRESH) -> dict[str, Tensor]:
    try:
        # safetensors and not pickle: a file of weights from elsewhere cannot run code.
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointRefused(path, f"damaged or not there ({error})", remedy) from error


def _check_names(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: object, remedy: str = START_AFRESH
) -> None:
    for name in sorted(wanted.keys() | given.keys()):
        if name not in given:
            problem = f"{name} is missing"
        elif name not in wanted:
            problem = f"{name} is not in this one"
        elif wanted[name].shape != given[name].shape:
            problem = f"{name} is {tuple(given[name].shape)}, here it is {tuple(wanted[name].shape)}"
        else:
            continue
        raise CheckpointRefused(source, f"weights of another network: {problem}", remedy)
