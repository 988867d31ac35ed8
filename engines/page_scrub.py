"""Watches an engine's constants in this process's memory: what no golden tile can see, a checksum of its page can.

Found without knowing the runtime: pages that came with the opening of the engine and hold still while it infers are its
weights, its tables and its code. What was allocated in small pieces shares pages with other work of the process and may
change for good reasons; there only a change of a single bit counts.

Reading is through /proc/self/mem, 2 to 3 GB/s on two cores of a Xeon; the checksums cost a tenth of that.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.process_map import (
    PAGE,
    Mapping,
    OwnMemory,
    allocations_on_own_pages,
    is_heap,
    read_maps,
    stack_bytes,
    without,
)

Words = NDArray[np.uint64]
OWN, HEAP, FILE = 0, 1, 2
GROUPS = ("memory of its own", "heap", "code")
_CHUNK = 64 * PAGE
_WORDS = PAGE // 8


class ConstantsWatch(Protocol):
    """Something that sees whether the constants of an engine are still what they were."""

    @property
    def unavailable(self) -> str | None:
        """Why nothing is watched; None where something is."""

    def changed(self) -> PageChange | None:
        """What changed since the last look; None for nothing."""


@dataclass(frozen=True)
class Unwatched:
    """Of an engine whose constants cannot be read here."""

    unavailable: str | None

    def changed(self) -> PageChange | None:
        """Nothing is known."""
        return None


@dataclass(frozen=True)
class PageChange:
    """Pages that should have held still.

    Attributes:
        addresses: of the pages.
        groups: one of OWN, HEAP, FILE each.
        single_bit: how many of them differ by one bit.
        content: of up to 64 of them, as they are now, (n, PAGE / 8).
    """

    addresses: tuple[int, ...]
    groups: tuple[int, ...]
    single_bit: int
    content: Words


@dataclass
class _Run:
    """Neighbouring pages of one group, with the checksums they had: XOR and sum of their 64-bit words."""

    start: int
    group: int
    xor: Words
    sum: Words


class PageScrub:
    """Watches one engine at a time; used on the thread that drives it.

    Make it before the runtime is imported: the code that is mapped from then on is the runtime's.

    Attributes:
        off: groups that are no longer watched.
        dropped: pages that were seen to change for good reasons, since the last opening.
    """

    def __init__(self) -> None:
        self.off: set[int] = set()
        self.dropped = 0
        self._settling = 0
        self._runs: list[_Run] = []
        self._known_files = {mapping.name for mapping in read_maps()}
        self._memory = OwnMemory()
        self._buffer = bytearray(_CHUNK)
        self._before: list[tuple[int, int]] = []
        self._heap_before: list[_Run] = []

    @property
    def unavailable(self) -> str | None:
        """See ConstantsWatch."""
        return None if self._runs else "no engine was opened yet"

    @property
    def watched_bytes(self) -> int:
        """How much is watched."""
        return sum(len(run.xor) for run in self._runs) * PAGE

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Within, an engine is opened and infers once; what memory came with it is watched afterwards.

        Call :meth:`learn` after each of the next inferences, on different tiles.
        """
        self._runs, self.dropped = [], 0
        gc.collect()
        with allocations_on_own_pages():
            self._note_before(read_maps())
            yield
            gc.collect()
        self._runs = [
            self._read(_Run(start, group, *_none()), pages) for start, group, pages in self._candidates(read_maps())
        ]
        self._runs += self._reused()
        self._before, self._heap_before = [], []
        # What is zero all over is no weight, but memory that may be written to yet.
        self._keep(lambda run: (run.xor != 0) | (run.sum != 0))

    def learn(self, settle: int = 0) -> None:
        """Forgets what changed since the last look; so do the next ``settle`` looks.

        Those forget nothing that changed by one bit on pages of the engine's own.
        """
        self._settling = settle
        for run in self._runs:
            before = (run.xor, run.sum)
            still = self._read(run)
            same = (still.xor == before[0]) & (still.sum == before[1])
            still.sum = np.where(same, still.sum, 0)
            still.xor = np.where(same, still.xor, 0)
        self._keep(lambda run: (run.xor != 0) | (run.sum != 0))

    def changed(self) -> PageChange | None:
        """See ConstantsWatch; pages that may change are dropped in silence."""
        pages: list[tuple[int, int, bool]] = []
        for run in self._runs:
            if run.group in self.off:
                continue
            now = self._read(_Run(run.start, run.group, *_none()), len(run.xor))
            for index in np.flatnonzero((now.xor != run.xor) | (now.sum != run.sum)).tolist():
                flip = _is_one_bit(int(run.xor[index] ^ now.xor[index]), int(run.sum[index]), int(now.sum[index]))
                address = run.start + index * PAGE
                doubtful = self._settling > 0 if run.group == HEAP else not flip and self._settling > 0
                if not doubtful and (flip or (run.group != HEAP and self._readable(address))):
                    pages.append((address, run.group, flip))
                else:
                    self.drop([address])
        self._settling = max(0, self._settling - 1)
        self._keep(lambda run: (run.xor != 0) | (run.sum != 0))
        if not pages:
            return None
        addresses, groups, flips = zip(*pages, strict=True)
        return PageChange(addresses, groups, sum(flips), self._content(addresses[:64]))

    def drop(self, addresses: Sequence[int]) -> None:
        """Stops watching these pages."""
        for address in addresses:
            for run in self._runs:
                index = (address - run.start) // PAGE
                if 0 <= index < len(run.xor):
                    run.xor[index] = run.sum[index] = 0
                    self.dropped += 1

    def lines(self) -> Words:
        """A checksum of each 64 bytes of all pages that are watched: to recognise a constant at another address."""
        found = []
        for run in self._runs:
            for view, _ in self._chunks(run.start, len(run.xor)):
                found.append(lines_of(view))
        return np.concatenate(found) if found else np.zeros(0, np.uint64)

    def close(self) -> None:
        """Watches nothing any more."""
        self._runs = []

    def _candidates(self, ranges: Sequence[Mapping]) -> Iterator[tuple[int, int, int]]:
        """Start, group and pages of everything that came since `opening` began."""
        for index, mapping in enumerate(ranges):
            if self._is_code(mapping):
                yield mapping.start, FILE, (mapping.end - mapping.start) // PAGE
            if not _is_memory(mapping):
                continue
            group = HEAP if is_heap(ranges, index) else OWN
            begin = mapping.start + stack_bytes(ranges, index)
            for start, end in without(begin, mapping.end, self._before):
                yield start, group, (end - start) // PAGE

    def _is_code(self, mapping: Mapping) -> bool:
        """Whether a range is code or tables of a library that was loaded since this was made."""
        is_file = mapping.name.startswith("/") and "(deleted)" not in mapping.name
        return is_file and mapping.permissions in ("r-xp", "r--p") and mapping.name not in self._known_files

    def _note_before(self, ranges: Sequence[Mapping]) -> None:
        """What there is before the opening. Pieces of the heap may be used again for the engine."""
        self._before = [(mapping.start, mapping.end) for mapping in ranges]
        self._heap_before = [
            self._read(_Run(mapping.start, HEAP, *_none()), (mapping.end - mapping.start) // PAGE)
            for index, mapping in enumerate(ranges)
            if _is_memory(mapping) and is_heap(ranges, index)
        ]

    def _reused(self) -> list[_Run]:
        """Pages of the heap that were there before the opening and were written to in it."""
        runs = []
        for run in self._heap_before:
            now = self._read(_Run(run.start, HEAP, *_none()), len(run.xor))
            written = (now.xor != run.xor) | (now.sum != run.sum)
            now.xor, now.sum = np.where(written, now.xor, 0), np.where(written, now.sum, 0)
            runs.append(now)
        return runs

    def _read(self, run: _Run, pages: int | None = None) -> _Run:
        """The run with the checksums of now; pages that are gone have 0."""
        count = pages if pages is not None else len(run.xor)
        xors, sums = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        for words, at in self._chunks(run.start, count):
            rows = words.reshape(-1, _WORDS)
            xors[at : at + len(rows)] = np.bitwise_xor.reduce(rows, axis=1)
            sums[at : at + len(rows)] = rows.sum(axis=1, dtype=np.uint64)
        run.xor, run.sum = xors, sums
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
            for page in range(first, first + count):
                if self._memory.read_into(view[:PAGE], start + page * PAGE):
                    yield np.frombuffer(view[:PAGE], np.uint64), page

    def _content(self, addresses: Sequence[int]) -> Words:
        rows = [words.copy() for address in addresses for words, _ in self._chunks(address, 1)]
        return np.stack(rows) if rows else np.zeros((0, _WORDS), np.uint64)

    def _readable(self, address: int) -> bool:
        return any(True for _ in self._chunks(address, 1))

    def _keep(self, wanted: _Wanted) -> None:
        """Keeps the wanted pages; runs are split where pages go."""
        kept = []
        for run in self._runs:
            mask = wanted(run)
            if mask.all():
                kept.append(run)
                continue
            edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
            for begin, end in edges.reshape(-1, 2).tolist():
                kept.append(_Run(run.start + begin * PAGE, run.group, run.xor[begin:end], run.sum[begin:end]))
        self._runs = kept


def _is_memory(mapping: Mapping) -> bool:
    """Whether a range is private memory without a file that can be read."""
    named = mapping.name.startswith(("/", "[v", "[stack", "[anon:stack"))
    return mapping.permissions[0] == "r" and mapping.permissions[3] == "p" and not named


class _Wanted(Protocol):
    def __call__(self, run: _Run) -> NDArray[np.bool_]: ...


def lines_of(words: Words) -> Words:
    """A checksum of each 64 bytes; 0 for a line of zeros."""
    odd = np.arange(1, 17, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    lines: Words = (words.reshape(-1, 8) * odd).sum(axis=1, dtype=np.uint64)
    return lines


def _none() -> tuple[Words, Words]:
    return np.zeros(0, np.uint64), np.zeros(0, np.uint64)


def _is_one_bit(xor: int, before: int, now: int) -> bool:
    """Whether one bit of a page differs, by its two checksums: they change by the same power of two."""
    if xor == 0 or xor & (xor - 1):
        return False
    return (now - before) % (1 << 64) in (xor, (1 << 64) - xor)
