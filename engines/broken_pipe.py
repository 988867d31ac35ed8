"""Ends a command quietly when the reader of its output has gone: `| head`, or a pager that was quit."""

from __future__ import annotations

import os
import sys

EXIT_CODE = 141
"""128 + SIGPIPE, as a shell reports a program that this signal ended; Python itself ignores the signal."""


def discard_stdout() -> int:
    """Redirects stdout to /dev/null, so that the interpreter's last flush is silent; returns the exit code.

    Source: Python's documentation of the module signal, "Note on SIGPIPE".
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_CODE
