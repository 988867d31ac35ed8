"""Peak memory of a network on one tile, computed on meta tensors; and the memory available here."""

from __future__ import annotations

import copy
import re
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Private by name; the documented way to see every operation (pytorch.org, "Extending torch with modes").
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_MEMINFO = Path("/proc/meminfo")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive, each once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: int = 0
        self.peak: int = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.alive -= size


def peak_bytes(network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> int:
    """Most bytes of tensors alive at one time in a forward pass over an input of ``shape``, weights not counted."""
    # A copy, since weights moved to the meta device are lost.
    shadow = copy.deepcopy(network).to("meta")
    with torch.inference_mode(), _Watch() as watch:
        shadow(torch.empty(shape, dtype=dtype, device="meta"))
    return int(watch.peak)


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
