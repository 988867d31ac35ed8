"""Large blocks that are taken and freed again and again come from the kernel once."""

from __future__ import annotations

import ctypes
import resource
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from onboard.mapping import product
from onboard.mapping.canvas import Layer
from onboard.mapping.malloc import keep_freed_memory
from onboard.scene.georeference import Georeference

pytestmark = pytest.mark.own_process

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]
BLOCK, ROUNDS = 48 << 20, 20


def faults() -> int:
    """Pages that are fresh from the kernel, when a block is taken, filled and freed some times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ROUNDS):
        block = LIBC.malloc(BLOCK)
        ctypes.memset(block, 1, BLOCK)
        LIBC.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def faults_in_a_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(faults()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.skipif(not hasattr(LIBC, "mallopt"), reason="a C library without mallopt")
def test_within_blocks_are_kept_and_afterwards_given_back() -> None:
    usual = faults()
    with keep_freed_memory():
        kept, kept_in_a_thread = faults(), faults_in_a_thread()
    assert kept < usual / 4
    assert kept_in_a_thread < usual / 4
    assert faults() > usual / 2


def test_a_raster_is_the_same_and_is_written_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(1).integers(1, 5, (150, 200), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    layer = Layer(tmp_path / "classes.raw", width=1600, height=1200)
    layer.write_rows(0, codes)
    begun: list[int] = []

    def counted() -> object:
        begun.append(1)
        return keep_freed_memory()

    def written(name: str) -> bytes:
        product.write_confidence(layer, tmp_path / name, georeference=Georeference(), tags={})
        return (tmp_path / name).read_bytes()

    try:
        monkeypatch.setattr(product, "keep_freed_memory", counted)
        kept = written("kept.tif")
        monkeypatch.setattr(product, "keep_freed_memory", nullcontext)
        assert written("plain.tif") == kept
        assert begun == [1]
    finally:
        layer.close()
