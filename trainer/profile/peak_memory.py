"""Peak memory of a network on one tile, computed on meta tensors; and the memory available here."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import torch
from torch import nn

from trainer.profile.network import LiveBytes

_MEMINFO = Path("/proc/meminfo")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def peak_bytes(network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> int:
    """Most bytes of tensors alive at one time in a forward pass over an input of ``shape``, weights not counted."""
    # A copy, since weights moved to the meta device are lost.
    shadow = copy.deepcopy(network).to("meta")
    with torch.inference_mode(), LiveBytes() as live:
        shadow(torch.empty(shape, dtype=dtype, device="meta"))
    return int(live.peak)


def available_bytes() -> int | None:
    """Memory that this machine can give now, no more than a container's limit; None where nothing says."""
    limits = []
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
        # /proc/meminfo counts in KiB, whatever its "kB" says (man 5 proc_meminfo).
        limits += [int(match[1]) << 10] if match else []
    except OSError:
        pass
    for path in _LIMITS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        # "max" where no limit is set; the second path is that of cgroup version 1.
        limits += [int(text)] if text.isdecimal() else []
    return min(limits, default=None)
