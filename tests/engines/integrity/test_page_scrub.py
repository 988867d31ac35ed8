from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.integrity.memory_map import PAGE, Mapping, OwnMemory, read_maps, stack_bytes, threads_heaps, without
from engines.integrity.page_alarms import SPAN_S, UNEXPLAINED, AlarmHistory
from engines.integrity.page_scrub import HEAP, OWN, PageChange, PageScrub, _is_among, _outside, lines_of

pytestmark = pytest.mark.own_process

WORDS = PAGE // 8


def nothing() -> None:
    """For an engine that infers."""


@pytest.fixture
def weights() -> NDArray[np.float32]:
    """Larger than any free piece of the heap: malloc maps new memory only where none is left that fits."""
    return np.random.default_rng(0).standard_normal(10 << 20, dtype=np.float32)


def opened(weights: NDArray[np.float32]) -> tuple[PageScrub, NDArray[np.float32], NDArray[np.float32]]:
    """A scrub over a copy of the weights, and memory beside them that changes with each inference."""
    scrub = PageScrub()
    with scrub.opening():
        constants, activations = weights.copy(), weights.copy()
    for step in (1, 2):
        activations += step
        scrub.learn()
    scrub.off.add(HEAP)  # of pytest's own objects
    return scrub, constants, activations


@pytest.mark.parametrize("seed", range(5))
def test_spans_and_ranges_are_searched_as_one_by_one(seed: int) -> None:
    draw = np.random.default_rng(seed)
    addresses = np.unique(draw.integers(0, 300, 60)).astype(np.uint64)
    ranges = [(int(start), int(start + length)) for start, length in draw.integers(0, 60, (6, 2)) * 5]
    apart = [a for a in addresses.tolist() if not any(start <= a < end for start, end in ranges)]
    assert _outside(addresses, ranges).tolist() == apart
    span = np.arange(draw.integers(0, 200), 260, dtype=np.uint64)
    assert _is_among(span, addresses).tolist() == [value in addresses.tolist() for value in span.tolist()]
    assert _is_among(span[:0], addresses).tolist() == []


def flip(array: NDArray[np.float32], at: int, bit: int) -> None:
    array.view(np.uint32)[at] ^= np.uint32(1 << bit)


@pytest.mark.parametrize("bit", [0, 22, 27, 31])
def test_a_flipped_bit_of_a_weight_is_seen_and_put_right_is_not(weights: NDArray[np.float32], bit: int) -> None:
    scrub, constants, _ = opened(weights)
    assert scrub.changed(nothing) is None
    flip(constants, 12345, bit)
    change = scrub.changed(nothing)
    assert change is not None
    assert (len(change.addresses), change.single_bit, change.groups) == (1, 1, (OWN,))
    page = constants.ctypes.data + 4 * 12345
    assert change.addresses[0] == page - page % PAGE
    flip(constants, 12345, bit)
    assert scrub.changed(nothing) is None


def test_most_of_the_weights_and_nothing_that_inference_writes_is_watched(weights: NDArray[np.float32]) -> None:
    scrub, constants, activations = opened(weights)
    assert scrub.watched_bytes >= weights.nbytes - 2 * PAGE
    activations += 1
    assert scrub.changed(nothing) is None
    constants[5000:9000] += 1  # more than one bit is seen as well
    change = scrub.changed(nothing)
    assert change is not None
    assert change.single_bit == 0
    assert len(change.addresses) >= 3


def test_what_changes_while_it_settles_is_dropped_but_for_single_bits(weights: NDArray[np.float32]) -> None:
    scrub, constants, _ = opened(weights)
    scrub.learn(settle=2)
    constants[:1024] += 1
    flip(constants, 200_000, 3)
    change = scrub.changed(nothing)
    assert change is not None
    assert (len(change.addresses), change.single_bit) == (1, 1)
    assert scrub.dropped >= 1
    flip(constants, 200_000, 3)
    assert scrub.changed(nothing) is None
    constants[:1024] += 1
    assert scrub.changed(nothing) is None, "a page that was dropped is watched no more"


def test_memory_that_is_given_back_is_no_alarm(weights: NDArray[np.float32]) -> None:
    scrub = PageScrub()
    with scrub.opening():
        constants: list[NDArray[np.float32]] = [weights.copy()]
    scrub.learn()
    scrub.off.add(HEAP)
    constants.clear()
    assert scrub.changed(nothing) is None


def test_a_dropped_page_and_a_group_that_is_off_are_not_watched(weights: NDArray[np.float32]) -> None:
    scrub, constants, _ = opened(weights)
    flip(constants, 5000, 1)
    change = scrub.changed(nothing)
    assert change is not None
    scrub.drop(change.addresses)
    assert scrub.changed(nothing) is None
    flip(constants, 150_000, 1)
    scrub.off.add(OWN)
    assert scrub.changed(nothing) is None


def test_a_constant_is_recognised_at_another_address(weights: NDArray[np.float32]) -> None:
    scrub, constants, _ = opened(weights)
    page = constants.ctypes.data + PAGE - constants.ctypes.data % PAGE + 50 * PAGE
    at = (page - constants.ctypes.data) // 4
    lines = lines_of(constants[at : at + PAGE // 4].view(np.uint64).copy())
    assert scrub.alike(lines) == (page,)
    scrub.drop_pages((page,))
    flip(constants, at + 1000, 4)
    assert scrub.changed(nothing) is None
    assert not scrub.alike(np.zeros(0, np.uint64))


def page(seed: int) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(1, 2**63, (1, WORDS), dtype=np.uint64)


def change(seed: int, group: int = OWN) -> PageChange:
    return PageChange((4096 * seed,), (group,), 1, page(seed))


class Opened(PageScrub):
    """A scrub whose engine holds these pages, at addresses 4096 times their seeds."""

    def __init__(self, *seeds: int) -> None:
        super().__init__()
        self.seeds, self.given_up = seeds, set[int]()

    def alike(self, lines: NDArray[np.uint64]) -> tuple[int, ...]:
        return tuple(4096 * seed for seed in self.seeds if np.isin(lines_of(page(seed).ravel()), lines).all())

    def drop_pages(self, pages: Sequence[int]) -> None:
        self.given_up.update(pages)


def test_a_page_that_alarmed_while_the_engine_answered_right_is_watched_no_more() -> None:
    alarms, scrub = AlarmHistory(lambda: 0.0), Opened(7, 8)
    alarms.note(change(7), answers_right=True)
    assert "1 pages like those that changed are watched no more" in str(alarms.settle(scrub))
    assert scrub.given_up == {7 * 4096}
    later = Opened(7, 8)
    assert alarms.settle(later) is None, "an opening without an alarm before it"
    assert later.given_up == {7 * 4096}, "it stays so when the engine is opened again"


def test_a_page_whose_change_made_the_answer_wrong_stays_watched() -> None:
    alarms, scrub = AlarmHistory(lambda: 0.0), Opened(7, 8)
    for _ in range(3 * UNEXPLAINED):
        alarms.note(change(7), answers_right=False)
        assert alarms.settle(scrub) is None
    assert not scrub.off
    assert not scrub.given_up


def test_alarms_by_no_constant_of_the_engine_end_in_watching_less() -> None:
    now = [0.0]
    alarms, scrub = AlarmHistory(lambda: now[0]), Opened(7, 8)
    for number in range(2 * UNEXPLAINED - 1):
        assert not scrub.off
        now[0] += 2 * SPAN_S if number == UNEXPLAINED - 1 else 0.0  # those before are forgotten
        alarms.note(change(100 + number, HEAP), answers_right=True)
        assert "no constant" in str(alarms.settle(scrub))
    assert scrub.off == {HEAP}


def test_ranges_are_told_apart() -> None:
    assert without(0, 100, [(10, 20), (90, 200)]) == [(0, 10), (20, 90)]
    assert without(0, 100, [(0, 100)]) == []
    guard, stack = Mapping(0, PAGE, "---p", ""), Mapping(PAGE, 100 << 20, "rw-p", "")
    assert 0 < stack_bytes([guard, stack], 1) <= (100 << 20) - PAGE
    assert stack_bytes([stack], 0) == 0


def test_heaps_of_threads_are_told_by_what_is_reserved_after_them() -> None:
    block = 64 << 20
    split = [Mapping(block, block + PAGE, "rw-p", ""), Mapping(block + PAGE, block + 3 * PAGE, "rw-p", "")]
    reserved = Mapping(block + 3 * PAGE, 2 * block, "---p", "")
    assert threads_heaps([*split, reserved]) == [(block, block + 3 * PAGE)]
    assert threads_heaps(split) == []
    code = Mapping(block + 3 * PAGE, block + 4 * PAGE, "rwxp", "")
    assert threads_heaps([*split, code]) == []
    assert threads_heaps([Mapping(PAGE, 2 * PAGE, "rw-p", ""), Mapping(2 * PAGE, 3 * PAGE, "---p", "")]) == []


def test_reading_what_is_not_there_is_no_crash(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("1000-3000 rw-p 00000000 00:00 0\n3000-4000 r-xp 00000000 08:01 12   /usr/lib/a b.so\n")
    assert [(item.start, item.end, item.name) for item in read_maps(maps)] == [
        (0x1000, 0x3000, ""), (0x3000, 0x4000, "/usr/lib/a b.so"),
    ]  # fmt: skip
    memory = OwnMemory()
    assert not memory.read_into(memoryview(bytearray(PAGE)), 0)
    memory.close()


def as_small_pieces(scrub: PageScrub) -> None:
    """Has the scrub watch what it watches as if all of it lay among small pieces."""
    scrub.off.clear()
    scrub._runs = [run for run in scrub._runs if run.group == OWN]
    for run in scrub._runs:
        run.group = HEAP
        now = scrub._read(run.start, run.pages, HEAP)
        run.xor, run.sum = now.xor, now.sum


def test_a_line_of_the_heap_that_changes_again_is_dropped(weights: NDArray[np.float32]) -> None:
    scrub, constants, _ = opened(weights)
    as_small_pieces(scrub)
    flip(constants, 9000, 4)
    change = scrub.changed(nothing)
    assert change is not None
    assert change.groups == (HEAP,)
    assert scrub.changed(lambda: flip(constants, 9000, 4)) is None, "it goes to and fro"
    flip(constants, 9000, 4)
    assert scrub.changed(nothing) is None, "dropped"
    flip(constants, 90_000, 4)
    constants[90_001] += 1
    assert scrub.changed(nothing) is None, "more than one bit of a line of the heap is no fault"


def test_a_line_of_the_heap_that_one_of_several_inferences_changes_is_dropped(weights: NDArray[np.float32]) -> None:
    scrub, constants, _ = opened(weights)
    as_small_pieces(scrub)
    flip(constants, 9000, 4)
    to_and_fro = lambda: flip(constants, 9000, 4)  # noqa: E731
    assert scrub.changed(nothing, to_and_fro, to_and_fro, nothing) is None
    flip(constants, 90_000, 4)
    assert scrub.changed(nothing, nothing, nothing) is not None


def test_a_block_that_malloc_notes_as_free_is_no_alarm_and_its_line_stays_watched(weights: NDArray[np.float32]) -> None:
    scrub, constants, _ = opened(weights)
    words = constants.view(np.uint64)
    at = 8 * 1000 + (-(constants.ctypes.data // 8)) % 8  # the beginning of a line
    words[at + 1], words[at + 8], words[at + 9] = 0x41, 0x40, 0x101
    as_small_pieces(scrub)
    for size in (0x100, 0x101):  # the block of 64 bytes at `at` is freed, and taken again
        words[at + 9] = size
        assert scrub.changed(nothing) is None
    words[at + 12] ^= np.uint64(1 << 20)
    change = scrub.changed(nothing)
    assert change is not None
    assert change.addresses == (constants.ctypes.data + 8 * (at + 8),)
    words[at + 12] ^= np.uint64(1 << 20)
    words[at + 81] ^= np.uint64(1)
    assert scrub.changed(nothing) is not None, "there no block lies before it"


@pytest.mark.parametrize("bit", [0, 16, 32, 48])
def test_a_flag_or_count_that_begins_in_a_small_block_is_no_alarm(weights: NDArray[np.float32], bit: int) -> None:
    """Each opening of `landcover` 1.5.0 had such an alarm within twenty scenes of changing shapes."""
    scrub, constants, _ = opened(weights)
    words = constants.view(np.uint64)
    at = 8 * 1000 + (-(constants.ctypes.data // 8)) % 8  # the beginning of a line
    words[at : at + 8] = 0x7000_8000_9000_A000
    words[at + 4] = 0
    as_small_pieces(scrub)
    words[at + 4] = 1 << bit
    assert scrub.changed(nothing) is None
    words[at + 5] ^= np.uint64(1 << 20)
    assert scrub.changed(nothing) is not None, "the line stays watched"
    words[at + 5] ^= np.uint64(1 << 20)
    words[at + 4] = 0
    assert scrub.changed(nothing) is not None, "one that ends is an alarm"
    words[at + 4] = 1 << bit
    words[at + 3] ^= np.uint64(2)
    assert scrub.changed(nothing) is not None, "another bit than the lowest"


def test_a_flag_of_a_byte_at_the_end_of_a_small_block_is_no_alarm(weights: NDArray[np.float32]) -> None:
    """Behind it is the next block's size, beside it what was there before."""
    scrub, constants, _ = opened(weights)
    words = constants.view(np.uint64)
    at = 8 * 1000 + (-(constants.ctypes.data // 8)) % 8
    words[at : at + 32] = 0x55EA_C361_00A5
    words[at + 5] = 0x21
    as_small_pieces(scrub)
    words[at + 4] |= np.uint64(1 << 8)
    assert scrub.changed(nothing) is None
    words[at + 20] |= np.uint64(1 << 8)
    assert scrub.changed(nothing) is not None, "no block ends there"


@pytest.mark.parametrize("bit", [0, 8, 16, 32, 48])
def test_the_lowest_bit_of_another_number_is_an_alarm(weights: NDArray[np.float32], bit: int) -> None:
    scrub, constants, _ = opened(weights)
    words = constants.view(np.uint64)
    at = 8 * 1000 + (-(constants.ctypes.data // 8)) % 8
    words[at : at + 8] = 0x7000_8000_9000_A000
    as_small_pieces(scrub)
    words[at + 4] |= np.uint64(1 << bit)
    assert scrub.changed(nothing) is not None


def test_one_bit_at_the_end_of_a_small_block_that_was_written_to_is_no_alarm(weights: NDArray[np.float32]) -> None:
    scrub, constants, _ = opened(weights)
    line = 16 * 1000 + (-(constants.ctypes.data // 4)) % 16  # numbers to the beginning of a line
    as_small_pieces(scrub)
    constants[line - 16 : line] += 1
    flip(constants, line, 7)
    assert scrub.changed(nothing) is None
    flip(constants, line + 64, 7)
    flip(constants, line + 80, 7)
    change = scrub.changed(nothing)
    assert change is not None
    assert len(change.addresses) == 2, "two bits in neighbouring lines are no block"


def test_pieces_that_a_threads_heap_grew_by_are_watched() -> None:
    """The heap was there before, with most of its 64 MB reserved only."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        pytest.skip("the C library is not glibc")
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    scrub, ask, pieces = PageScrub(), queue.Queue[int](), queue.Queue[list[int]]()

    def allocate() -> None:
        while count := ask.get():
            made = [libc.malloc(256) for _ in range(count)]
            for address in made:
                ctypes.memset(address, 7, 256)
            pieces.put(made)

    thread = threading.Thread(target=allocate)
    thread.start()
    ask.put(10)
    pieces.get()
    with scrub.opening():
        ask.put(5000)
        made = pieces.get()
    ask.put(0)
    thread.join()
    watched = [(run.start, run.start + run.pages * PAGE) for run in scrub._runs if run.group == HEAP]
    assert all(any(start <= address < end for start, end in watched) for address in made[100:])
