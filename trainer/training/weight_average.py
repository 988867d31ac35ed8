"""Exponential moving average of the weights over the steps of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a network's trainable parameters and buffers.

    The decay warms up as (1 + t) / (10 + t), so that the random start is soon forgotten. It works on the tensors of
    this process, sharded or whole; :meth:`applied` swaps the average in while a checkpoint is written.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        self._means = [value.detach().clone() for value in self._values()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Updates the average with the network's weights after ``step`` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, value in zip(self._means, self._values(), strict=True):
            # Running statistics of batch norms are averaged like weights. Counters, as a norm's batches, cannot be.
            if mean.is_floating_point():
                mean.lerp_(value.detach(), 1 - decay)
            else:
                mean.copy_(value)

    @torch.no_grad()
    def take(self) -> None:
        """Sets the average to the network's current weights."""
        for mean, value in zip(self._means, self._values(), strict=True):
            mean.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the network has the averaged weights; its own are restored afterwards."""
        with torch.no_grad():
            # The swap is in place: optimiser and strategy hold on to these very tensors.
            own = [value.detach().clone() for value in self._values()]
            self._put(self._means)
            try:
                yield
            finally:
                self._put(own)

    def _put(self, tensors: list[Tensor]) -> None:
        for value, tensor in zip(self._values(), tensors, strict=True):
            value.copy_(tensor)

    def _values(self) -> list[Tensor]:
        learnt = [value for value in self.network.parameters() if value.requires_grad]
        return [*learnt, *self.network.buffers()]
