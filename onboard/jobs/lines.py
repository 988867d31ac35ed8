"""Lines of a pipe for a daemon thread.

Not `for line in sys.stdin.buffer`: a thread that waits in there holds the buffer's lock, and Python aborts the whole
process at its end when it cannot take it. Source: CPython, "_enter_buffered_busy".
"""

from __future__ import annotations

import os
from collections.abc import Iterator

STDIN = 0
_CHUNK = 1 << 16


def lines_of(descriptor: int) -> Iterator[bytes]:
    """Whole lines, without their ends, until the pipe closes; one that was cut off there is not told."""
    rest = b""
    while chunk := os.read(descriptor, _CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
