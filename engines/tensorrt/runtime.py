"""The TensorRT package of this machine (tensorrt or tensorrt_rtx), its version, and the GPU."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.errors import BackendUnavailable
from engines.loading import load_package

BACKEND = "tensorrt"
PACKAGES = ("tensorrt", "tensorrt_rtx")
# /etc/nv_tegra_release begins "# R36 (release), REVISION: 4.4": Jetson Linux 36.4.4.
_L4T = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")


@dataclass(frozen=True)
class Runtime:
    """A TensorRT package.

    Attributes:
        name: "tensorrt" or "tensorrt_rtx": engines of one do not run on the other.
        version: of the package; engines run on that one only.
        module: the package itself.
    """

    name: str
    version: str
    module: ModuleType


@dataclass(frozen=True)
class Device:
    """What an engine is built for.

    Attributes:
        name: of the GPU, or "any" where only its architecture is named.
        capability: compute capability, "8.7" on Orin NX.
        l4t: version of Jetson Linux, empty elsewhere.
    """

    name: str
    capability: str
    l4t: str = ""

    @property
    def slug(self) -> str:
        """For file names: letters, digits and hyphens."""
        text = f"{self.name} sm{self.capability.replace('.', '')} {'l4t' + self.l4t if self.l4t else ''}"
        return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def runtime(packages: tuple[str, ...] = PACKAGES) -> Runtime:
    """The first package that loads.

    Raises:
        BackendUnavailable: none does.
    """
    for name in packages:
        try:
            module = load_package(name)
        # OSError: the package is there, but one of the libraries that it loads is not.
        except (ImportError, OSError):
            continue
        return Runtime(name, str(module.__version__), module)
    raise BackendUnavailable(
        BACKEND, f"none of {', '.join(packages)} loads here",
        f"on a Jetson it comes with JetPack; elsewhere {sys.executable} -m pip install tensorrt-rtx-cu13",
    )  # fmt: skip


def l4t_version(root: Path = Path("/")) -> str:
    """Version of Jetson Linux, like "36.4.0"; empty elsewhere."""
    try:
        text = (root / "etc/nv_tegra_release").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    match = _L4T.search(text)
    return f"{match[1]}.{match[2]}" if match else ""


def this_device(ask: Callable[[], tuple[str, tuple[int, int]]] | None = None, root: Path = Path("/")) -> Device:
    """The first GPU of this machine.

    Args:
        ask: gives its name and compute capability; by CUDA's driver where none is given.
        root: of the file system.

    Raises:
        BackendUnavailable: there is none, or no driver.
    """
    name, (major, minor) = (ask or _ask_driver)()
    return Device(name, f"{major}.{minor}", l4t_version(root))


def _ask_driver() -> tuple[str, tuple[int, int]]:
    """By libcuda itself: no package is needed to ask what is there."""
    import ctypes

    remedy = "build on the board that flies, or name an architecture: --target 8.6"
    try:
        cuda: Any = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise BackendUnavailable(BACKEND, "there is no NVIDIA driver here", remedy) from error
    # These calls make no CUDA context, so asking takes no memory of the GPU.
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    text = ctypes.create_string_buffer(256)
    calls: tuple[Callable[[], int], ...] = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDeviceGetName(text, len(text), device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),  # compute capability, major
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),  # and minor
    )
    for call in calls:
        if code := call():
            raise BackendUnavailable(BACKEND, f"the NVIDIA driver finds no GPU (CUDA error {code})", remedy)
    return text.value.decode("utf-8", "replace"), (major.value, minor.value)
