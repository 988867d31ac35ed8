"""`trainer mosaics`: tiles of a labelled set, joined to the images they were cut from."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.commands.arguments import whole_number_from


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds its parser."""
    parser = commands.add_parser(
        "mosaics",
        help="join the tiles of a labelled set to larger images",
        description="Tiles that were cut from one scene are found by their edges and joined: crops may be larger "
        "than a tile. Places whose tile is not in the set hold a tile from elsewhere.",
    )
    parser.add_argument("set", help="name of a ready-made set (trainer/sets), or the YAML of your own")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--split", default="train", help="tiles to join (default: train)")
    parser.add_argument(
        "--ahead", type=whole_number_from(1), default=8,
        help="how far apart neighbours may be in the order of names (default: 8)",
    )  # fmt: skip
    parser.set_defaults(run=_mosaics)


def _mosaics(options: argparse.Namespace) -> None:
    from trainer.data.mosaics import write_mosaics
    from trainer.data.sets import open_set

    labelled = open_set(options.set)
    report = write_mosaics(labelled, labelled.split(options.split), options.out, ahead=options.ahead)
    print(f"{options.out / labelled.name}.yaml: {report.summary()}")
