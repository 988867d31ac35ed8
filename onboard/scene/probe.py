"""Opens an untrusted file in a process of its own first, with limits on memory, time and processor.

A small file can declare a raster of terabytes, hang a decoder for minutes, or crash it. What it does, it does to the
probe: the caller gets a verdict, a refusal in one line, or a refusal because the probe died or took too long.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from onboard.errors import OptionsRefused, SceneRefused
from onboard.scene.gdal_env import GDAL_ENV
from onboard.scene.grid import Window
from onboard.scene.mosaic import is_description, read_mosaic
from onboard.scene.reader import LESS_MEMORY, Scene, SceneOptions, open_source
from onboard.scene.resolution import ModelResolution, mapped_pixels
from onboard.scene.tiff import is_tiff_start

_SIDE = 256
_PROBE_ENDED = "the probe ended"
_DAMAGED = "it is damaged or made to break readers; deliver it again"
# Not the scene's fault: the machine lets no process have as much memory, or ended it.
_REMEDIES = {
    _PROBE_ENDED: "see that the machine has memory left and no limit on it (ulimit -v), then try again",
    "signal 9": "the system ended it, most often for want of memory; free memory and try again, or deliver it tiled",
    "signal 24": "it ran out of processor time: its blocks are absurdly large; deliver it again as a tiled GeoTIFF",
}


@dataclass(frozen=True)
class Limits:
    """Limits of a probe.

    Attributes:
        wall_s: seconds until the probe is killed; many more than ``cpu_s``: on a busy machine it waits for its turn.
        cpu_s: processor seconds.
        memory_bytes: address space of the probe.
        scene_pixels: width times height that is still mapped.
        side_pixels: width or height that is still mapped.
        block_bytes: decoded size of one block; a decoder allocates it whole.
    """

    wall_s: float = 600.0
    cpu_s: int = 60
    memory_bytes: int = 4 << 30
    scene_pixels: int = 1 << 36
    side_pixels: int = 1 << 20
    block_bytes: int = 512 << 20


@dataclass(frozen=True)
class MappedAt:
    """The model that is to map a scene, and the ground size of pixels, metres, of scenes that do not say theirs."""

    model: ModelResolution
    default_gsd_m: float | None = None


class Probe:
    """A process that stands ready to look at files, each in a fork of its own.

    Starting Python and its TIFF reader takes many times longer than a look. A context manager; leaving it ends the
    process. One thread at a time.
    """

    def __init__(self) -> None:
        self._ended = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onboard.scene.probe"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            # OpenBLAS starts threads at its import: with threads a process must not fork, and each takes address space.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip

    def judge(
        self,
        path: Path,
        options: SceneOptions | None = None,
        limits: Limits | None = None,
        target: MappedAt | None = None,
    ) -> int:
        """Returns if the scene can be mapped, as far as its header and samples of its pixels tell.

        Returns:
            Its pixels; with a ``target`` those of its enlargement, where it is enlarged for the model.

        Raises:
            SceneRefused: it cannot; says why and what to do.
            OptionsRefused: the options do not fit the scene.
        """
        limits = limits or Limits()
        check_file(path)
        request = {
            "path": str(path), "options": asdict(options or SceneOptions()), "limits": asdict(limits),
            "target": None if target is None else asdict(target),
        }  # fmt: skip
        assert self._process.stdin is not None  # noqa: S101 -- asked for above
        assert self._process.stdout is not None  # noqa: S101
        try:
            # One line a request and one a reply; an empty reply is the end of the process.
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            reply = self._process.stdout.readline()
        except BrokenPipeError:
            reply = b""
        self._ended = not reply  # seen here before the system lets us see it
        verdict = json.loads(reply) if reply else {"died": _PROBE_ENDED}
        _judge(path, verdict, limits)
        return int(verdict["pixels"])

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked again."""
        return not self._ended and self._process.poll() is None

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


class Probes:
    """Judges files from any thread, by one probe that stands ready and others where that one is busy.

    As a context manager it has one getting ready at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: Probe | None = None

    def start(self) -> None:
        """Has one ready, so that the first scene need not wait for it."""
        self._give(self._take())

    def judge(self, path: Path, options: SceneOptions | None = None, target: MappedAt | None = None) -> int:
        """As :meth:`Probe.judge`."""
        probe = self._take()
        try:
            return probe.judge(path, options, target=target)
        finally:
            self._give(probe)

    def __enter__(self) -> Probes:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the one that stands ready."""
        with self._lock:
            probe, self._idle = self._idle, None
        if probe is not None:
            probe.close()

    def _take(self) -> Probe:
        # Held for the exchange alone: a look may take minutes, and other threads take probes of their own meanwhile.
        with self._lock:
            probe, self._idle = self._idle, None
        if probe is not None and probe.is_alive:
            return probe
        return Probe()

    def _give(self, probe: Probe) -> None:
        with self._lock:
            if self._idle is None and probe.is_alive:
                self._idle = probe
                return
        probe.close()


def probe_scene(path: Path, options: SceneOptions | None = None, limits: Limits | None = None) -> None:
    """Starts a probe, asks it, and ends it; see :meth:`Probe.judge`."""
    check_file(path)
    with Probe() as probe:
        probe.judge(path, options, limits)


def check_file(path: Path) -> None:
    """Checks without a TIFF reader: a local, readable, ordinary file that begins as a TIFF does.

    Or one that describes a scene in tiles, see :mod:`onboard.scene.mosaic`.

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
    if not is_tiff_start(start) and not is_description(path):
        raise SceneRefused(path, "is not a TIFF", "deliver the scene as a GeoTIFF")


def _judge(path: Path, verdict: dict[str, str], limits: Limits) -> None:
    if "late" in verdict:
        raise SceneRefused(
            path,
            f"reading samples of it took over {limits.wall_s:g} s",
            "storage or machine are stuck or far too busy; see to them and deliver it again",
        )
    if "died" in verdict:
        raise SceneRefused(path, f"the reader died on it ({verdict['died']})", _REMEDIES.get(verdict["died"], _DAMAGED))
    if verdict["refused"] == "scene":
        raise SceneRefused(path, verdict["problem"], verdict["remedy"])
    if verdict["refused"] == "options":
        raise OptionsRefused(verdict["problem"], verdict["remedy"])


def _serve() -> None:
    """Answers a line a request until the asker is gone."""
    # Around it all: a scene that stays open is read under the options of that time, and GDAL's own cache, 5 % of the
    # machine's memory, may be more than a look may have.
    with rasterio.Env(**GDAL_ENV):
        _warm_up()
        for line in sys.stdin:
            print(json.dumps(_in_a_fork(json.loads(line))), flush=True)  # noqa: T201 -- the asker reads it


def _warm_up() -> None:
    """Has the reader load what it loads at a first look (drivers, projections), so that no fork has to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.tif"
        transform = rasterio.Affine(1, 0, 5e5, 0, -1, 2e6)
        profile = {"width": 64, "height": 64, "count": 3, "dtype": "uint8", "crs": "EPSG:32640", "transform": transform}
        with rasterio.open(path, "w", "GTiff", **profile) as file:
            file.write(np.ones((3, 64, 64), np.uint8))
        _examine(path, SceneOptions(), Limits())


def _in_a_fork(request: dict[str, Any]) -> dict[str, str]:
    """The verdict of a fork, or how it ended without one."""
    reading, writing = os.pipe()
    # A look by a fork of the warm process takes 22 ms, by a new process 350 (docs/decisions/0005).
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(_verdict(request)).encode())  # shorter than a pipe holds: it never waits
            os._exit(0)
        finally:
            # Whatever happened: the fork must not return into its parent's loop and answer in its place.
            os._exit(1)
    os.close(writing)
    # A pidfd can be waited for with a limit of time, `waitpid` cannot.
    ended = os.pidfd_open(child)
    try:
        in_time = bool(select.select([ended], [], [], request["limits"]["wall_s"])[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if not in_time:
            return {"late": "killed"}
        if code:
            return {"died": f"signal {-code}" if code < 0 else f"exit code {code}"}
        with os.fdopen(os.dup(reading), "rb") as answer:
            verdict: dict[str, str] = json.load(answer)
        return verdict
    finally:
        os.close(ended)
        os.close(reading)


def _verdict(request: dict[str, Any]) -> dict[str, str]:
    limits = Limits(**request["limits"])
    memory = _limit(resource.RLIMIT_AS, limits.memory_bytes)
    # Processor time: SIGXCPU at the soft limit tells why it ended; SIGKILL a second later ends what ignores that.
    _limit(resource.RLIMIT_CPU, limits.cpu_s, beyond=1)
    # A core file as large as its memory would only wear the flash.
    _limit(resource.RLIMIT_CORE, 0)
    given: dict[str, Any] = request["options"]
    options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        pixels = _examine(Path(request["path"]), SceneOptions(**options), limits, _target_of(request.get("target")))
    except SceneRefused as error:
        if error.remedy == LESS_MEMORY and memory < limits.memory_bytes:
            problem = f"reading it takes more than the {memory / 2**20:,.0f} MiB that this machine lets a process have"
            return {"refused": "scene", "problem": problem, "remedy": "raise its limit (ulimit -v); the scene is sound"}
        return {"refused": "scene", "problem": error.problem, "remedy": error.remedy}
    except OptionsRefused as error:
        return {"refused": "options", "problem": error.problem, "remedy": error.remedy}
    return {"refused": "", "pixels": str(pixels)}


def _limit(kind: int, wanted: int, beyond: int = 0) -> int:
    """Sets a limit of this process, or what the machine allows of it, and a hard one beyond it; returns it."""
    _, hard = resource.getrlimit(kind)
    hard_limit = wanted + beyond if hard == resource.RLIM_INFINITY else min(wanted + beyond, hard)
    resource.setrlimit(kind, (min(wanted, hard_limit), hard_limit))
    return min(wanted, hard_limit)


def _target_of(given: dict[str, Any] | None) -> MappedAt | None:
    if given is None:
        return None
    low_high = given["model"]["gsd_range_m"]
    model = ModelResolution(given["model"]["gsd_m"], None if low_high is None else tuple(low_high))
    return MappedAt(model, given["default_gsd_m"])


def _examine(path: Path, options: SceneOptions, limits: Limits, target: MappedAt | None = None) -> int:
    # The header first: what it declares may be refused before a decoder allocates anything.
    _check_declared(path, options, limits)
    with Scene.open(path, options) as scene:
        right, bottom = max(0, scene.width - _SIDE), max(0, scene.height - _SIDE)
        width, height = min(_SIDE, scene.width), min(_SIDE, scene.height)
        # Corners and middle: a file that was cut short lacks its last blocks.
        for col, row in {(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)}:
            scene.read(Window(col, row, width, height))
        if target is not None:
            return mapped_pixels(scene, target.model, target.default_gsd_m)
        return int(scene.width * scene.height)


def _check_declared(path: Path, options: SceneOptions, limits: Limits) -> None:
    """Holds what the header declares against the limits and the file's size, before any pixel is asked for."""
    if is_description(path):
        for tile in read_mosaic(path).tiles:
            try:
                _check_declared(tile.path, replace(options, page=1), limits)
            except SceneRefused as error:  # noqa: PERF203 -- the first one ends it
                raise SceneRefused(path, f"its tile {tile.path.name} {error.problem}", error.remedy) from error
    with open_source(path, page=options.page) as source:
        width, height, count = source.width, source.height, source.count
        block_height, block_width = source.block_shapes[0]
        item = max(_bytes_of(kind) for kind in source.dtypes)
        together = count if source.interleaving is not None and source.interleaving.name == "pixel" else 1
    if max(width, height) > limits.side_pixels or width * height > limits.scene_pixels:
        raise SceneRefused(path, f"declares {width} x {height} pixels", "split it into scenes that are smaller")
    # Of interleaved bands a decoder unpacks all at once, whichever are read.
    block = block_width * block_height * item * together
    if block > limits.block_bytes:
        raise SceneRefused(
            path,
            f"one block decodes to {block / 2**20:,.0f} MiB",
            "deliver it tiled: gdal_translate -co TILED=YES",
        )
    # Blocks of a virtual raster are in no file. Nor are those of a long strip, which GDAL shows as its rows; it cannot
    # be told from strips of one row, whose number the limit of a side bounds.
    if is_description(path) or (block_height, block_width) == (1, width):
        return
    blocks, size = -(-width // block_width) * -(-height // block_height), path.stat().st_size
    # A block that is sparse takes no room but in the index: mostly six bytes or more, two at least, an offset as SHORT
    # (TIFF 6.0, StripOffsets) without a byte count. A header may not promise more than the file can hold.
    if blocks * 2 > size:
        raise SceneRefused(
            path,
            f"declares {blocks:,} blocks in a file of {size:,} bytes",
            "it is damaged; deliver it again",
        )


def _bytes_of(dtype: str) -> int:
    try:
        return int(np.dtype(dtype).itemsize)
    except TypeError:
        return 16  # complex integers and other types numpy lacks; they are refused later


if __name__ == "__main__":
    _serve()
