"""`trainer`: pretrain, fit, evaluate, export."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import TrainerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build one settings object, call one function; one line on stderr when it cannot."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    try:
        options.run(options)
    except TrainerError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainer", description="How a model is made, on the ground.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fit = commands.add_parser("fit", help="supervised fit on labelled scenes")
    fit.add_argument("--config", type=Path, required=True, help="YAML, see trainer/configs")
    fit.add_argument("--run", type=Path, required=True, dest="folder", help="run folder: checkpoints; resumed if any")
    fit.set_defaults(run=_fit)
    return parser


def _fit(options: argparse.Namespace) -> None:
    from trainer.config import FitSettings, read_settings
    from trainer.fit import fit

    fit(read_settings(options.config, FitSettings), options.folder)


if __name__ == "__main__":
    sys.exit(main())
