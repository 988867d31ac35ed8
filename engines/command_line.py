"""What the command lines of this project have in common: one-line errors, `--version`, an example in each `--help`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

DISTRIBUTION = "onboard-landcover"


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it; exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_version(parser: argparse.ArgumentParser) -> None:
    """Adds `--version`: the program's name and the installed version of this project."""
    try:
        installed = version(DISTRIBUTION)
    except PackageNotFoundError:
        installed = "(a checkout that is not installed)"
    parser.add_argument("--version", action="version", version=f"{parser.prog} {installed}")


def add_examples(commands: Any, examples: Mapping[str, str]) -> None:
    """Puts an example under the help of each command.

    Args:
        commands: what `ArgumentParser.add_subparsers` gave, its commands added.
        examples: by command, lines as a person types them.
    """
    for name, example in examples.items():
        command = commands.choices[name]
        lines = "\n".join(f"  {line}" for line in example.splitlines())
        command.epilog = "\n\n".join(filter(None, [f"example:\n{lines}", command.epilog]))
        # Otherwise argparse joins the example's lines to one paragraph.
        command.formatter_class = argparse.RawDescriptionHelpFormatter


def bytes_text(count: float) -> str:
    """Bytes in the unit that a person reads: 812 B, 4.2 MB, 48.8 GB; decimal units."""
    # The limits are where rounding adds a digit: 999.5 kB reads "1.0 MB", 99.95 kB reads "100 kB".
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("GB takes all that is left")


def counted(number: int, noun: str) -> str:
    """A number of things: 1 tile, 2 tiles."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def coloured(text: str, colour: str | None) -> str:
    """Text for a terminal in a 24-bit ``colour`` #RRGGBB; None, or empty text, leaves it as it is."""
    if colour is None or not text:
        return text
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"\x1b[38;2;{red};{green};{blue}m{text}\x1b[0m"


def names_of(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
