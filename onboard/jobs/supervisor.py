"""`onboard serve`: one process that starts API, worker and sampling, watches them, and starts them again.

The worker writes heartbeats, sampling writes measurements; each line goes on to the others through their inputs.

It opens no scene, no engine and no socket, so there is little that could kill it; when it ends, its children end with
it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from onboard.errors import AlreadyRunning, StorageError
from onboard.jobs.heartbeat import Heartbeat, heartbeat_of
from onboard.jobs.kind import MapKind
from onboard.jobs.ledger import Ledger
from onboard.jobs.reconcile import open_ledger, reconcile
from onboard.settings import Settings

log = logging.getLogger(__name__)
LOCK_FILE = "supervisor.lock"
GRACE_S = 30.0
"""For a batch to finish and its canvas to be synced."""
_TURN_S = 0.1


@dataclass
class Child:
    """A process that is kept running.

    Attributes:
        name: "worker", "sampling" or "api".
        command: without the options that each start adds.
        out_option: option for the pipe that it writes lines to; None: it writes none.
        pause_s: before the next start; doubles with each death, up to ``most_s``, and falls back after a long life.
    """

    name: str
    command: Sequence[str]
    out_option: str | None
    first_s: float
    most_s: float
    process: subprocess.Popen[bytes] | None = None
    pause_s: float = field(init=False)
    started: float = 0.0
    due: float = 0.0
    pipe: int = -1
    rest: bytes = b""
    heard: float = 0.0

    def __post_init__(self) -> None:
        self.pause_s = self.first_s

    def died(self, now: float) -> str:
        """Notes the death; says how."""
        code = self.process.returncode if self.process is not None else 0
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        if self.pipe >= 0:
            os.close(self.pipe)
        self.process, self.pipe = None, -1
        if now - self.started > 2 * self.most_s:
            self.pause_s = self.first_s
        self.due = now + self.pause_s
        self.pause_s = min(2 * self.pause_s, self.most_s)
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class Supervisor:
    """Runs until told to stop by SIGTERM or SIGINT.

    Args:
        settings: of the service; children read the same environment.
        worker: command of the worker.
        api: command of the API; None starts none.
        sampling: command of the sampling process; None starts none.
    """

    def __init__(
        self,
        settings: Settings,
        worker: Sequence[str],
        api: Sequence[str] | None,
        sampling: Sequence[str] | None = None,
    ) -> None:
        self.settings = settings
        first, most = settings.restart_s, settings.restart_most_s
        self.worker = Child("worker", worker, "--heartbeat", first, most)
        self.children = [self.worker]
        if sampling is not None:
            self.children.append(Child("sampling", sampling, "--out", first, most))
        if api is not None:
            self.children.append(Child("api", api, None, first, most))
        self.stopping = False
        self._last: Heartbeat | None = None
        self._suspect: str | None = None

    def run(self) -> None:
        """Serves until told to stop.

        Raises:
            AlreadyRunning: another service works in the data folder.
            LedgerDamaged: no ledger can be made there.
        """
        lock = self._lock()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            with open_ledger(self.settings) as ledger:
                reconcile(self.settings, ledger, MapKind.of(self.settings))
                while not self.stopping:
                    self._turn(ledger)
        finally:
            self._end_children()
            os.close(lock)

    def _turn(self, ledger: Ledger) -> None:
        """One look at everything; waits a little for heartbeats."""
        now = time.monotonic()
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                self._bury(ledger, child, now)
            if child.process is None and now >= child.due:
                self._start(child, now)
        self._listen(ledger)
        for child in self.children:
            silent = time.monotonic() - child.heard
            if child.process is not None and child.pipe >= 0 and silent > self.settings.heartbeat_timeout_s:
                text = f"the {child.name} said nothing for {silent:.0f} s and was killed"
                _tell(ledger, f"{child.name}-silent", text, self._scene if child is self.worker else None)
                child.process.kill()
                with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is not waited for
                    child.process.wait(5)
                child.heard = time.monotonic()

    @property
    def _scene(self) -> str | None:
        return None if self._last is None else self._last.scene

    def _start(self, child: Child, now: float) -> None:
        child.started = child.heard = now
        command = [*child.command, "--parent", str(os.getpid())]
        # None of the child's output is read by us: it goes where ours goes.
        if child.out_option is None:
            child.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        else:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reading, False)
            command += [child.out_option, str(writing)]
            child.process = subprocess.Popen(command, pass_fds=[writing], stdin=subprocess.PIPE)
            os.close(writing)
            child.pipe, child.rest = reading, b""
        if child is self.worker:
            self._last = None
        if child.process.stdin is not None:
            os.set_blocking(child.process.stdin.fileno(), False)
        log.info("%s started, process %d", child.name, child.process.pid)

    def _bury(self, ledger: Ledger, child: Child, now: float) -> None:
        """A child has ended though nobody told it to."""
        if child is self.worker:
            self._listen(ledger)
            # Whether the scene is to blame is known when another worker has found the engine right.
            self._suspect = self._scene or self._suspect
        about = self._scene if child is self.worker else None
        how = child.died(now)
        _tell(ledger, f"{child.name}-died", f"the {child.name} ended ({how}); it is started again", about)
        log.error("%s ended (%s)", child.name, how)

    def _listen(self, ledger: Ledger) -> None:
        """Takes lines as they come and hands them on."""
        telling = [child for child in self.children if child.pipe >= 0]
        if not telling:
            time.sleep(_TURN_S)
            return
        with selectors.DefaultSelector() as selector:
            for child in telling:
                selector.register(child.pipe, selectors.EVENT_READ, child)
            ready = selector.select(_TURN_S)
        ended = [self._hear(ledger, key.data) for key, _ in ready]
        if ended and all(ended):
            time.sleep(_TURN_S)  # a child is gone: its end is seen in the next turn

    def _hear(self, ledger: Ledger, child: Child) -> bool:
        """Takes what a child has written; True at its end."""
        data = os.read(child.pipe, 1 << 16)
        if not data:
            return True
        *lines, child.rest = (child.rest + data).split(b"\n")
        for line in lines:
            child.heard = time.monotonic()
            self._hand_on(child, line)
            beat = heartbeat_of(line) if child is self.worker else None
            if beat is None:
                continue
            self._last = beat
            if beat.engine == "ready" and self._suspect is not None:
                self._blame(ledger, self._suspect)
                self._suspect = None
        return False

    def _blame(self, ledger: Ledger, scene_id: str) -> None:
        try:
            over = ledger.record_death(scene_id, self.settings.deaths)
        except StorageError as error:
            log.warning("%s: a death was not counted", error)
            return
        if over:
            _tell(ledger, "scene-quarantined", f"the worker died on it {self.settings.deaths} times", scene_id)

    def _hand_on(self, source: Child, line: bytes) -> None:
        for child in self.children:
            process = child.process
            if child is source or process is None or process.stdin is None:
                continue
            with suppress(BlockingIOError, BrokenPipeError, ValueError):
                os.write(process.stdin.fileno(), line + b"\n")

    def _stop(self, _: int, __: FrameType | None) -> None:
        self.stopping = True

    def _end_children(self) -> None:
        """Asks them to end, then makes them."""
        running = [child.process for child in reversed(self.children) if child.process is not None]
        for process in running:
            with suppress(ProcessLookupError):
                process.terminate()
        end = time.monotonic() + GRACE_S
        for process in running:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:  # noqa: PERF203 -- there are two of them
                process.kill()
                process.wait()

    def _lock(self) -> int:
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.settings.data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise AlreadyRunning(self.settings.data_dir) from None
        return lock


def _tell(ledger: Ledger, kind: str, text: str, about: str | None) -> None:
    """An event, or at least a line in the log: a full disk must not end the supervisor."""
    try:
        ledger.tell("error", kind, text, about)
    except StorageError as error:
        log.warning("%s: %s (%s)", kind, text, error)


def serve(settings: Settings) -> None:
    """Supervises the shipped worker, API and sampling.

    Raises:
        AlreadyRunning, LedgerDamaged: see :meth:`Supervisor.run`.
    """
    worker = [sys.executable, "-m", "onboard.jobs.worker"]
    api = [sys.executable, "-m", "onboard.api.serve"]
    sampling = [sys.executable, "-m", "onboard.jobs.sampling"]
    Supervisor(settings, worker, api, sampling).run()
