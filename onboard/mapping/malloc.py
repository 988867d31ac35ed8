"""Has malloc keep freed memory for a while, where a library frees and allocates tens of megabytes in turn.

libtiff makes a ZSTD context of some 40 MB for each block it writes. glibc gives such blocks back to the kernel, which
zeroes every page anew: three quarters of the time of writing a raster (docs/decisions/0002).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_ALL = 1 << 30
# A thread other than the first has its memory in pieces of this size, each given back once empty, whatever the
# threshold, unless so much is to be kept spare.
_A_THREADS_HEAP = 64 << 20
# What glibc's own adjustment comes to in a process that frees large arrays; it ends with the first call of mallopt.
_USUAL_MMAP_THRESHOLD, _USUAL_MMAP_MAX, _USUAL_TOP_PAD = 32 << 20, 65536, 128 << 10


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Within, freed memory stays with the process, all threads; afterwards it is given back. Nothing but on glibc."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _ALL)
    libc.mallopt(_TOP_PAD, _A_THREADS_HEAP)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _USUAL_MMAP_MAX)
        libc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _USUAL_MMAP_THRESHOLD)
        libc.mallopt(_TOP_PAD, _USUAL_TOP_PAD)
        libc.malloc_trim(0)


def return_freed_memory() -> None:
    """Gives freed memory that lies between used pieces back to the system. Nothing but on glibc."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
