"""Chooses how the constants of an engine are watched: by page checksums on a CPU, not at all on a GPU."""

from __future__ import annotations

from engines.backends.registry import BACKENDS
from engines.engine import Engine
from engines.integrity.page_scrub import ConstantsWatch, PageScrub, Unwatched


def constants_watch(engine: Engine, scrub: PageScrub | None) -> ConstantsWatch:
    """`scrub` for an engine whose constants lie in this process's memory; else a watch that tells why there is none."""
    backend = BACKENDS.get(engine.backend)
    if backend is not None and backend.weights_in_process:
        return scrub if scrub is not None else Unwatched("the page scrub is off, or this system has no /proc/self/mem")
    if engine.backend == "tensorrt":
        return Unwatched("TensorRT gives no address of the weights it keeps on the device, so they cannot be read back")
    return Unwatched(f"where {engine.backend} keeps its constants is not known")
