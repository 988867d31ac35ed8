"""The smallest way up for a file: as it is, compressed, or as a difference against a file that the satellite has.

onboard/models/difference.py says what each method is good for; here they are tried, and the fewest bytes win.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ground.model.unit import UnitFile, file_of
from ground.transfer import write_whole

PLANES, BSDIFF4, XZ = "planes", "bsdiff4", "xz"
WORTH = 0.95
"""A difference that takes more of the whole file's bytes than this is not worth its memory and time aboard."""
LEAST_BYTES = 4096
"""Of a file that a difference is tried for."""
MOST_BSDIFF_BYTES = 32 << 20
"""Of files that bsdiff4 is tried on: it takes some 20 times as much memory, and a minute for 7 MB of other weights."""


@dataclass(frozen=True)
class Difference:
    """A difference that is ready to be sent.

    Attributes:
        method: how it was made.
        base: SHA-256 of the file aboard that it is against; empty for none.
        file: the difference.
    """

    method: str
    base: str
    file: UnitFile


def smallest(file: UnitFile, bases: Sequence[UnitFile], cache: Path) -> Difference | None:
    """The smallest difference; None where sending the file whole is as good.

    Args:
        file: to send.
        bases: files that the satellite has, as they lie here.
        cache: folder that keeps differences, so that the next pass goes on with the same bytes.
    """
    if file.bytes < LEAST_BYTES:
        return None
    # All are tried: which method wins depends on what was retrained (docs/decisions/0015-uplink.md has sizes).
    tried = [
        Difference(method, base, _kept(cache, f"{file.sha256}.{base or 'none'}.{method}", make))
        for method, base, make in _ways(file, bases)
    ]
    best = min(tried, key=lambda difference: difference.file.bytes)
    return best if best.file.bytes < WORTH * file.bytes else None


def cache_folder() -> Path:
    """Where differences are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onboard-ground" / "differences"


def _ways(file: UnitFile, bases: Sequence[UnitFile]) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    new = file.path.read_bytes()
    yield XZ, "", lambda: lzma.compress(new, preset=9)
    for base in bases:
        old = base.path.read_bytes()
        # Weights of one graph retrained: nothing has moved, so bytes are compared place by place.
        if len(old) == len(new):
            yield PLANES, base.sha256, lambda old=old: planes(old, new)  # type: ignore[misc]
        elif max(len(old), len(new)) <= MOST_BSDIFF_BYTES and _has_bsdiff4():
            yield BSDIFF4, base.sha256, lambda old=old: _bsdiff4(old, new)  # type: ignore[misc]


def planes(old: bytes, new: bytes) -> bytes:
    """Differences of the bytes of two files of one length, those at even places before those at odd ones, as XZ."""
    # Modulo 256, as the sum aboard is. Of 16-bit weights low bytes are noise and high ones hardly change: apart, XZ
    # finds the latter.
    change = np.frombuffer(new, np.uint8) - np.frombuffer(old, np.uint8)
    return lzma.compress(change[0::2].tobytes() + change[1::2].tobytes(), preset=9)


def _bsdiff4(old: bytes, new: bytes) -> bytes:
    import bsdiff4

    difference: bytes = bsdiff4.diff(old, new)
    return difference


def _has_bsdiff4() -> bool:
    try:
        import bsdiff4  # noqa: F401
    except ImportError:
        return False
    return True


def _kept(cache: Path, name: str, make: Callable[[], bytes]) -> UnitFile:
    """A difference of the cache, made where it is not there yet. A damaged one only costs its own bytes."""
    path = cache / name
    # The same bytes as in the pass before: the satellite continues a difference by its digest.
    if path.is_file() and path.stat().st_size:
        return file_of(path)
    cache.mkdir(parents=True, exist_ok=True)
    content = make()
    write_whole(path, content)
    return UnitFile(path, hashlib.sha256(content).hexdigest(), len(content))
