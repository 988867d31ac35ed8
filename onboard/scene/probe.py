"""Opens a doubtful file in a process of its own, with limits on memory, time and processor, before anyone else does.

A small file can declare a raster of terabytes, hang a decoder for minutes, or crash it. What it does, it does to the
probe: the caller gets a verdict, a refusal in one line, or a refusal because the probe died or took too long.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onboard.errors import OptionsRefused, SceneRefused
from onboard.scene.grid import Window
from onboard.scene.reader import Scene, SceneOptions, open_source

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIDE = 256


@dataclass(frozen=True)
class Limits:
    """What a scene may cost.

    Attributes:
        wall_s: seconds until the probe is killed.
        cpu_s: processor seconds.
        memory_bytes: address space of the probe.
        scene_pixels: width times height that is still mapped.
        side_pixels: width or height that is still mapped.
        block_bytes: decoded size of one block; a decoder allocates it whole.
    """

    wall_s: float = 60.0
    cpu_s: int = 60
    memory_bytes: int = 4 << 30
    scene_pixels: int = 1 << 36
    side_pixels: int = 1 << 20
    block_bytes: int = 512 << 20


class Probe:
    """A probe process that stands ready: starting one takes longer than its look, so who knows early starts it early.

    A context manager; leaving it ends the process. Judges one scene.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onboard.scene.probe"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def judge(self, path: Path, options: SceneOptions | None = None, limits: Limits | None = None) -> None:
        """Returns if the scene can be mapped, as far as its header and samples of its pixels tell.

        Raises:
            SceneRefused: it cannot; says why and what to do.
            OptionsRefused: the options do not fit the scene.
        """
        limits = limits or Limits()
        check_file(path)
        asked = {"path": str(path), "options": asdict(options or SceneOptions()), "limits": asdict(limits)}
        try:
            told, _ = self._process.communicate(json.dumps(asked), timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            raise SceneRefused(
                path,
                f"reading samples of it took over {limits.wall_s:g} s",
                "it is damaged or its blocks are absurdly large; deliver it again as a tiled GeoTIFF",
            ) from None
        _judge(path, self._process.returncode, told)

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()
        # Takes what is left in the pipes, and closes them.
        self._process.communicate()

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def probe_scene(path: Path, options: SceneOptions | None = None, limits: Limits | None = None) -> None:
    """Starts a probe, asks it, and ends it; see :meth:`Probe.judge`."""
    check_file(path)
    with Probe() as probe:
        probe.judge(path, options, limits)


def check_file(path: Path) -> None:
    """What can be told without a TIFF reader: a local, readable, ordinary file that begins as a TIFF does.

    Raises:
        SceneRefused: it is not.
    """
    text = str(path)
    if "://" in text or ":/" in text[:12] or text.startswith("/vsi"):
        raise SceneRefused(path, "is not a local file", "fetch it first; nothing remote is opened")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise SceneRefused(path, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise SceneRefused(path, "is a folder", "name a GeoTIFF in it") from None
    except OSError as error:
        raise SceneRefused(path, f"cannot be read: {error.strerror}", "check the file and its permissions") from error
    if not start:
        raise SceneRefused(path, "is empty", "deliver it again")
    if start not in _MAGIC:
        raise SceneRefused(path, "is not a TIFF", "deliver the scene as a GeoTIFF")


def _judge(path: Path, code: int, told: str) -> None:
    try:
        verdict = json.loads(told.splitlines()[-1]) if code == 0 else None
    except (ValueError, IndexError):
        verdict = None
    if verdict is None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise SceneRefused(
            path, f"the reader died on it ({how})", "it is damaged or made to break readers; deliver it again"
        )
    if verdict["refused"] == "scene":
        raise SceneRefused(path, verdict["problem"], verdict["remedy"])
    if verdict["refused"] == "options":
        raise OptionsRefused(verdict["problem"], verdict["remedy"])


def _main() -> None:
    request = json.load(sys.stdin)
    limits = Limits(**request["limits"])
    options = request["options"]
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    verdict = {"refused": ""}
    try:
        _examine(Path(request["path"]), SceneOptions(**tuples), limits)
    except SceneRefused as error:
        verdict = {"refused": "scene", "problem": error.problem, "remedy": error.remedy}
    except OptionsRefused as error:
        verdict = {"refused": "options", "problem": error.problem, "remedy": error.remedy}
    print(json.dumps(verdict))  # noqa: T201 - the parent reads it


def _examine(path: Path, options: SceneOptions, limits: Limits) -> None:
    _check_declared(path, limits)
    with Scene.open(path, options) as scene:
        right, bottom = max(0, scene.width - _SIDE), max(0, scene.height - _SIDE)
        width, height = min(_SIDE, scene.width), min(_SIDE, scene.height)
        for col, row in {(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)}:
            scene.read(Window(col, row, width, height))


def _check_declared(path: Path, limits: Limits) -> None:
    """Holds what the header declares against the limits and the file's size, before any pixel is asked for."""
    with open_source(path) as source:
        width, height, count = source.width, source.height, source.count
        block_height, block_width = source.block_shapes[0]
        item = max(_bytes_of(kind) for kind in source.dtypes)
        together = count if source.interleaving is not None and source.interleaving.name == "pixel" else 1
    if max(width, height) > limits.side_pixels or width * height > limits.scene_pixels:
        raise SceneRefused(path, f"declares {width} x {height} pixels", "split it into scenes that are smaller")
    block = block_width * block_height * item * together
    if block > limits.block_bytes:
        raise SceneRefused(
            path,
            f"one block decodes to {block / 2**20:,.0f} MiB",
            "deliver it tiled: gdal_translate -co TILED=YES",
        )
    blocks = -(-width // block_width) * -(-height // block_height)
    # Each block takes eight bytes of index at least; a header may not promise more than the file can hold.
    if blocks * 2 > path.stat().st_size:
        raise SceneRefused(
            path,
            f"declares {blocks:,} blocks in a file of {path.stat().st_size:,} bytes",
            "it is damaged; deliver it again",
        )


def _bytes_of(dtype: str) -> int:
    import numpy as np

    try:
        return int(np.dtype(dtype).itemsize)
    except TypeError:
        return 16  # complex integers and other types numpy lacks; they are refused later


if __name__ == "__main__":
    _main()
