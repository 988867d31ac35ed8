"""The worker process: owns the engine, takes the next scene of the ledger, maps it and publishes the map.

It may be killed at any time: the canvas keeps the finished tiles, the ledger the state of every scene, and the
supervisor starts another worker. An engine that computes wrong is opened afresh; scenes wait until one computes right.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from engines.engine import Engine
from engines.errors import EngineError, InferenceFailed
from engines.integrity.redundant import RedundantEngine
from engines.open import load_runtime
from onboard.errors import InputError, MappingStopped, StorageError
from onboard.jobs.areas import LastShares, current_areas
from onboard.jobs.data_folder import WORKER_LOCK, hold_data_folder
from onboard.jobs.erase import erase_canvases, erase_scene, erase_scene_file
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_job import (
    earlier_maps,
    figures_of,
    map_request_of,
    mapped_line,
    shares_of,
)
from onboard.jobs.published import map_row_of
from onboard.jobs.scene_store import SceneRow
from onboard.jobs.scheduler import SceneScheduler
from onboard.mapping.areas import most_urgent
from onboard.mapping.executors import LocalExecutor
from onboard.mapping.run import MapSummary, map_scene
from onboard.power.receiver import TelemetryReceiver
from onboard.power.scene_energy import SceneEnergy
from onboard.processes.child import STDIN, lines_of, run_child
from onboard.processes.engine_guard import CheckSchedule, EngineGuard
from onboard.processes.engine_opening import open_until_right, rest, shipped_engine
from onboard.processes.heartbeat import HeartbeatWriter
from onboard.processes.model_choice import ModelChoice
from onboard.processes.power_gate import PowerGate
from onboard.processes.scene_run import SceneObserver, SceneStopPolicy
from onboard.processes.shadow import Shadow
from onboard.scene.probe import Probes
from onboard.settings import Settings, read_settings

log = logging.getLogger("onboard.processes.worker")  # run as __main__
IDLE_S = 0.2
"""Between two looks for work. A look is one read of the ledger's index, from memory."""
SWEEP_S = 5.0  # between two looks for canvases of cancelled scenes
PREPARING_S = 900.0
"""Longest for what comes before the first batch: digest, probe and statistics of a scene of many gigabytes."""


class Worker:
    """Maps scenes until ``stop`` is set; one thread.

    Args:
        settings: of the service.
        ledger: a connection of this process.
        guard: opens and checks the engine.
        models: which model it opens.
        heartbeat: where heartbeats are written.
        stop: set to end after the batch under way.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        guard: EngineGuard,
        heartbeat: HeartbeatWriter,
        stop: threading.Event,
        *,
        models: ModelChoice,
    ) -> None:
        self.settings, self.ledger, self.guard, self.heartbeat, self.stop = settings, ledger, guard, heartbeat, stop
        self.models = models
        self.shadow = Shadow(settings, ledger)
        self.probes = Probes()
        self.scheduler = SceneScheduler(settings, ledger, self.probes.judge)
        self.telemetry = TelemetryReceiver()
        self.gate = PowerGate(settings, self.telemetry, heartbeat, ledger)
        self._last_shares = LastShares(settings, ledger)
        self._suspect: str | None = None
        self._swept = float("-inf")
        guard.log_event, guard.on_pass = ledger.events.log, heartbeat.engine_checked

    def run(self) -> None:
        """Maps scene after scene; returns when ``stop`` is set."""
        while not self.stop.is_set() and self._open_engine():
            try:
                self._serve()
            except EngineError as error:  # noqa: PERF203 -- once a failure
                self.ledger.events.log("error", "engine-failed", f"{error}; it is opened again from disk")
                self.models.failed(error)
            except StorageError as error:
                # No scene is named while it waits: an end of the worker now is not counted against one.
                log.warning("%s; the worker waits for disk space", error)
                self.heartbeat.change(scene=None)
                self._rest(self.settings.engine_retry_s)
        self.shadow.close()
        self.probes.close()
        self.guard.close()

    def _open_engine(self) -> bool:
        failed = self.models.failed
        self.heartbeat.change(model_id="")
        if not open_until_right(self.settings, self.guard, self.ledger, self.heartbeat, self.stop, failed):
            return False
        self.heartbeat.change(model_id=self.models.opened.id)
        # A scene on which the engine failed, and which computes right now, is not tried for ever.
        suspect, self._suspect = self._suspect, None
        if suspect is not None and self.ledger.scenes.record_crash(suspect, self.settings.max_crashes):
            text = f"the engine failed on it {self.settings.max_crashes} times"
            self.ledger.events.log("error", "scene-quarantined", text, suspect)
        return True

    def _serve(self) -> None:
        """Maps with the open engine until ``stop`` is set, another model's turn comes, or the engine is old enough.

        Raises:
            EngineError: it failed; it is out of service.
            StorageError: the ledger cannot be written.
        """
        # This process maps nothing yet: what is running was begun by a worker that is no more.
        for interrupted in self.ledger.scenes.running():
            self.ledger.scenes.requeue(interrupted.id)
        # Of maps that an earlier worker published and, killed, did not note.
        self._last_shares.note_published()
        while not self.stop.is_set() and not self.guard.reopen_due() and self.models.is_current():
            self.heartbeat.beat()
            self._sweep()
            scene = self.scheduler.next(self.guard.engine.manifest)
            if scene is None:
                # While idle too: a flipped bit is better found before the next scene than after its first tiles.
                if self.guard.check_due():
                    self.guard.check()
                self._rest(IDLE_S)
            elif self.models.fits(scene) and self.ledger.scenes.start(scene.id):
                self._map(scene)

    def _map(self, row: SceneRow) -> None:
        """Maps one scene; its row has another state than "running" afterwards.

        An unforeseen exception ends the worker while the heartbeat still names the scene: the supervisor counts it
        against the scene as it counts a crash.

        Raises:
            EngineError: the engine failed; the scene is queued again.
        """
        settings, manifest = self.settings, self.guard.engine.manifest
        self.heartbeat.begin_scene(row.id)
        self.heartbeat.suspend_watchdog(PREPARING_S)  # digest, probe and statistics have no batches that beat
        energy = SceneEnergy(settings.canvases_dir / row.id)
        energy.take(self.telemetry.last)  # opening and probing the scene count too
        stop = SceneStopPolicy(
            row, self.stop, self.ledger, self.guard, self.scheduler, self.gate, self.heartbeat, self.telemetry, energy
        )
        areas = current_areas(settings, self.ledger)
        compare = functools.partial(self._last_shares.compared, areas=areas, model=manifest.model.sha256)
        observer = SceneObserver(
            row, self.ledger, self.heartbeat, self.telemetry, energy, lambda rows, time: compare(rows, time=time)
        )
        executor = LocalExecutor(
            self._engine(row), stop=stop, health=self.guard, record_stage=self.heartbeat.record_stage
        )
        try:
            request = map_request_of(settings, row, manifest, areas, earlier_maps(settings, self.ledger, row))
            progress, judge = self.heartbeat.record_tiles, self.probes.judge
            summary = map_scene(request, executor, progress, observer=observer, judge=judge)
            self._publish(row, summary, observer.measured)
        # Nothing changes where the scene was cancelled: its state is not "running" any more.
        except MappingStopped:
            self.ledger.scenes.requeue(row.id)
        except EngineError as error:
            self.ledger.scenes.requeue(row.id)
            # Whether the scene is to blame is known when the engine, opened afresh, computes right.
            self._suspect = row.id if isinstance(error, InferenceFailed) else None
            self.heartbeat.change(scene=None)
            raise
        except StorageError as error:
            # A scene that was cancelled meanwhile may have lost its folders: that says nothing of the disk.
            if self.ledger.scenes.requeue(row.id):
                self.ledger.events.log("error", "no-storage", str(error), row.id)
                self.heartbeat.change(scene=None)
                self._rest(settings.engine_retry_s)
        # Only from "running": a scene that was cancelled, and perhaps delivered again, has another attempt before it.
        except InputError as error:
            if self.ledger.scenes.fail(row.id, error.advice, before=("running",)):
                self.ledger.events.log("warning", "scene-failed", error.advice, row.id)
        except OSError:
            if self.ledger.scenes.state_of(row.id) == "running":
                raise
            # It was cancelled, and its files were removed while it was mapped.
        finally:
            energy.note()
            # What is left of it, where it was cancelled while it was mapped.
            erase_scene(settings, self.ledger, row.id)
            erase_canvases(settings, self.ledger)
            self.heartbeat.suspend_watchdog(0)
        self.heartbeat.change(scene=None)

    def _engine(self, row: SceneRow) -> Engine:
        """The engine in service; it computes a share of the tiles twice where that is set, and has a shadow."""
        engine, share, log_event = self.guard.engine, self.settings.recompute_share, self.ledger.events.log
        if share:
            engine = RedundantEngine(engine, share, lambda text: log_event("warning", "tile-recomputed", text, row.id))
        return self.shadow.beside(engine)

    def _publish(self, row: SceneRow, summary: MapSummary, measured: Mapping[str, Any]) -> None:
        """Adds the published map to the ledger, then removes the scene's file."""
        # Read back from the disk, with its digests: what is listed is what lies there.
        map_row = map_row_of(summary.folder)
        if map_row is None:
            raise StorageError(summary.folder, "the published map cannot be read back", "look at the disk")
        priority = most_urgent(row.priority, map_row.priority)
        if not self.ledger.maps.finish(replace(map_row, priority=priority), figures_of(summary, measured)):
            return  # cancelled just now; if it is queued again, the next attempt finds the map that stands
        log.info("mapped %s %r: %s", row.id, row.name, mapped_line(summary, measured))
        if warning := summary.familiarity.warning:
            self.ledger.events.log("warning", "map-unfamiliar", warning, row.id)
        self.heartbeat.change(scenes_total=self.heartbeat.state.scenes_total + 1)
        self.models.mapped(shares_of(summary, self.guard.engine.manifest), row.id)
        self.shadow.end_scene(row.id)
        # Last: until the map is listed, the scene's file is all that it could be made of again.
        if not self.settings.keep_scenes:
            erase_scene_file(self.settings, self.ledger, row.id)
        self._last_shares.note_published()

    def _sweep(self) -> None:
        """Removes canvases of scenes that were cancelled while they waited."""
        if time.monotonic() - self._swept >= SWEEP_S:
            self._swept = time.monotonic()
            erase_canvases(self.settings, self.ledger)

    def _rest(self, seconds: float) -> None:
        rest(seconds, self.heartbeat.beat, self.stop)


def work(
    settings: Settings,
    open_engine: Callable[[Settings], Engine],
    heartbeat: int | None,
    telemetry: Iterable[bytes] = (),
) -> None:
    """Runs the worker until SIGTERM or SIGINT.

    Args:
        settings: of the service.
        open_engine: opens and verifies the engine of the model that settings name.
        heartbeat: descriptor that heartbeats are written to; None for a worker that nobody watches.
        telemetry: lines of the sampling process.

    Raises:
        AlreadyRunning: another worker holds the data folder.
    """
    with hold_data_folder(settings, WORKER_LOCK):
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        if heartbeat is not None:
            os.set_blocking(heartbeat, False)  # mapping goes on while nobody reads the heartbeats
        writer = HeartbeatWriter(heartbeat)
        # The first line: from here on the supervisor counts silence by the usual limit, not by that of a start.
        writer.beat(force=True)
        with Ledger(settings.ledger_path) as ledger:
            models = ModelChoice(settings, ledger, open_engine)
            guard = EngineGuard(models.open, CheckSchedule.of(settings), prepare=lambda: load_runtime(settings.backend))
            worker = Worker(settings, ledger, guard, writer, stop, models=models)
            receive = worker.telemetry.listen
            # Daemon: at the end it still waits for the supervisor's next line.
            threading.Thread(target=receive, args=(telemetry,), name="telemetry", daemon=True).start()
            worker.run()


def main(open_engine: Callable[[Settings], Engine] = shipped_engine) -> None:
    """Started by the supervisor: `python -m onboard.processes.worker --parent PID --heartbeat FD`."""

    def run(heartbeat: int | None) -> None:
        settings = read_settings()
        work(settings, open_engine, heartbeat, lines_of(STDIN))

    run_child("worker", "--heartbeat", run)


if __name__ == "__main__":
    main()
