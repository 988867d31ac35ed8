"""How a child of the supervisor begins and ends: with its parent, with one line for what is the operator's to mend."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from engines.errors import EngineError
from onboard.errors import AlreadyRunning, LedgerDamaged, OnboardError
from onboard.jobs.parent import end_with_parent

REFUSED = 2
"""Exit code of a child that another start will not help: settings, folder or address have to change."""
DAMAGED = 3
"""Exit code of a child that found the ledger damaged."""
WORD = b"alive\n"
"""A line that says no more than that the process answers."""


def run_child(name: str, option: str, work: Callable[[int | None], None]) -> None:
    """The main function of a child process.

    Args:
        name: for people.
        option: that names the descriptor of the pipe to the supervisor.
        work: its whole life; called with that descriptor, None where it is started by hand.
    """
    parser = argparse.ArgumentParser(prog=f"onboard {name}")
    parser.add_argument("--parent", type=int)
    parser.add_argument(option, type=int, dest="out")
    arguments = parser.parse_args()
    if arguments.parent is not None:
        end_with_parent(arguments.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        work(arguments.out)
    except (OnboardError, EngineError) as error:
        print(f"onboard {name}: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(_exit_code(error))


def _exit_code(error: Exception) -> int:
    if isinstance(error, LedgerDamaged):
        return DAMAGED
    # The one before it, that is being killed, may hold the folder for a moment yet.
    return 1 if isinstance(error, AlreadyRunning) else int(getattr(error, "exit_code", 1))


def say(out: int, line: bytes = WORD) -> None:
    """Writes a line to the supervisor; a pipe that is full or gone is not waited for."""
    try:
        os.write(out, line)  # under PIPE_BUF: whole or not at all
    except (BlockingIOError, BrokenPipeError):
        return
