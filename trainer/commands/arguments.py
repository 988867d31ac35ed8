"""Arguments that several commands share, and what they become."""

from __future__ import annotations

import argparse
import errno
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import DataRefused, SettingsRefused

if TYPE_CHECKING:
    from engines.manifest import Manifest
    from trainer.config import AnySettings


def whole_number_from(least: int) -> Callable[[str], int]:
    """A type of argparse: whole numbers from ``least`` on."""

    def number(given: str) -> int:
        if (value := int(given)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    number.__name__ = "whole number"  # argparse tells it of what is no number
    return number


def positive_number(given: str) -> float:
    """A type of argparse: a finite number over 0."""
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    # "nan" and "inf" are numbers to Python.
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{given} is no finite number over 0")
    return value


def run_folder(given: str) -> Path:
    """A type of argparse: a run folder, which exists or can be made.

    Refused here: the loop would meet the file only when it writes, and take it for a full disk.
    """
    folder = Path(given)
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if there.exists() and not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is a file, and a run needs a folder; give another one")
    return folder


def check_target(path: Path) -> None:
    """Refuses a file that cannot be written, before hours of work and not after.

    Raises:
        OSError: its folder is not there, or it is a folder itself.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, and a file is to be written", str(path))


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Configuration, run folder and what may override the configuration."""
    parser.add_argument("--config", type=Path, required=True, help="YAML, see trainer/configs")
    parser.add_argument(
        "--run", "--run-folder", type=run_folder, required=True, dest="folder",
        help="run folder, continued if it exists (under torchrun write --run-folder: it uses --run itself)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="overrides the configuration, as do the next options")
    parser.add_argument("--max-minutes", type=float, help="ends the run then; more continues it")
    parser.add_argument("--max-steps", type=int, help="likewise")
    parser.add_argument(
        "--devices", type=whole_number_from(1), help="processes on this machine; torchrun and SLURM set it themselves"
    )


def run_settings(options: argparse.Namespace, kind: type[AnySettings], *more: str) -> AnySettings:
    """The configuration file, with what the command line says instead."""
    from trainer.config import read_settings

    given = {
        name: getattr(options, name)
        # What was not given stays the file's; a default here would go before it.
        for name in ("seed", "max_minutes", "max_steps", *more)
        if getattr(options, name) is not None
    }
    if options.devices is not None:
        # Merged into the file's `machine`, whose other values stay.
        given["machine"] = {"devices": options.devices}
    return read_settings(options.config, kind, given)


def folder_and_names(given: str) -> tuple[Path, tuple[str, ...]]:
    """FOLDER=NAME,NAME.

    Raises:
        SettingsRefused: it is not of that form.
    """
    # The last sign: a folder's name may hold one, names of images do not.
    folder, _, names = given.rpartition("=")
    if not folder or not all(names.split(",")):
        raise SettingsRefused(given, "give a folder and names of images as FOLDER=NAME,NAME")
    return Path(folder), tuple(names.split(","))


def text_of(path: Path) -> str:
    """A file of text.

    Raises:
        DataRefused: it is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataRefused(path, "it is no text in UTF-8", "give markdown") from None


def print_made(models: Mapping[Path, Manifest]) -> None:
    """Prints a line for each model folder that was written."""
    for folder, manifest in models.items():
        source = getattr(manifest, "source", None)
        files = (manifest.model,) if source is None else (source.encoder, *(head.model for head in source.heads))
        heads = f", heads {', '.join(manifest.head_names)}" if manifest.head_names else ""
        megabytes = sum(file.bytes for file in files) / 1e6
        print(f"{folder}: {megabytes:.1f} MB, sha256 {manifest.model.sha256}{heads}")


def print_lost_sides(before: Sequence[int], made: Manifest) -> None:
    """Prints a line where a model takes tiles of fewer sides than a head of it did before."""
    # A model takes the tiles that each of its heads takes: one of squares alone makes small scenes dear for all.
    if lost := sorted(set(before) - set(made.input.sides)):
        print(
            f"{made.name} takes no tiles of {', '.join(map(str, lost))} pixels, as not each of its heads does: small "
            "scenes cost more. A head with a decoder `fpn`, exported with --prior 0, takes them"
        )


def bias_of(given: Sequence[str], head: str | None) -> dict[str, float]:
    """Logits by class of one head, of [HEAD:]CLASS=LOGITS; of a model of one graph with None.

    Raises:
        SettingsRefused: one is not of that form.
    """
    wanted = "CLASS=LOGITS, as water=-0.5" if head is None else "HEAD:CLASS=LOGITS, as landcover:water=-0.5"
    biases: dict[str, float] = {}
    for item in given:
        where, colon, rest = item.rpartition(":")
        name, sign, logits = rest.partition("=")
        if bool(colon) == (head is None) or not sign or not is_number(logits) or not math.isfinite(float(logits)):
            raise SettingsRefused("--bias", f"{item} is no bias; give {wanted}")
        if where == (head or ""):
            biases[name] = float(logits)
    return biases


def is_number(text: str) -> bool:
    """Whether Python reads it as a number; "nan" and "inf" are some."""
    try:
        float(text)
    except ValueError:
        return False
    return True
