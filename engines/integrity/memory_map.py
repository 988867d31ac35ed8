"""This process's memory map, and reads of its memory that fail cleanly where a range is gone.

Linux only. Source: proc_pid_maps(5), proc_pid_mem(5).
"""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE = os.sysconf("SC_PAGESIZE")
POOL, POOLS_TOGETHER = 16 << 10, 1 << 20
"""Bytes of a pool of small objects of Python's, and of an arena that holds pools.

Source: Objects/obmalloc.c of CPython 3.10 and later.
"""
_ARENA = 64 << 20
"""glibc's heaps of threads are aligned to this. Source: malloc/arena.c, HEAP_MAX_SIZE on 64 bits."""
_STACK = 8 << 20


@dataclass(frozen=True)
class Mapping:
    """A range of addresses: permissions as "rw-p", and the file's path, "[heap]", or "" for anonymous memory."""

    start: int
    end: int
    permissions: str
    name: str


def read_maps(path: Path = Path("/proc/self/maps")) -> list[Mapping]:
    """All ranges, in order of their addresses.

    Raises:
        OSError: the system has no such file.
    """
    ranges = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        # The name is the last of six fields and may hold spaces.
        fields = line.split(None, 5)
        start, end = (int(number, 16) for number in fields[0].split("-"))
        ranges.append(Mapping(start, end, fields[1], fields[5] if len(fields) > 5 else ""))
    return ranges


def without(start: int, end: int, holes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The range [start, end) without the holes, which are sorted: the remaining ranges in order."""
    left = []
    for first, last in holes:
        if last <= start or first >= end:
            continue
        if first > start:
            left.append((start, first))
        start = max(start, last)
    if start < end:
        left.append((start, end))
    return left


def python_objects() -> NDArray[np.uint64]:
    """Sorted addresses of all objects that Python's garbage collector knows, and of the objects they refer to."""
    # The collector does not track strings, bytes and numbers: they are reached through the objects that hold them.
    objects = gc.get_objects()
    addresses = (id(item) for item in chain(objects, gc.get_referents(*objects)))
    return np.unique(np.fromiter(addresses, dtype=np.uint64))


def threads_heaps(ranges: Sequence[Mapping]) -> list[tuple[int, int]]:
    """Ranges of malloc's heaps of threads other than the main thread.

    Such a heap begins at a multiple of 64 MB; the rest up to the next multiple is reserved only. The kernel may list it
    as several neighbouring ranges.
    """
    heaps = []
    for index, first in enumerate(ranges):
        if first.start % _ARENA or not _is_plain(first):
            continue
        end = first.end
        for item in ranges[index + 1 :]:
            if item.start != end or item.start >= first.start + _ARENA:
                break
            if item.permissions == "---p":
                heaps.append((first.start, end))
                break
            if not _is_plain(item):
                break
            end = item.end
    return heaps


def _is_plain(mapping: Mapping) -> bool:
    return mapping.permissions == "rw-p" and not mapping.name


def stack_bytes(ranges: Sequence[Mapping], index: int) -> int:
    """Bytes at the beginning of a range that are a thread's stack: its size after a guard page, else 0."""
    mapping = ranges[index]
    before = ranges[index - 1] if index else None
    if before is None or mapping.name or before.end != mapping.start or before.permissions != "---p":
        return 0
    # A guard is one page or a few. A longer reserved range belongs to a thread's heap.
    if before.end - before.start > 16 * PAGE:
        return 0
    # glibc gives a thread a stack of RLIMIT_STACK (pthread_create(3)).
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return min(mapping.end - mapping.start, limit if limit > 0 else _STACK)


class OwnMemory:
    """Reads this process's memory through the kernel: a range that is gone is an error, not a crash."""

    def __init__(self, path: Path = Path("/proc/self/mem")) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_into(self, buffer: memoryview, address: int) -> bool:
        """Fills the buffer; False where part of the range is gone."""
        try:
            # Fewer bytes than asked, or an error: a part was unmapped since the map was read.
            return os.preadv(self._file, [buffer], address) == len(buffer)
        except OSError:
            return False

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
