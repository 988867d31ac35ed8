"""Opens the worker's engine, and tries again for as long as it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engines.engine import Engine
from engines.errors import EngineError, OpeningRefused
from onboard.jobs.heads import usual_heads
from onboard.jobs.ledger import Ledger
from onboard.processes.engine_guard import EngineGuard
from onboard.processes.heartbeat import HeartbeatWriter
from onboard.processes.recovery import Recovery
from onboard.settings import Settings

OPENING_S = 3600.0
"""Longest for one try: TensorRT builds for minutes, and what it has timed is kept only at the end.

Other threads go on meanwhile: its binding gives up the interpreter's lock (NVIDIA/TensorRT, pyCore.cpp).
"""


def open_until_right(
    settings: Settings,
    guard: EngineGuard,
    ledger: Ledger,
    heartbeat: HeartbeatWriter,
    stop: threading.Event,
    failed: Callable[[EngineError], bool] = lambda _: False,
) -> bool:
    """Returns True once an engine is open that computes right, False if ``stop`` is set before.

    While it is lost, scenes wait, the heartbeat says why, and the operator's recovery command is run (see
    :class:`Recovery`). ``failed`` is told of each failure, and says whether another model is to be tried at once.
    """
    recovery = Recovery(
        settings.recovery_command, settings.recovery_interval_minutes, settings.data_dir / "recovery.json"
    )
    has_failed = False
    while not stop.is_set():
        heartbeat.suspend_watchdog(OPENING_S)
        try:
            engine = guard.open()
        except EngineError as error:
            heartbeat.suspend_watchdog(0)
            heartbeat.change(engine="lost", engine_problem=str(error))
            # One event for the whole outage: tries every half minute would push older events out.
            if not has_failed:
                ledger.events.log("error", "engine-lost", f"{error}; scenes wait, it is tried again")
            has_failed = True
            # Another model's turn: it is opened at once, and no recovery command is run for this one.
            if failed(error):
                continue
            # A reboot does not correct a wrong setting.
            if not isinstance(error, OpeningRefused) and recovery.attempt():
                ledger.events.log("warning", "recovery", f"ran {settings.recovery_command}")
            rest(settings.engine_retry_s, heartbeat.beat, stop)
            continue
        heartbeat.suspend_watchdog(0)
        heartbeat.change(
            engine="ready", engine_problem="", backend=engine.backend, precision=engine.precision,
            model=f"{engine.manifest.name} {engine.manifest.version}",
        )  # fmt: skip
        if has_failed:
            ledger.events.log("info", "engine-reloaded", "the engine passes its checks again")
        return True
    return False


def shipped_engine(settings: Settings) -> Engine:
    """Opens the engine that the settings name; raises as :func:`engines.open.open_engine` does."""
    from engines.manifest import Manifest
    from engines.open import manifest_path, open_engine

    manifest = usual_heads(Manifest.load(manifest_path(settings.model)), settings)
    return open_engine(
        settings.model, heads=[head.name for head in manifest.opened_heads],
        backend=settings.backend, threads=settings.threads, max_batch=max(settings.batch, 1),
        built=settings.data_dir / "engines", build=settings.build_engine, choices=settings.data_dir / "backends.json",
    )  # fmt: skip


def rest(seconds: float, beat: Callable[[], None], stop: threading.Event) -> None:
    """Waits, with heartbeats, for so long or until ``stop`` is set."""
    end = time.monotonic() + seconds
    while not stop.is_set() and (left := end - time.monotonic()) > 0:
        # Waiting for the next try is no hang: the supervisor must hear so, or it kills the worker.
        beat()
        stop.wait(min(left, 0.5))
