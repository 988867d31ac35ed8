"""The worker: the one process that owns the engine. It takes the ledger's next scene, maps it, publishes the map.

It may die at any moment: the canvas keeps what was finished, the ledger what was asked for, and the supervisor starts
another. An engine that computes wrong is opened afresh; while there is none that computes right, scenes wait.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.engine import Engine
from engines.errors import EngineError, InferenceFailed, OpeningRefused
from engines.open import load_runtime
from engines.twice import TwiceEngine
from onboard.errors import AlreadyRunning, InputError, MappingStopped, StorageError
from onboard.jobs.account import SceneAccount
from onboard.jobs.child import run_child
from onboard.jobs.erase import erase_canvases, erase_scene, erase_scene_file
from onboard.jobs.governor import Governor, Measurement, ModeLadder, limits_of
from onboard.jobs.guard import CheckSchedule, EngineGuard
from onboard.jobs.heartbeat import Pulse
from onboard.jobs.intake import facts_of
from onboard.jobs.ledger import Ledger, SceneRow
from onboard.jobs.lines import STDIN, lines_of
from onboard.jobs.measured import Hearing
from onboard.jobs.moment import is_synchronised
from onboard.jobs.published import map_row_of
from onboard.jobs.ration import Ration
from onboard.jobs.recovery import Recovery
from onboard.jobs.scene_folder import scene_file
from onboard.jobs.scene_options import options_of
from onboard.jobs.starter import Starter
from onboard.mapping.run import MapRequest, MapSummary, map_scene
from onboard.mapping.watch import Watch
from onboard.scene.probe import Probes
from onboard.scene.resolution import ResolutionOptions
from onboard.settings import Settings, read_settings

log = logging.getLogger(__name__)
LOCK_FILE = "worker.lock"
IDLE_S = 0.2
"""Between two looks for work. A look is one read of the ledger's index, from memory."""
SWEEP_S = 5.0
"""Between two looks for canvases that nobody wants."""
GOVERN_S = 0.5
"""Between two questions to the governor while work waits."""
_TOLD = ("orbit", "hot", "peak", "quiet", "blind")
"""States of the governor that are events; pacing comes and goes by design."""
OPENING_S = 3600.0
"""Longest for opening the engine: TensorRT builds for minutes, and what it has timed is kept only at the end.

Other threads go on meanwhile: its binding gives up the interpreter's lock (NVIDIA/TensorRT, pyCore.cpp).
"""
PREPARING_S = 900.0
"""Longest for what comes before the first batch: digest, probe and statistics of a scene of many gigabytes."""
PUBLISHING_S = 3600.0
"""Longest for what comes after the last: overviews and compression of the map."""


class Worker:
    """Works until told to stop.

    Args:
        settings: of the service.
        ledger: a connection of this process.
        guard: the engine's.
        pulse: where heartbeats go.
        stop: set to end after the batch under way.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, guard: EngineGuard, pulse: Pulse, stop: threading.Event
    ) -> None:
        self.settings, self.ledger, self.guard, self.pulse, self.stop = settings, ledger, guard, pulse, stop
        self.recovery = Recovery(
            settings.recovery_command, settings.recovery_minutes, settings.data_dir / "recovery.json"
        )
        self.probes = Probes()
        self.starter = Starter(settings, ledger, self.probes.judge)
        self.hearing = Hearing()
        self.governor = Governor(limits_of(settings), seconds_of_day=_seconds_of_day)
        self.ration = Ration(settings.telemetry_dir, self.governor)
        self.ladder = ModeLadder([name.strip() for name in settings.power_modes.split(",") if name.strip()])
        self._suspect: str | None = None
        self._governed = ""
        guard.tell = ledger.tell
        self._swept = float("-inf")

    def run(self) -> None:
        """Maps scene after scene; returns when told to stop."""
        while not self.stop.is_set() and self._open_engine():
            try:
                self._serve()
            except EngineError as error:  # noqa: PERF203 -- once a failure
                self.ledger.tell("error", "engine-failed", f"{error}; it is opened again from disk")
            except StorageError as error:
                log.warning("%s; the worker waits for room", error)
                self.pulse.change(scene=None)
                self._rest(self.settings.engine_retry_s)
        self.probes.close()
        self.guard.close()

    def _open_engine(self) -> bool:
        """Opens the engine, however long that takes; False if told to stop before."""
        first = True
        while not self.stop.is_set():
            self.pulse.grant(OPENING_S)
            try:
                engine = self.guard.open()
            except EngineError as error:
                self.pulse.grant(0)
                self.pulse.change(engine="lost", engine_problem=str(error))
                if first:
                    self.ledger.tell("error", "engine-lost", f"{error}; scenes wait, it is tried again")
                first = False
                # A wrong setting is not mended by a reboot.
                if not isinstance(error, OpeningRefused) and self.recovery.attempt():
                    self.ledger.tell("warning", "recovery", f"ran {self.settings.recovery_command}")
                self._rest(self.settings.engine_retry_s)
                continue
            self.pulse.grant(0)
            self.pulse.checked()
            self.pulse.change(
                engine="ready", engine_problem="", backend=engine.backend, precision=engine.precision,
                model=f"{engine.manifest.name} {engine.manifest.version}",
            )  # fmt: skip
            if not first:
                self.ledger.tell("info", "engine-reloaded", "the engine computes right again")
            self._blame_suspect()
            return True
        return False

    def _serve(self) -> None:
        """Maps with the open engine until told to stop, or until it is old enough to be opened afresh.

        Raises:
            EngineError: it failed; it is out of service.
            StorageError: the ledger cannot be written.
        """
        for begun in self.ledger.running():
            self.ledger.put_back(begun.id)
        while not self.stop.is_set() and not self.guard.reopen_due():
            self.pulse.beat()
            self._sweep()
            row = self.starter.next(self.guard.engine.manifest)
            if row is None:
                if self.guard.check_due():
                    self.guard.check()
                    self.pulse.checked()
                self._rest(IDLE_S)
            elif self.ledger.start(row.id):
                self._map(row)

    def _map(self, row: SceneRow) -> None:
        """Maps one scene, to whatever end.

        What is not foreseen ends the worker while the heartbeat still names the scene: the supervisor counts it
        against the scene as it counts a crash.

        Raises:
            EngineError: the engine failed; the scene is queued again.
        """
        self.pulse.tile_pixels = self._kept_pixels()
        self.pulse.begin(row.id)
        self.pulse.grant(PREPARING_S)
        watch = _WorkWatch(self, row)
        try:
            summary = map_scene(self._request(row), self._engine(row), self.pulse.tiles, watch, judge=self.probes.judge)
            self._publish(row, summary, watch.told)
        except MappingStopped:
            self.ledger.put_back(row.id)
        except EngineError as error:
            self.ledger.put_back(row.id)
            # Whether the scene is to blame is known when the engine, opened afresh, computes right.
            self._suspect = row.id if isinstance(error, InferenceFailed) else None
            self.pulse.change(scene=None)
            raise
        except StorageError as error:
            # A scene that was cancelled meanwhile may have lost its folders: that says nothing of the disk.
            if self.ledger.put_back(row.id):
                self.ledger.tell("error", "no-storage", str(error), row.id)
                self.pulse.change(scene=None)
                self._rest(self.settings.engine_retry_s)
        except InputError as error:
            if self.ledger.fail(row.id, error.advice, before=("running",)):
                self.ledger.tell("warning", "scene-failed", error.advice, row.id)
        except OSError:
            if self.ledger.state_of(row.id) == "running":
                raise
            # It was cancelled, and its files went from under us.
        finally:
            watch.account.note()
            self._clean(row.id)
            self.pulse.grant(0)
        self.pulse.change(scene=None)

    def _engine(self, row: SceneRow) -> Engine:
        """The engine in service, computing a share of the tiles twice where that is set."""
        engine = self.guard.engine
        if not self.settings.twice:
            return engine
        return TwiceEngine(
            engine, self.settings.twice, lambda text: self.ledger.tell("warning", "tile-recomputed", text, row.id)
        )

    def _blame_suspect(self) -> None:
        """A scene that an engine failed on, though it computes right otherwise, is not tried for ever."""
        suspect, self._suspect = self._suspect, None
        if suspect is not None and self.ledger.record_death(suspect, self.settings.deaths):
            text = f"the engine failed on it {self.settings.deaths} times"
            self.ledger.tell("error", "scene-quarantined", text, suspect)

    def _request(self, row: SceneRow) -> MapRequest:
        settings = self.settings
        return MapRequest(
            scene=scene_file(settings.scenes_dir / row.id),
            out=settings.maps_dir,
            work=settings.canvases_dir,
            name=row.id,
            scene_sha256=row.sha256,
            title=row.name,
            acquired=row.acquired,
            scene_options=options_of(settings, self.guard.engine.manifest),
            resolution=ResolutionOptions(default_gsd_m=settings.gsd_m, grid=settings.resolution),
            confidence=settings.confidence,
            sieve_px=settings.sieve,
            batch=settings.batch,
            halo=settings.halo,
            overwrite=True,
            own={"delivery": facts_of(row)},
        )

    def govern(self, row: SceneRow) -> bool:
        """Whether the next batch may begin now; tells the heartbeat why not."""
        told = self.hearing.last
        if self.hearing.silent_s is not None:
            if self.governor.idle_w is None and told.idle_w is not None:
                self.governor.know_idle(told.idle_w)
            self.ration.turn(told, told.monotonic_s)
            self.governor.measured(Measurement(told.monotonic_s, told.main_power_w(), told.hottest_c))
        decision = self.governor.decide(time.monotonic(), urgent=row.priority == "urgent")
        state = self.pulse.state
        mode = self.ladder.wanted(decision, time.monotonic())
        if (decision.state, decision.why, mode) != (state.governor, state.governor_why, state.wanted_mode):
            self.pulse.change(governor=decision.state, governor_why=decision.why, wanted_mode=mode)
        kind = decision.state if decision.state in _TOLD else ""
        if kind != self._governed:
            self._governed = kind
            text = f"work waits: {decision.why}" if kind else "work goes on without restriction"
            self.ledger.tell("warning" if kind else "info", f"governor-{kind or 'free'}", text)
        return decision.work

    def _kept_pixels(self) -> int:
        manifest = self.guard.engine.manifest
        halo = manifest.halo if self.settings.halo is None else self.settings.halo
        return int(max(1, manifest.input.tile_size - 2 * halo) ** 2)

    def _publish(self, row: SceneRow, summary: MapSummary, cost: Mapping[str, Any]) -> None:
        """The map's folder stands: the ledger learns of it, then the scene may go."""
        found = map_row_of(summary.folder)
        if found is None:
            raise StorageError(summary.folder, "the published map cannot be read back", "look at the disk")
        figures: dict[str, Any] = {
            "tiles": summary.tiles, "tiles_empty": summary.tiles_empty, "tiles_resumed": summary.tiles_resumed,
            "mapping_s": round(summary.mapping_s, 3), "seconds": round(summary.seconds, 3),
            "stages_s": {name: round(value, 3) for name, value in summary.stages_s.items()},
            "pixels": summary.scene_pixels, "tiles_per_s": summary.tiles_per_s,
            "unfamiliar_share": summary.familiarity.share,
            **cost,
        }  # fmt: skip
        if not self.ledger.finish(replace(found, priority=row.priority), figures):
            return  # cancelled at the last moment; if it is queued again, the next attempt finds the map that stands
        if warning := summary.familiarity.warning:
            self.ledger.tell("warning", "map-unfamiliar", warning, row.id)
        self.pulse.change(scenes_total=self.pulse.state.scenes_total + 1)
        if not self.settings.keep_scenes:
            erase_scene_file(self.settings, self.ledger, row.id)

    def _clean(self, scene_id: str) -> None:
        """What is left of a scene that was cancelled while it was mapped."""
        erase_scene(self.settings, self.ledger, scene_id)
        erase_canvases(self.settings, self.ledger)

    def _sweep(self) -> None:
        """Canvases of scenes that were cancelled while they waited."""
        if time.monotonic() - self._swept >= SWEEP_S:
            self._swept = time.monotonic()
            erase_canvases(self.settings, self.ledger)

    def _rest(self, seconds: float) -> None:
        """Waits, with heartbeats, until then or until told to stop."""
        end = time.monotonic() + seconds
        while not self.stop.is_set() and (left := end - time.monotonic()) > 0:
            self.pulse.beat()
            self.stop.wait(min(left, 0.5))


class _WorkWatch(Watch):
    """Between batches: heartbeat, stop, cancellation, something more urgent, and the engine's check."""

    doubts = True

    def __init__(self, worker: Worker, row: SceneRow) -> None:
        self.worker, self.row = worker, row
        self.account = SceneAccount(worker.settings.canvases_dir / row.id)
        self.account.take(worker.hearing.last)  # what opening and probing cost is the scene's too
        self.told: Mapping[str, Any] = {}

    def before_batch(self) -> None:
        worker = self.worker
        worker.pulse.grant(0)
        worker.pulse.beat()
        self.account.take(worker.hearing.last)
        self._check_stopped()
        worker.guard.note_tiles(worker.settings.batch)
        while not worker.govern(self.row):
            worker.stop.wait(GOVERN_S)
            worker.pulse.beat()
            self.account.take(worker.hearing.last)
            self._check_stopped()

    def took(self, stage: str, seconds: float) -> None:
        self.worker.pulse.took(stage, seconds)

    def facts(self, *, tiles: int, area_m2: float | None) -> Mapping[str, Any]:
        self.account.take(self.worker.hearing.last)
        self.told = self.account.facts(tiles=tiles, area_m2=area_m2)
        return self.told

    def _check_stopped(self) -> None:
        worker = self.worker
        if worker.stop.is_set():
            raise MappingStopped("the service stops")
        if worker.ledger.state_of(self.row.id) != "running":
            raise MappingStopped("it was cancelled")
        worker.starter.review(worker.guard.engine.manifest)
        if worker.ledger.more_urgent_waits(self.row.priority):
            raise MappingStopped("something more urgent waits")
        if worker.guard.reopen_due():
            raise MappingStopped("the engine is opened afresh")

    def check_due(self) -> bool:
        return self.worker.guard.check_due()

    def scrub_due(self) -> bool:
        return self.worker.guard.scrub_due()

    def scrub(self) -> None:
        self.worker.guard.scrub()

    def repaired(self, kind: str, text: str) -> None:
        self.worker.ledger.tell("warning", kind, text, self.row.id)

    def check(self) -> None:
        self.worker.guard.check()
        self.worker.pulse.checked()

    def before_publishing(self) -> None:
        # Not in check(), which is called in mid-scene too: an engine that hangs after it must fall silent at once.
        self.worker.pulse.grant(PUBLISHING_S)


def hold_folder(folder: Path) -> int:
    """Locks the data folder for this process's life; gives the open lock.

    Raises:
        AlreadyRunning: another worker has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AlreadyRunning(folder) from None
    return lock


def _seconds_of_day() -> float | None:
    """UTC; None while the clock is not synchronised: quiet hours kept by a wrong clock would be quiet at any hour."""
    return time.time() % 86400 if is_synchronised() else None


def work(
    settings: Settings, open_engine: Callable[[], Engine], heartbeat: int | None, measured: Iterable[bytes] = ()
) -> None:
    """The worker process's whole life.

    Args:
        settings: of the service.
        open_engine: opens and verifies the engine.
        heartbeat: descriptor that heartbeats are written to.
        measured: lines of the sampling process.

    Raises:
        AlreadyRunning: another worker works here.
    """
    lock = hold_folder(settings.data_dir)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if heartbeat is not None:
        os.set_blocking(heartbeat, False)
    pulse = Pulse(heartbeat)
    pulse.beat(force=True)
    schedule = CheckSchedule(
        period_s=60 * settings.check_minutes, period_tiles=settings.check_tiles, scrub_s=settings.scrub_s,
        scrub_small=settings.scrub_small,
        reopen_s=None if settings.reopen_hours is None else 3600 * settings.reopen_hours, batch=settings.batch,
    )  # fmt: skip
    guard = EngineGuard(open_engine, schedule, prepare=lambda: load_runtime(settings.backend))
    with Ledger(settings.ledger_path) as ledger:
        worker = Worker(settings, ledger, guard, pulse, stop)
        threading.Thread(target=worker.hearing.listen, args=(measured,), name="measured", daemon=True).start()
        worker.run()
    with suppress(OSError):
        os.close(lock)


def shipped_engine(settings: Settings) -> Engine:
    """Opens what the settings name."""
    from engines.open import open_engine

    return open_engine(
        settings.model, backend=settings.backend, threads=settings.threads, max_batch=max(settings.batch, 1),
        built=settings.data_dir / "engines", build=settings.build_engine, choices=settings.data_dir / "backends.json",
    )  # fmt: skip


def main(open_engine: Callable[[Settings], Engine] = shipped_engine) -> None:
    """Started by the supervisor: `python -m onboard.jobs.worker --parent PID --heartbeat FD`."""

    def live(heartbeat: int | None) -> None:
        settings = read_settings()
        work(settings, lambda: open_engine(settings), heartbeat, lines_of(STDIN))

    run_child("worker", "--heartbeat", live)


if __name__ == "__main__":
    main()
