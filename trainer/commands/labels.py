"""`trainer labels`: the labels of a set as class rasters, for `engines verify`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds its parser."""
    parser = commands.add_parser(
        "labels",
        help="write labels of a set as class rasters",
        description="Writes OUT/SET/NAME.png of each image, in class codes (0: nothing is labelled), and prints the "
        "options --scenes and --labels of `engines verify` for them. The codes have to be those of the model's table.",
    )
    parser.add_argument("set", help="name of a ready-made set (trainer/sets), or the YAML of your own")
    parser.add_argument("names", nargs="+", metavar="NAME", help="image, or a pattern as 'scene_*'")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rasters")
    parser.add_argument("--table", metavar="SET", help="set whose class table the model has (default: this one)")
    parser.add_argument("--root", type=Path, help="folder of the data sets")
    parser.set_defaults(run=_labels)


def _labels(options: argparse.Namespace) -> None:
    from trainer.data.label_rasters import write_label_rasters
    from trainer.data.sets import open_set

    labelled = open_set(options.set, options.root)
    names = labelled.named(options.names)
    rasters = write_label_rasters(labelled, names, options.out, options.table)
    scenes = [labelled.image_path(name) for name in names]
    print("--scenes", *(shlex.quote(str(path)) for path in scenes), "--labels", *(shlex.quote(str(r)) for r in rasters))
