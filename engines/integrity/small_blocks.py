"""Single bits of small blocks of memory that change for good reasons: malloc's notes, and flags and counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_LEAST_BLOCK: Final = 32
"""Bytes of malloc's smallest block. Source: malloc/malloc.c of glibc, MINSIZE on 64 bits."""
_MOST_BLOCK: Final = 1 << 26
"""Of a larger one malloc maps memory of its own. Source: HEAP_MAX_SIZE there."""


def is_mallocs_flag(line: bytes, address: int, word_at: Callable[[int], int]) -> bool:
    """Whether bit 0 of a word of a line is malloc's: in a block's size it says that the block before is taken.

    The word before the size is the size of the block before, which has it at its own beginning too.

    Args:
        line: 64 bytes as they are now; empty where they cannot be read.
        address: of the line.
        word_at: reads the 8 bytes at an address as a number.
    """
    for at in range(0, len(line), 16):
        before, size = (int.from_bytes(line[at + step : at + step + 8], "little") for step in (0, 8))
        if before % 16 or size & 8 or min(before, size) < _LEAST_BLOCK or address + at < before:
            continue
        if before == word_at(address + at - before + 8) & ~7:
            return True
    return False


def is_begun_count(line: bytes, bit: int) -> bool:
    """Whether a bit that was set can have begun a flag or a count: a number that was 0 and is 1.

    Of 16, 32 or 64 bits anywhere: a weight hardly changes by it, for in a float of any size it is the last bit of its
    fraction, or makes the smallest number there is of 0. Of one byte in the last word of a block alone, where classes
    keep flags behind their pointers, and bytes beside it are what was there before.

    Args:
        line: 64 bytes as they are now; empty where they cannot be read.
        bit: its place in its word of 64 bits; in which word of the line is not known.
    """
    number, place = divmod(bit, 8)
    if place:
        return False
    words = [line[at : at + 8] for at in range(0, len(line), 8)]
    if number % 2 == 0 and any(word[number : number + 2] == b"\1\0" for word in words):
        return True
    # Blocks begin at 16 bytes, behind the word of their size.
    pairs = zip(words[::2], words[1::2], strict=True)
    return any(word[number] == 1 and _is_size(int.from_bytes(size, "little")) for word, size in pairs)


def _is_size(word: int) -> bool:
    """Whether it can be the size of a block, with the note that the block before is taken."""
    return word % 16 in (1, 5) and _LEAST_BLOCK < word < _MOST_BLOCK
