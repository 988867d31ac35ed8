"""Which watch there is for the constants of an engine: pages of this process on a CPU, none on a GPU."""

from __future__ import annotations

from engines.engine import Engine
from engines.page_scrub import ConstantsWatch, PageScrub, Unwatched

_ON_CPU = ("onnxruntime", "openvino", "openvino-bf16")


def constants_watch(engine: Engine, scrub: PageScrub | None) -> ConstantsWatch:
    """The scrub for an engine whose constants lie in this process; else one that says why there is none."""
    if engine.backend in _ON_CPU:
        return scrub if scrub is not None else Unwatched("the page scrub is off, or this system has no /proc/self/mem")
    if engine.backend == "tensorrt":
        return Unwatched("TensorRT gives no address of the weights it keeps on the device, so they cannot be read back")
    return Unwatched(f"where {engine.backend} keeps its constants is not known")
