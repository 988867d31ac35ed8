"""A task of the training loop: what it must provide, and a base class for tasks without state of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from trainer.config import Stage

# A tuple of tensors: Fabric moves it to the device, and a worker process can send it.
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Slice:
    """The images of a step's batch that one call draws: ``numbers``, within 0 .. ``stage.batch`` - 1."""

    # A part and not the batch: processes and micro-batches share the images of a step.
    step: int
    stage: Stage
    numbers: range


class Task(Protocol):
    """A training task: it draws batches, computes losses and owns the network.

    Attributes:
        network: everything with weights; frozen parts do not require gradients.
        samples: images in an epoch, None where crops are drawn without end.
        saves_frozen: whether checkpoints hold weights that do not learn.
    """

    network: nn.Module

    @property
    def samples(self) -> int | None:
        """See above."""

    @property
    def saves_frozen(self) -> bool:
        """See above."""

    def draw(self, part: Slice) -> Batch:
        """Tensors of these images, first axis = image; the same for the same part. May run in a worker process."""

    def losses(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses by name, each a mean over the images; the optimiser minimises "total".

        Calls the ``network`` given, which may be wrapped, and not the task's own attribute.
        """

    def after_step(self, losses: dict[str, float]) -> dict[str, float | str]:
        """Receives the step's losses, equal on all processes; returns further values to record."""

    def state(self) -> dict[str, Any]:
        """The task's own state, JSON-able, for the checkpoint."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state` returned."""

    def show(self, folder: Path, step: int) -> None:
        """Writes pictures of the progress, if the task has any. Called on one process."""


class StatelessTask:
    """Base class of tasks that keep no state, record nothing but losses and draw no pictures."""

    def after_step(self, losses: dict[str, float]) -> dict[str, float | str]:  # noqa: ARG002 -- see Task
        """See Task: nothing more to record."""
        return {}

    def state(self) -> dict[str, Any]:
        """See Task: empty."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """See Task: nothing to restore."""

    def show(self, folder: Path, step: int) -> None:
        """See Task: no pictures, maps are evaluated after the training."""
