"""Goes on from the weights of an earlier finetuning, also where residual blocks have been added since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from trainer.models.plain import Residual
from trainer.training.checkpoint import load_weights, read_average


def load_earlier(network: nn.Module, run: Path) -> None:
    """Loads the averaged weights of ``run``; a residual block that it lacks stays new, which changes no output.

    Raises:
        CheckpointRefused: there are no weights in ``run``, or they differ in more than whole residual blocks.
    """
    earlier = read_average(run)
    load_weights(network, {**_new_blocks(network, earlier), **earlier}, run)


def _new_blocks(network: nn.Module, earlier: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = network.state_dict()
    prefixes = [f"{name}." for name, module in network.named_modules() if isinstance(module, Residual)]
    # A block of which the run has a part is not new: what is missing of it is then refused.
    new = tuple(prefix for prefix in prefixes if not any(name.startswith(prefix) for name in earlier))
    return {name: value for name, value in own.items() if name.startswith(new)}
