"""`trainer keep`: the averaged weights of a run, in a small folder."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from trainer.commands.arguments import whole_number_from


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds its parser."""
    parser = commands.add_parser(
        "keep",
        help="write a run's averaged weights alone, in half precision",
        description="What export, places and later runs read of a run, in a folder that is small enough for a "
        "repository: they take it in the run's place. The run cannot be continued from it.",
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument(
        "--mean-with", type=Path, action="append", default=[], metavar="RUN",
        help="the mean of these weights and of another run's of the same network; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--norms", type=whole_number_from(1), metavar="N",
        help="take the statistics of batch norms anew, as a mean needs them, from N batches of 16 crops of the sets "
        "that taught RUN's encoder",
    )  # fmt: skip
    parser.set_defaults(run=_keep)


def _keep(options: argparse.Namespace) -> None:
    from trainer.training.keep import keep

    changed = None
    if options.norms is not None:
        from trainer.finetune.norms import with_new_norms

        changed = partial(with_new_norms, run=options.run_folder, batches=options.norms)
    path = keep(options.run_folder, options.out, options.mean_with, changed)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
