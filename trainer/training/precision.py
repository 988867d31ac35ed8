"""The number format of a run: bfloat16 where the machine computes it, 32 bits elsewhere."""

from __future__ import annotations

import logging
import platform
from typing import Literal

import torch

from trainer.config import MachineSettings

Format = Literal["32-true", "bf16-mixed"]

log = logging.getLogger(__name__)


def precision_of(machine: MachineSettings) -> Format:
    """What Lightning Fabric is told: as the settings say, or for ``auto`` what this machine is fast at.

    A processor without bfloat16 instructions emulates them: a step of the many-place model took 34 s in place of 2.5 s
    on an EPYC with AVX2. Where the settings ask for it all the same, a line of the log says so.
    """
    is_fast = computes_bfloat16(machine.accelerator)
    if machine.precision == "auto":
        return "bf16-mixed" if is_fast else "32-true"
    if machine.precision == "bf16-mixed" and not is_fast:
        log.warning("this machine only emulates bfloat16: many times slower than `machine: {precision: auto}`")
    return machine.precision


def computes_bfloat16(accelerator: Literal["auto", "cpu", "cuda"]) -> bool:
    """Whether the accelerator that a run gets has instructions for bfloat16."""
    if accelerator != "cpu" and torch.cuda.is_available():
        # Without the flag, torch says yes for GPUs before Ampere too, which emulate it.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN's own question is also true with AVX-512 alone, where it converts to 32 bits and back.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    # On ARM the question is about the BF16 instructions themselves.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast_inference() -> torch.autocast:
    """A context for a network on the CPU: bfloat16 where the processor computes it, 32 bits where it emulates it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16("cpu"))
