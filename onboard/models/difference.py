"""Makes a file from one that is aboard and a difference that came up: `python -m onboard.models.difference ...`.

Methods, by what they are good for; sizes of landcover FP16 (6.48 MB) stand in docs/decisions/0015-uplink.md:

- planes: a file of the same length, retrained weights. Differences of bytes, first those at even places, then those at
  odd ones (of 16-bit weights that separates the low halves, which are noise, from the high ones), as XZ. Our own, since
  general tools look for bytes that moved: here none moves, and almost all change a little.
- bsdiff4: a file of another length, whose parts have moved. Source: Percival, "Naive differences of executable code"
  (2003), by the package bsdiff4.
- xz: no base; the file itself, compressed.

A difference is not signed: what is made of it must have the signed digest. It is applied in a process of its own, with
limits, since a made one could ask for any amount of memory.
"""

from __future__ import annotations

import lzma
import os
import resource
import sys
from pathlib import Path
from typing import Final

import numpy as np

from onboard.parent import end_with_parent

PLANES, BSDIFF4, XZ = "planes", "bsdiff4", "xz"
METHODS: Final = (PLANES, BSDIFF4, XZ)
_XZ_MEMORY = 256 << 20
_BASE_MEMORY = 1 << 30
"""Address space of Python, numpy and their libraries."""
_CPU_S = 600


class NoDifference(Exception):
    """The bytes are no difference of this method."""


def apply(method: str, base: bytes, difference: bytes, size: int) -> bytes:
    """The file of ``size`` bytes that a difference makes of a base.

    Raises:
        NoDifference: it makes none.
    """
    if method == BSDIFF4:
        import bsdiff4

        try:
            made: bytes = bsdiff4.patch(base, difference)
        # bsdiff4 has no error of its own: damaged patches show as several kinds.
        except Exception as error:
            raise NoDifference(f"bsdiff4: {error}") from error
        return made
    content = _unpacked(difference, size)
    if method == XZ:
        return content
    if len(base) != size or len(content) != size:
        raise NoDifference(f"base, difference and file have {len(base)}, {len(content)} and {size} bytes, not the same")
    # Of retrained 16-bit weights the low bytes are noise and the high ones hardly change: apart, XZ packs them better.
    old, change = np.frombuffer(base, np.uint8), np.frombuffer(content, np.uint8)
    new, half = np.empty(size, np.uint8), (size + 1) // 2
    # Sums wrap at 256, as the ground's differences do.
    new[0::2] = old[0::2] + change[:half]
    new[1::2] = old[1::2] + change[half:]
    return new.tobytes()


def _unpacked(difference: bytes, size: int) -> bytes:
    try:
        reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        # One byte more than promised tells a bomb without unpacking it.
        content = reader.decompress(difference, max_length=size + 1)
    except lzma.LZMAError as error:
        raise NoDifference(f"xz: {error}") from error
    if len(content) != size:
        raise NoDifference(f"xz: it holds {'more than ' if len(content) > size else ''}{len(content):,} bytes")
    return content


def main() -> None:
    """PARENT METHOD BASE DIFFERENCE TARGET SIZE: writes TARGET; exit code 2 where it is no difference."""
    parent, method, base, difference, target, size = sys.argv[1:]
    end_with_parent(int(parent))
    # Mapping goes first.
    os.nice(10)
    length = int(size)
    old = Path(base).read_bytes() if base else b""
    change = Path(difference).read_bytes()
    memory = _BASE_MEMORY + _XZ_MEMORY + 4 * (length + len(old) + len(change))
    # After reading, since the limit follows the sizes. RLIMIT_FSIZE: it writes no more than the file that was promised.
    for limit, value in (
        (resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, _CPU_S), (resource.RLIMIT_FSIZE, length),
        (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    try:
        made = apply(method, old, change, length)
    # Beyond the limit of address space allocations fail as MemoryError.
    except (NoDifference, MemoryError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    with Path(target).open("wb") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
