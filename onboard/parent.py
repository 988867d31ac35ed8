"""A child process that ends with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends; exits at once if the parent has ended already.

    More exactly: when the thread of the parent ends that started this process. Source: prctl(2), PR_SET_PDEATHSIG.

    Args:
        parent: process id of the parent, as the parent passed it.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It ended before the line above: no signal comes any more.
    if os.getppid() != parent:
        sys.exit(1)
