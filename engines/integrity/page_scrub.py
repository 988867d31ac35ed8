"""Detects changed constants of an engine by checksums of its memory pages, which no golden tile could notice.

It works without knowledge of the runtime: pages that appear when the engine is opened and do not change while it infers
are its weights, tables and code. Small allocations share pages with other data of the process and may change for good
reasons: they are watched in lines of 64 bytes, and there only a change of a single bit counts.

Memory is read through /proc/self/mem, at 2 to 3 GB/s on two cores of a Xeon; the checksums take a tenth of that time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.integrity.fresh_heap import FreshHeap
from engines.integrity.memory_map import (
    PAGE,
    POOL,
    POOLS_TOGETHER,
    Mapping,
    OwnMemory,
    python_objects,
    read_maps,
    stack_bytes,
    threads_heaps,
    without,
)
from engines.integrity.small_blocks import is_begun_count, is_mallocs_flag

Words = NDArray[np.uint64]
OWN, HEAP, FILE = 0, 1, 2
"""Groups of pages: memory of the engine's own, the heap, and code of loaded libraries."""
_Changed = tuple[int, int, bool]
_CHUNK = 64 * PAGE
_WORDS = PAGE // 8
_LINE_WORDS = 8
HEAP_LOOKS = 12
"""Number of first scans in which changes of the heap are learned: flags that toggle one bit are no faults."""
_ALIKE = 0.1
"""Share of the lines of a page, at least, by which it is recognised: much of it may have changed."""
_CONTENTS = 1024
"""Largest number of changed pages whose content is kept."""
_GAP_PAGES = 16
"""Pages without anything to watch that are still read, for the sake of one long read instead of two."""


class ConstantsWatch(Protocol):
    """Detects whether the constants of an engine have changed."""

    @property
    def unavailable(self) -> str | None:
        """Why nothing is watched; None where the watch works."""

    def changed(self, *infer: Callable[[], object]) -> PageChange | None:
        """Pages that changed since the last call; None where none did.

        Args:
            infer: each runs one inference; called where scans after them must confirm the change.
        """


@dataclass(frozen=True)
class Unwatched:
    """The watch of an engine whose constants cannot be read here."""

    unavailable: str | None

    def changed(self, *infer: Callable[[], object]) -> PageChange | None:  # noqa: ARG002 -- the protocol's
        """None: no change can be detected."""
        return None


@dataclass(frozen=True)
class PageChange:
    """Pages that should not have changed.

    Attributes:
        addresses: of the pages.
        groups: one of OWN, HEAP, FILE each.
        single_bit: how many of them differ by one bit.
        content: of up to 1,024 of them, as they are now, (n, PAGE / 8).
    """

    addresses: tuple[int, ...]
    groups: tuple[int, ...]
    single_bit: int
    content: Words


@dataclass
class _Run:
    """Neighbouring pages of one group, with the checksums they had: XOR and sum of the 64-bit words of each piece.

    A piece is a page, on the heap 64 bytes. One whose checksums are both 0 is not watched.
    """

    start: int
    pages: int
    group: int
    xor: Words
    sum: Words

    @property
    def words(self) -> int:
        """Of a piece."""
        return _LINE_WORDS if self.group == HEAP else _WORDS

    @property
    def watched(self) -> NDArray[np.bool_]:
        """Which pieces are."""
        mask: NDArray[np.bool_] = (self.xor != 0) | (self.sum != 0)
        return mask

    def is_one_bit(self, now: _Run, index: int) -> bool:
        """Whether one bit of a piece differs from now."""
        return _is_one_bit(int(self.xor[index] ^ now.xor[index]), int(self.sum[index]), int(now.sum[index]))


class PageScrub:
    """Watches the memory of one engine at a time; used on the thread that runs the engine.

    Create it before the runtime is imported: libraries that are loaded after that are taken as the runtime's.

    Attributes:
        off: groups that are no longer watched.
        dropped: pages that were seen to change for good reasons, since the last opening.
    """

    def __init__(self) -> None:
        self.off: set[int] = set()
        self.dropped = 0
        self._settling = self._heap_settling = 0
        self._runs: list[_Run] = []
        # What is mapped by now (Python, NumPy) belongs to the process, not to the runtime: _is_code leaves it out.
        self._known_files = {mapping.name for mapping in read_maps()}
        self._memory = OwnMemory()
        self._buffer = bytearray(_CHUNK)
        self._heap = FreshHeap()
        self._before: list[tuple[int, int]] = []
        self._threads_before: list[_Run] = []

    @property
    def unavailable(self) -> str | None:
        """See ConstantsWatch."""
        return None if self._runs else "no engine was opened yet"

    @property
    def watched_bytes(self) -> int:
        """How much is watched."""
        return sum(int(run.watched.sum()) * run.words * 8 for run in self._runs)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Open the engine and infer once inside this context; memory that appeared meanwhile is watched afterwards.

        Infer each shape of tiles, where there are several. Call :meth:`learn` after each of the next inferences, on
        different tiles of all shapes.
        """
        self.close()
        self.dropped = 0
        # Before the free pieces are taken: garbage that is freed later would make room between the engine's constants.
        gc.collect()
        before = read_maps()
        with self._heap.growing() as heap_end:
            self._before = [
                # The heap ends where malloc_trim left it, perhaps before the end read above: what is behind is new.
                (item.start, min(item.end, heap_end) if item.name == "[heap]" and heap_end else item.end)
                for item in before
                if item.permissions[0] == "r"  # what is reserved only is where the heaps of threads grow to
            ]
            threads = threads_heaps(before)
            self._threads_before = [self._read(start, (end - start) // PAGE, HEAP) for start, end in threads]
            yield
            # What the opening left as garbage goes first, or its memory would be taken for constants.
            gc.collect()
            ranges = read_maps()  # before the next line makes room for its own objects
        objects = python_objects()
        self._runs = [self._read(start, pages, group) for start, group, pages in self._candidates(ranges, objects)]
        self._runs += self._reused()
        self._leave_out(objects)
        # What is zero all over is no weight, but memory that may be written to yet.
        self._shrink()

    def learn(self, settle: int | None = 0, *, code: bool = True) -> None:
        """Stops watching what changed since the last scan; so do the next ``settle`` scans, on the heap HEAP_LOOKS.

        Those keep watching pages of the engine's own that changed by one bit.

        Args:
            settle: number of scans; None: as many as are left.
            code: also look at the code of libraries, which is most of all pages and is not written to.
        """
        if settle is not None:
            self._settling, self._heap_settling = settle, HEAP_LOOKS if settle else 0
        for run in self._runs:
            if run.group == FILE and not code:
                continue
            now = self._read(run.start, run.pages, run.group)
            moved = (now.xor != run.xor) | (now.sum != run.sum)
            run.xor[moved], run.sum[moved] = 0, 0
        self._shrink()

    def changed(self, *infer: Callable[[], object]) -> PageChange | None:
        """See ConstantsWatch; memory that changes for good reasons is dropped without a report.

        A line of the heap that changes again while the engine infers is dropped too: a weight hit by a bit flip would
        not change again.
        """
        pages: list[_Changed] = []
        for run in self._runs:
            if run.group in self.off:
                continue
            now = self._read(run.start, run.pages, run.group)
            moved = ((now.xor != run.xor) | (now.sum != run.sum)) & run.watched
            places = np.flatnonzero(moved).tolist()
            single = {index for index in places if run.is_one_bit(now, index)}
            many = set(places) - single
            for index in places:
                flip = index in single
                address = run.start + index * run.words * 8
                # First scans see changes that have good reasons, but one bit in a page is reported at once.
                doubtful = self._heap_settling > 0 if run.group == HEAP else not flip and self._settling > 0
                # The end of a small block that was written to as a whole may differ by one bit.
                doubtful |= run.group == HEAP and not many.isdisjoint((index - 1, index + 1))
                if flip and run.group == HEAP and self._is_bookkeeping(address, run, now, index):
                    # The line stays watched as it is now.
                    run.xor[index], run.sum[index] = now.xor[index], now.sum[index]
                    continue
                # A page that was given back to the kernel has checksums of 0: it is gone, not changed.
                if not doubtful and (flip or (run.group != HEAP and self._readable(address))):
                    pages.append((address, run.group, flip))
                else:
                    self.drop([address])
        self._settling, self._heap_settling = max(0, self._settling - 1), max(0, self._heap_settling - 1)
        pages = self._confirmed(pages, infer)
        if not pages:
            return None
        addresses, groups, flips = zip(*pages, strict=True)
        # Copied now: the engine is closed next, and page_alarms looks for these pages in the next engine.
        return PageChange(addresses, groups, sum(flips), self._content(addresses[:_CONTENTS]))

    def _confirmed(self, pages: list[_Changed], infer: Sequence[Callable[[], object]]) -> list[_Changed]:
        """Without the lines of the heap that change again; they are dropped."""
        lines = [address for address, group, _ in pages if group == HEAP]
        before = {address: self._line(address) for address in lines}
        unsteady: set[int] = set()
        for run in infer if lines else ():
            run()
            unsteady.update(address for address in lines if self._line(address) != before[address])
        self.drop(sorted(unsteady))
        return [page for page in pages if page[0] not in unsteady]

    def _is_bookkeeping(self, address: int, run: _Run, now: _Run, index: int) -> bool:
        """Whether the bit of a line that differs from now is malloc's, or begins a flag or a count."""
        line, difference = self._line(address), int(run.xor[index] ^ now.xor[index])
        is_set = (int(now.sum[index]) - int(run.sum[index])) % (1 << 64) == difference
        if is_set and is_begun_count(line, difference.bit_length() - 1):
            return True
        return difference == 1 and is_mallocs_flag(
            line, address, lambda place: int.from_bytes(self._line(place)[:8], "little")
        )

    def _line(self, address: int) -> bytes:
        line = memoryview(bytearray(8 * _LINE_WORDS))
        return bytes(line) if self._memory.read_into(line, address) else b""

    def drop(self, addresses: Sequence[int]) -> None:
        """Stops watching the pieces that begin at these addresses."""
        for address in addresses:
            for run in self._runs:
                index = (address - run.start) // (8 * run.words)
                if 0 <= index < len(run.xor):
                    run.xor[index] = run.sum[index] = 0
                    self.dropped += 1

    def drop_pages(self, pages: Sequence[int]) -> None:
        """Stops watching these pages, whatever their pieces."""
        for run in self._runs:
            a_page = _WORDS // run.words
            for address in pages:
                index = (address - run.start) // (8 * run.words)
                if 0 <= index < len(run.xor):
                    run.xor[index : index + a_page] = run.sum[index : index + a_page] = 0
                    self.dropped += 1

    def alike(self, lines: Words) -> tuple[int, ...]:
        """Watched pages that hold mostly such lines (see `lines_of`): a constant, at whatever address it now lies."""
        addresses: list[int] = []
        for run in self._runs if len(lines) else ():
            for words, first in self._chunks(run.start, run.pages):
                own = lines_of(words).reshape(-1, PAGE // 64)
                # Lines of zeros do not count: nearly every page has some, so they tell no page from another.
                has_data = own != 0
                share = np.isin(own, lines).sum(axis=1, where=has_data) / np.maximum(1, has_data.sum(axis=1))
                addresses += (run.start + PAGE * (first + np.flatnonzero(share >= _ALIKE))).tolist()
        return tuple(addresses)

    def close(self) -> None:
        """Stops watching; call it before or after the engine is closed."""
        self._runs = []
        self._heap.release()

    def _candidates(self, ranges: Sequence[Mapping], objects: Words) -> Iterator[tuple[int, int, int]]:
        """Start, group and pages of everything that came since `opening` began."""
        heaps = _heaps(ranges)
        # Objects in new memory outside the heaps show where Python's arenas are. Memory near them may be Python's or
        # the engine's, so it is watched by lines.
        near_python = _around(_outside(objects, [*heaps, *self._before]))
        for index, mapping in enumerate(ranges):
            if self._is_code(mapping):
                yield mapping.start, FILE, (mapping.end - mapping.start) // PAGE
            if not _is_memory(mapping):
                continue
            is_heap = any(start <= mapping.start < end for start, end in heaps)
            # A thread that the runtime started has a stack, which changes at every call.
            begin = mapping.start + stack_bytes(ranges, index)
            for start, end in without(begin, mapping.end, self._before):
                own = [] if is_heap else without(start, end, near_python)
                for first, last in own:
                    yield first, OWN, (last - first) // PAGE
                for first, last in without(start, end, own):
                    yield first, HEAP, (last - first) // PAGE

    def _is_code(self, mapping: Mapping) -> bool:
        """Whether a range is code or tables of a library that was loaded since this was made."""
        is_file = mapping.name.startswith("/") and "(deleted)" not in mapping.name
        return is_file and mapping.permissions in ("r-xp", "r--p") and mapping.name not in self._known_files

    def _leave_out(self, objects: Words) -> None:
        """Python's objects change for good reasons: their lines on the heap, and whole pools of them elsewhere."""
        # An object begins before its id (the collector's head) and may reach into the next line, so 32 bytes either way
        # count. uint64 has no -32: it is written modulo 2**64.
        lines = np.unique(np.concatenate([(objects + np.uint64(step)) // 64 for step in (-32 % 2**64, 0, 32)]))
        pools = np.unique(objects // POOL)
        heaps = _heaps(read_maps())
        for run in self._runs:
            if run.group != HEAP:
                continue
            own = run.start // 64 + np.arange(len(run.xor), dtype=np.uint64)
            on_heap = any(start <= run.start < end for start, end in heaps)
            # Outside malloc's heaps Python fills whole pools of 16 KiB: any byte of such a pool may change.
            left_out = _is_among(own, lines) if on_heap else _is_among(own // (POOL // 64), pools)
            run.xor[left_out], run.sum[left_out] = 0, 0

    def _reused(self) -> list[_Run]:
        """Lines of threads' heaps that were there before the opening and were written to in it.

        Only the free pieces of this thread's heap could be taken before.
        """
        runs = []
        for run in self._threads_before:
            now = self._read(run.start, run.pages, HEAP)
            as_before = (now.xor == run.xor) & (now.sum == run.sum)
            now.xor[as_before], now.sum[as_before] = 0, 0
            runs.append(now)
        self._threads_before = []
        return runs

    def _read(self, start: int, pages: int, group: int) -> _Run:
        """A run with the checksums of now; pieces that are gone have 0."""
        run = _Run(start, pages, group, np.zeros(0, np.uint64), np.zeros(0, np.uint64))
        a_page = _WORDS // run.words
        run.xor, run.sum = np.zeros(pages * a_page, np.uint64), np.zeros(pages * a_page, np.uint64)
        for words, page in self._chunks(start, pages):
            rows = words.reshape(-1, run.words)
            at = slice(page * a_page, page * a_page + len(rows))
            # Two checksums: changes that cancel in one seldom cancel in the other, and both tell a single flipped bit.
            np.bitwise_xor.reduce(rows, axis=1, out=run.xor[at])
            rows.sum(axis=1, dtype=np.uint64, out=run.sum[at])
        return run

    def _chunks(self, start: int, pages: int) -> Iterator[tuple[Words, int]]:
        """Words of the range's pages, a piece at a time, with the number of its first page; what is gone is left out.

        The words are overwritten by the next piece.
        """
        step = _CHUNK // PAGE
        for first in range(0, pages, step):
            count = min(step, pages - first)
            view = memoryview(self._buffer)[: count * PAGE]
            if self._memory.read_into(view, start + first * PAGE):
                yield np.frombuffer(view, np.uint64), first
                continue
            # One page that is gone fails the whole read. Page by page only that one is left out.
            for page in range(first, first + count):
                if self._memory.read_into(view[:PAGE], start + page * PAGE):
                    yield np.frombuffer(view[:PAGE], np.uint64), page

    def _content(self, addresses: Sequence[int]) -> Words:
        rows = [words.copy() for address in addresses for words, _ in self._chunks(address, 1)]
        return np.stack(rows) if rows else np.zeros((0, _WORDS), np.uint64)

    def _readable(self, address: int) -> bool:
        return any(True for _ in self._chunks(address, 1))

    def _shrink(self) -> None:
        """Leaves out long spans of pages without anything to watch; runs are split there."""
        runs = []
        for run in self._runs:
            a_page = _WORDS // run.words
            alive = np.flatnonzero(run.watched.reshape(run.pages, a_page).any(axis=1))
            if not len(alive):
                continue
            ends = np.flatnonzero(np.diff(alive) > _GAP_PAGES)
            firsts, lasts = alive[np.concatenate(([0], ends + 1))], alive[np.concatenate((ends, [len(alive) - 1]))]
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
                part = slice(first * a_page, (last + 1) * a_page)
                start = run.start + first * PAGE
                # Copies: slices would keep the checksums of the whole span in memory.
                runs.append(_Run(start, last + 1 - first, run.group, run.xor[part].copy(), run.sum[part].copy()))
        self._runs = runs


def _is_memory(mapping: Mapping) -> bool:
    """Whether a range is private memory without a file that can be read."""
    # "[v" stands for the kernel's own pages: [vvar], [vdso], [vsyscall].
    named = mapping.name.startswith(("/", "[v", "[stack", "[anon:stack"))
    return mapping.permissions[0] == "r" and mapping.permissions[3] == "p" and not named


def _heaps(ranges: Sequence[Mapping]) -> list[tuple[int, int]]:
    """Ranges that malloc hands out in small pieces."""
    return [(item.start, item.end) for item in ranges if item.name == "[heap]"] + threads_heaps(ranges)


def _outside(addresses: Words, ranges: Sequence[tuple[int, int]]) -> Words:
    """Those of the addresses, which are sorted, that lie in none of the ranges."""
    # The empty range (0, 0) keeps the array two-dimensional where there are no ranges.
    starts, ends = np.asarray([*ranges, (0, 0)], dtype=np.uint64).T
    first, last = np.searchsorted(addresses, starts), np.searchsorted(addresses, ends)
    # Counts the ranges that are open at each address, since ranges may overlap: 0 is outside of all.
    depth = np.zeros(len(addresses) + 1, dtype=np.int64)
    np.add.at(depth, first, 1)
    np.add.at(depth, np.maximum(first, last), -1)
    outside: Words = addresses[depth.cumsum()[:-1] == 0]
    return outside


def _is_among(values: Words, known: Words) -> NDArray[np.bool_]:
    """Which values, of a contiguous span in order, are among known ones, which are sorted without doubles.

    np.isin sorts all that is known again at each call: with a million Python objects that took most of an opening.
    """
    near = known[slice(*np.searchsorted(known, [values[0], values[-1] + np.uint64(1)]))] if len(values) else known[:0]
    return np.isin(values, near)


def _around(objects: Words) -> list[tuple[int, int]]:
    """Ranges near Python's objects, in order, where it may put others: no page there is the engine's alone."""
    if not len(objects):
        return []
    starts = np.unique(objects // POOL).astype(np.int64) * POOL
    ends = np.flatnonzero(np.diff(starts) > 2 * POOLS_TOGETHER)
    firsts, lasts = starts[np.concatenate(([0], ends + 1))], starts[np.concatenate((ends, [len(starts) - 1]))]
    return [
        (max(0, first - POOLS_TOGETHER), last + POOL + POOLS_TOGETHER)
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
    ]


def lines_of(words: Words) -> Words:
    """A checksum of each 64 bytes; 0 for a line of zeros."""
    # Odd factors lose no bit modulo 2**64. Each word has a factor of its own, so equal words in another order give
    # another sum. The constant is 2**64 divided by the golden ratio, which spreads bits well.
    odd = np.arange(1, 17, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    lines: Words = (words.reshape(-1, 8) * odd).sum(axis=1, dtype=np.uint64)
    return lines


def _is_one_bit(xor: int, before: int, now: int) -> bool:
    """Whether one bit of a page differs, by its two checksums: they change by the same power of two."""
    if xor == 0 or xor & (xor - 1):
        return False
    return (now - before) % (1 << 64) in (xor, (1 << 64) - xor)
