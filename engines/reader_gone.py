"""The end of a command whose reader has read enough: `| head`, or a pager that was left."""

from __future__ import annotations

import os
import sys

EXIT_CODE = 141
"""What a shell tells of a program that SIGPIPE ended, which Python ignores."""


def reader_gone() -> int:
    """Sends what is still to be printed nowhere, so that the interpreter's last flush is silent; gives the exit code.

    Source of the way: Python's documentation of the module signal, "Note on SIGPIPE".
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_CODE
