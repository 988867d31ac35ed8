"""Goes on from the weights of an earlier finetuning, also where blocks have been added or a head is to begin anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from trainer.errors import CheckpointRefused
from trainer.models.necks import has_neck, with_neck
from trainer.models.plain import Residual
from trainer.training.checkpoint import load_weights, read_average


def load_earlier(network: nn.Module, run: Path, *, fresh_heads: Sequence[str] = ()) -> None:
    """Loads the averaged weights of ``run``; a residual block that it lacks stays new, which changes no output.

    A neck that ``run`` lacks takes the upper half of its first decoder, whose outputs then stay the same.

    Args:
        network: of the heads that ``run`` has.
        run: folder of the earlier run.
        fresh_heads: further heads that stay as they are, whatever ``run`` has under these names.

    Raises:
        CheckpointRefused: no weights in ``run``, or they differ in more than a neck and whole residual blocks.
    """
    fresh = tuple(f"heads.{name}." for name in fresh_heads)
    own = network.state_dict()
    average = read_average(run)
    earlier = {name: value for name, value in with_neck(own, average).items() if not name.startswith(fresh)}
    if has_neck(own) and not has_neck(average):
        _check_other_heads(earlier, run)
    kept = {name: value for name, value in own.items() if name.startswith((*fresh, *_new_blocks(network, earlier)))}
    load_weights(network, {**kept, **earlier}, run)


def _check_other_heads(earlier: Mapping[str, Tensor], run: Path) -> None:
    """Refuses further heads of a run without a neck: what they did at strides 32 and 16 has no place behind one."""
    for name in earlier:
        head, _, rest = name.removeprefix("heads.").partition(".")
        if name.startswith("heads.") and rest.startswith(("top.", "steps.16.")):
            raise CheckpointRefused(
                run, f"its encoder has no neck, so its head {head} does not fit one that has",
                f"begin the head anew: fresh_heads: [{head}]",
            )  # fmt: skip


def _new_blocks(network: nn.Module, earlier: Mapping[str, Tensor]) -> list[str]:
    """How the names of their weights begin."""
    prefixes = [f"{name}." for name, module in network.named_modules() if isinstance(module, Residual)]
    # A block of which the run has a part is not new: what is missing of it is then refused.
    return [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in earlier)]
