"""Loads published backbones from local transformers folders; refuses incomplete or misshaped weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from trainer.errors import CheckpointRefused

REMEDY = "give a folder saved by transformers' save_pretrained (config.json beside model.safetensors)"

Backbone = TypeVar("Backbone", bound=PreTrainedModel)


def pretrained(folder: Path, kind: type[Backbone], *, beside: tuple[str, ...] = ()) -> Backbone:
    """The model of class ``kind`` in ``folder``, float32, nothing fetched.

    ``beside`` are prefixes of keys that may lie in the file and are not read: the other parts of a larger model.

    Raises:
        CheckpointRefused: no such folder, unreadable, or its keys or shapes are not those of ``kind``.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointRefused(folder, "holds no config.json", REMEDY)
    try:
        with _quiet():
            loaded: Any = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they come back in the report, and are refused below with all others
            )
        model, report = loaded
    # A damaged file must be one line that names it, whichever library found the damage.
    except Exception as error:
        # transformers and safetensors raise a dozen kinds, some of them bare Exception
        raise CheckpointRefused(folder, f"transformers cannot read it: {error}", REMEDY) from error
    refuse_difference(
        folder,
        missing=report["missing_keys"],
        unexpected=[key for key in report["unexpected_keys"] if not key.startswith(beside)],
        misshaped={key: (given, wanted) for key, given, wanted in report["mismatched_keys"]},
        remedy=REMEDY,
    )
    # Weights may be stored in half precision, as the study's teacher is; all networks here compute in 32 bits.
    return cast(Backbone, model.to(torch.float32))


def refuse_difference(
    path: Path,
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    misshaped: Mapping[str, tuple[Iterable[int], Iterable[int]]],
    remedy: str,
) -> None:
    """Refuse a file whose keys or shapes (given, wanted) differ from the network's; silent where nothing does.

    Raises:
        CheckpointRefused: anything is missing, unexpected or misshaped: the first few of each are named.
    """
    shapes = [f"{key} is {tuple(given)} and not {tuple(wanted)}" for key, (given, wanted) in misshaped.items()]
    differences = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of another shape": sorted(shapes)}
    problems = [f"{len(keys)} keys {kind} ({_few(keys)})" for kind, keys in differences.items() if keys]
    if problems:
        raise CheckpointRefused(path, ", ".join(problems), remedy)


def load_whole(path: Path, model: torch.nn.Module, state: Mapping[str, Tensor], *, remedy: str) -> None:
    """Loads ``state`` into ``model``; both must have exactly the same keys.

    Raises:
        CheckpointRefused: see :func:`refuse_difference`.
    """
    wanted = model.state_dict()
    both = wanted.keys() & state.keys()
    refuse_difference(
        path,
        missing=wanted.keys() - both,
        unexpected=state.keys() - both,
        misshaped={k: (state[k].shape, wanted[k].shape) for k in both if state[k].shape != wanted[k].shape},
        remedy=remedy,
    )
    model.load_state_dict(state)


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses progress bar and table of keys while loading; problems with the file are raised as exceptions."""
    # These are global in transformers, so they are put back.
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
