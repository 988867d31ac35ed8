from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from engines.integrity.fresh_heap import OWN_PAGES_FROM, FreshHeap
from engines.integrity.memory_map import read_maps

pytestmark = pytest.mark.own_process

TOP_LEFT = 64
"""Bytes at the end of the heap that cannot be taken."""
SIZES = (24, 64, 100, 256, 300, OWN_PAGES_FROM, 600, 5000, 100_000, 10 << 20)

libc = ctypes.CDLL(None)
malloc, free = libc.malloc, libc.free
malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
free.restype, free.argtypes = None, [ctypes.c_void_p]


@pytest.fixture
def heap() -> Iterator[FreshHeap]:
    if not hasattr(libc, "mallopt"):
        pytest.skip("the C library is not glibc")
    heap = FreshHeap()
    yield heap
    heap.release()


def with_free_pieces() -> list[int]:
    """Leaves free pieces of many sizes; gives what lies between them."""
    pieces = [malloc(16 + number % 4000) for number in range(20_000)]
    for address in pieces[::2]:
        free(address)
    return pieces[1::2]


def test_what_is_allocated_within_lies_in_new_memory_though_free_pieces_fit(heap: FreshHeap) -> None:
    between = with_free_pieces()
    before = read_maps()
    sizes, pieces = SIZES * 20, [0] * 200  # Python itself gives nothing back within
    with heap.growing() as heap_end:
        for number, size in enumerate(sizes):
            pieces[number] = malloc(size)
    old = [(item.start, min(item.end, heap_end - TOP_LEFT) if item.name == "[heap]" else item.end) for item in before]
    reused = [address for address in pieces if any(start <= address < end for start, end in old)]
    for address in [*pieces, *between]:
        free(address)
    assert not reused


def test_nothing_is_put_beside_it_afterwards(heap: FreshHeap) -> None:
    with heap.growing() as heap_end:
        pieces = [malloc(200) for _ in range(2000)]
        for address in pieces[::2]:
            free(address)
    kept, last = pieces[1::2], max(pieces)
    later = [malloc(200) for _ in range(3000)]
    beside = [address for address in later if heap_end <= address <= last]
    assert heap.held > 0
    for address in [*kept, *later]:
        free(address)
    assert not beside


def test_held_pieces_are_given_back(heap: FreshHeap) -> None:
    with heap.growing():
        pieces = [malloc(200) for _ in range(2000)]
        for address in pieces[::2]:
            free(address)
    heap.release()
    assert heap.held == 0
    again = [malloc(200) for _ in range(900)]
    assert set(again) & set(pieces[::2])
    for address in [*again, *pieces[1::2]]:
        free(address)


def test_an_opening_that_fails_leaves_nothing_taken(heap: FreshHeap) -> None:
    with pytest.raises(ValueError, match="no engine"), heap.growing():
        raise ValueError("no engine")
    assert heap.held == 0
    with heap.growing():
        pass
