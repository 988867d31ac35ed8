"""Heartbeats of the worker: lines of JSON through a pipe, not through the ledger, since storage wears."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

LONGEST_LINE = 4000
"""Under PIPE_BUF (4,096 bytes), so that a line is written whole or not at all."""
_CUT = "..."


@dataclass(frozen=True)
class Heartbeat:
    """One line.

    Attributes:
        monotonic_s: when it was written, by the clock all processes of one boot share.
        engine: "starting", "ready" or "lost"; ``engine_problem`` says why it is lost.
        backend, precision, model: of the open engine, empty before; model_id: its id in the ledger.
        scene: the id of the one being mapped, None while idle.
        tiles_done, tiles_all: of that scene.
        tiles_total, scenes_total: done by this worker.
        tiles_per_s: over the last minute, None before the first tile; tiles_per_s_1s: over the last second;
            tiles_per_s_scene: since this run of the scene began.
        pixels_per_s: over the last minute, of the part of a tile that is kept; a mean over the scene's tiles.
        stages_ms: by stage, (p50, p95) of the last 256 batches.
        governor, governor_why: state of the governor and its reason.
        wanted_mode: the power mode that the governor asks for; empty: none.
        checked_s_ago: seconds since the engine was last found right.
    """

    monotonic_s: float = 0.0
    pid: int = 0
    engine: str = "starting"
    engine_problem: str = ""
    backend: str = ""
    precision: str = ""
    model: str = ""
    model_id: str = ""
    scene: str | None = None
    tiles_done: int = 0
    tiles_all: int = 0
    tiles_total: int = 0
    scenes_total: int = 0
    tiles_per_s: float | None = None
    tiles_per_s_1s: float | None = None
    tiles_per_s_scene: float | None = None
    pixels_per_s: float | None = None
    stages_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    governor: str = "off"
    governor_why: str = ""
    wanted_mode: str = ""
    checked_s_ago: float | None = None

    def line(self) -> bytes:
        """As JSON, ended by a newline, of LONGEST_LINE bytes at most: texts are cut, the engine's problem first."""
        beat, line = self, _json(self)
        for name in _CUT_FIRST:
            if len(line) <= LONGEST_LINE:
                break
            text: str = getattr(beat, name)
            beat = replace(beat, **{name: _shortened(text, len(line) - LONGEST_LINE)})  # type: ignore[arg-type]
            line = _json(beat)
        return line


_CUT_FIRST = ("engine_problem", "governor_why", "model", "backend", "precision", "wanted_mode")


def _json(beat: Heartbeat) -> bytes:
    return json.dumps(asdict(beat)).encode() + b"\n"


def _shortened(text: str, by: int) -> str:
    """The text without its end, so that its JSON is shorter by so many bytes at least, or empty."""
    sizes = [len(json.dumps(char)) - 2 for char in text]  # 12 bytes for one beyond U+FFFF
    left = sum(sizes) - by - len(_CUT)
    kept = list(itertools.takewhile(lambda size: size <= left, itertools.accumulate(sizes)))
    return text[: len(kept)] + _CUT if left >= 0 else ""


def heartbeat_of(line: bytes | str) -> Heartbeat | None:
    """Of a line; None where it is no heartbeat."""
    try:
        return Heartbeat(**json.loads(line))
    except (ValueError, TypeError):
        return None


class HeartbeatReceiver:
    """The worker's last heartbeat, as the supervisor hands it on; any thread may ask."""

    def __init__(self) -> None:
        self._last = Heartbeat()
        self._heard: float | None = None

    def take(self, line: bytes) -> None:
        """Takes a line if it is a heartbeat."""
        heartbeat = heartbeat_of(line)
        if heartbeat is not None:
            # Without a lock: each name is replaced whole, and a beat with the age of the one before does no harm.
            self._last, self._heard = heartbeat, time.monotonic()

    @property
    def last(self) -> Heartbeat:
        """The last one; that of a worker not yet started before the first."""
        return self._last

    @property
    def silent_s(self) -> float | None:
        """Seconds since it came, None before the first."""
        return None if self._heard is None else time.monotonic() - self._heard


class HeartbeatWriter:
    """Writes heartbeats; called by the thread that drives the engine, so a silent pipe means a stuck engine.

    Args:
        descriptor: the pipe's end, not closed here. None writes nothing.
        every_s: not more often than this, unless something changed.
    """

    MINUTE_S = 60.0
    BATCHES = 256

    def __init__(
        self, descriptor: int | None, *, every_s: float = 0.5, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._descriptor, self._every_s, self._clock = descriptor, every_s, clock
        self._last = -1e9
        self._checked: float | None = None
        self._tiles: deque[tuple[float, int]] = deque()  # of the last minute: (time, tiles)
        self._stages: dict[str, deque[float]] = {}
        self._begun, self._scene_tiles = clock(), 0
        self.tile_pixels = 0.0
        self._lock = threading.Lock()
        self._suspended_until = 0.0
        self.state = Heartbeat(pid=os.getpid())
        if descriptor is not None:
            # Daemon: a process that ends must not wait for it.
            threading.Thread(target=self._beat_while_suspended, name="heartbeat", daemon=True).start()

    def suspend_watchdog(self, seconds: float) -> None:
        """Writes heartbeats from another thread for so many seconds: for work without batches that has an end."""
        self._suspended_until = self._clock() + seconds

    def change(self, **values: object) -> None:
        """Sets fields and writes at once."""
        self.state = replace(self.state, **values)  # type: ignore[arg-type]
        self.beat(force=True)

    def engine_checked(self) -> None:
        """Notes that the engine was found right just now."""
        self._checked = self._clock()

    def begin_scene(self, scene: str) -> None:
        """A scene's run begins."""
        self._begun, self._scene_tiles = self._clock(), 0
        self.change(scene=scene, tiles_done=0, tiles_all=0, tiles_per_s_scene=None)

    def record_stage(self, stage: str, seconds: float) -> None:
        """Notes the seconds of a stage for one batch; any thread may call."""
        with self._lock:
            self._stages.setdefault(stage, deque(maxlen=self.BATCHES)).append(seconds)

    def record_tiles(self, done: int, total_tiles: int) -> None:
        """Notes how many tiles of the scene are done; any thread may call."""
        with self._lock:
            # The first call of a run reports the tiles of earlier runs: they are no work of this one.
            new = max(0, done - self.state.tiles_done) if self.state.tiles_all else 0
            self._tiles.append((self._clock(), new))
            self._scene_tiles += new
            total = self.state.tiles_total + new
            self.state = replace(self.state, tiles_done=done, tiles_all=total_tiles, tiles_total=total)

    def beat(self, *, force: bool = False) -> None:
        """Writes a line if it is time. A reader that is gone or slow is not waited for."""
        now = self._clock()
        if self._descriptor is None or (not force and now - self._last < self._every_s):
            return
        self._last = now
        # The engine's thread beats, or the one above; reader and writer note stages and tiles meanwhile.
        with self._lock:
            ago = None if self._checked is None else round(now - self._checked, 3)
            rate = self._rate(now)
            self.state = replace(
                self.state, monotonic_s=now, checked_s_ago=ago, tiles_per_s=rate, tiles_per_s_1s=self._last_second(now),
                tiles_per_s_scene=self._scene_rate(now),
                pixels_per_s=None if rate is None else round(rate * self.tile_pixels),
                stages_ms={stage: _p50_p95_ms(times) for stage, times in self._stages.items()},
            )  # fmt: skip
            line = self.state.line()
        try:
            os.write(self._descriptor, line)  # under PIPE_BUF: whole or not at all
        except (BlockingIOError, BrokenPipeError):
            return

    def _beat_while_suspended(self) -> None:
        while True:
            time.sleep(self._every_s)
            if self._clock() < self._suspended_until:
                self.beat()

    def _rate(self, now: float) -> float | None:
        # Here and not where tiles are added: a minute without tiles must bring the rate down as well.
        while self._tiles and now - self._tiles[0][0] > self.MINUTE_S:
            self._tiles.popleft()
        if not self._tiles:
            return None
        span = max(now - self._tiles[0][0], 1e-3)
        return round(sum(count for _, count in self._tiles) / span, 4)

    def _last_second(self, now: float) -> float | None:
        return float(sum(count for at, count in self._tiles if now - at <= 1.0)) if self._tiles else None

    def _scene_rate(self, now: float) -> float | None:
        if self.state.scene is None:
            return None
        span = max(now - self._begun, 1e-3)
        return round(self._scene_tiles / span, 4) if self._scene_tiles else None


def _p50_p95_ms(times: deque[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return tuple(round(1e3 * ordered[int(share * (len(ordered) - 1))], 2) for share in (0.5, 0.95))  # type: ignore[return-value]
