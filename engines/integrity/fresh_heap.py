"""Makes malloc put all allocations of a block of code into new memory, apart from other data of the process.

malloc uses a free piece of its heap before it asks the kernel for memory, whatever its threshold. So all free pieces
are allocated first. Then new memory must come from the kernel: large allocations get pages of their own, small ones
grow the heap. Afterwards the free pieces between the small ones stay allocated, so that nothing else is written there.

Source: malloc/malloc.c of glibc 2.31 to 2.41 (_int_malloc, sysmalloc); mallopt(3).
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

OWN_PAGES_FROM = 512
"""Bytes from which an allocation gets pages of its own: all but the smallest tensors."""
# malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
# What glibc's own adjustment comes to in a process that frees large arrays; any call of mallopt ends it.
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20, _TOP_PAD: 128 << 10}
_OWN_PAGES = {_MMAP_THRESHOLD: OWN_PAGES_FROM, _MMAP_MAX: 16384}
# While free pieces are taken, what none of them can hold comes as a mapping: so it is known that there is none left.
_ALL_MAPPED = {_MMAP_THRESHOLD: 1, _MMAP_MAX: 65536}
_LARGEST, _FINE, _STEP, _SMALLEST = 1 << 30, 1032, 16, 24
"""Bytes; malloc's sizes are multiples of 16, less 8. Up to _FINE each size has a list of its own (tcache)."""
_MAPPED = 2


class FreshHeap:
    """The free pieces of the calling thread's heap. Does nothing where the C library is not glibc."""

    def __init__(self) -> None:
        self._libc = _glibc()
        self._held = array("Q")

    @property
    def held(self) -> int:
        """Number of free pieces that are held."""
        return len(self._held)

    @contextmanager
    def growing(self) -> Iterator[int]:
        """Within, this thread's allocations come from new memory; the free pieces in it are held until `release`.

        Gives the address where the heap ends now: it grows from there.
        """
        self.release()
        libc = self._libc
        if libc is None:
            yield 0
            return
        before = _taken(libc)
        _set(libc, _OWN_PAGES)
        try:
            yield int(libc.sbrk(0))
            # Taken while `before` is still taken: so these are the free pieces of the new memory alone.
            self._held = _taken(libc)
        finally:
            # Also where the opening failed: then nothing stays taken, and malloc is as it was.
            _free(libc, before)
            _set(libc, _USUAL)

    def release(self) -> None:
        """Lets everyone use the free pieces again."""
        held, self._held = self._held, array("Q")
        if self._libc is not None:
            _free(self._libc, held)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    if not all(hasattr(libc, name) for name in ("mallopt", "malloc_trim", "sbrk")):
        return None
    # Without these ctypes takes an address for an int of 32 bits.
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    libc.malloc_trim.argtypes = [ctypes.c_size_t]
    return libc


def _taken(libc: ctypes.CDLL) -> array[int]:
    """Addresses of all free pieces, which are now taken; their memory went back to the kernel before."""
    libc.malloc_trim(0)
    _set(libc, _ALL_MAPPED)
    taken, count, size = array("Q", bytes(8 * 4096)), 0, _LARGEST
    # From large to small, each size until malloc answers with a mapping: then no free piece can hold it.
    while size >= _SMALLEST:
        address = libc.malloc(size)
        if address and not _is_mapped(address):
            if count == len(taken):
                taken.extend(array("Q", bytes(8 * count)))
            taken[count] = address
            count += 1
            continue
        libc.free(address)
        # A piece between two large sizes is split by malloc, and its rest is found at a smaller size. Small sizes have
        # lists of their own, so none may be skipped.
        size = size // 2 if size // 2 > _FINE else min(_FINE, size - _STEP)
    return taken[:count]


def _is_mapped(address: int) -> bool:
    """Whether malloc asked the kernel for this piece alone: a flag in the word before it."""
    return bool(ctypes.c_size_t.from_address(address - 8).value & _MAPPED)


def _free(libc: ctypes.CDLL, pieces: array[int]) -> None:
    for address in pieces:
        libc.free(address)


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)
