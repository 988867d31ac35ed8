"""The life of a child process: it ends with its parent, reads lines from a pipe, writes lines to the supervisor.

What the operator has to mend is one line on standard error, and the exit code says whether a restart can help.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator

from engines.errors import EngineError
from onboard.errors import AlreadyRunning, LedgerDamaged, OnboardError
from onboard.parent import end_with_parent

STDIN = 0
_READ_BYTES = 1 << 16
REFUSED = 2
"""Exit code of a child that another start will not help: settings, folder or address have to change."""
DAMAGED = 3
"""Exit code of a child that found the ledger damaged."""
UNFORESEEN = 1
"""Exit code of a child that an exception ended which nobody foresaw: Python's own."""
ALIVE = b"alive\n"
"""The line of a child that reports nothing but that it answers."""


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
        # Before anything else: a supervisor that is killed while this one starts must leave no orphan.
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


def write_line(out: int, line: bytes = ALIVE) -> None:
    """Writes a line to the supervisor; a pipe that is full or closed is not waited for."""
    try:
        # A lost line does no harm: the next one comes half a second later.
        os.write(out, line)  # under PIPE_BUF: whole or not at all
    except (BlockingIOError, BrokenPipeError):
        return


def lines_of(descriptor: int) -> Iterator[bytes]:
    """Whole lines of a pipe, without their newlines, until it closes; an incomplete last line is dropped.

    Not `for line in sys.stdin.buffer`: a daemon thread that waits there holds the buffer's lock, and Python aborts the
    process at exit when it cannot take that lock. Source: CPython, "_enter_buffered_busy".
    """
    incomplete = b""
    while chunk := os.read(descriptor, _READ_BYTES):
        *lines, incomplete = (incomplete + chunk).split(b"\n")
        yield from lines
