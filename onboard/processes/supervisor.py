"""`onboard serve`: one process that starts API, worker and sampling, watches them, and starts them again.

Every child writes lines through a pipe, and one that falls silent is killed. The worker's lines are heartbeats,
sampling's are measurements: these go on to the others through their inputs; the API's only say that it answers.

The supervisor opens no scene and no engine, serves no socket and waits for no lock, so there is little that could kill
or stop it: it kills first and writes into the ledger later. systemd watches the supervisor itself. When it ends, its
children end with it.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from onboard.errors import OnboardError, OptionsRefused
from onboard.jobs.data_folder import SUPERVISOR_LOCK, check_data_folder, hold_data_folder
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.reconcile import open_ledger, reconcile
from onboard.models.active import active_model
from onboard.models.failures import count_crash
from onboard.models.reconcile import reconcile_models
from onboard.models.under_way import model_under_way
from onboard.processes.child import DAMAGED, REFUSED, UNFORESEEN
from onboard.processes.deferred_writes import TIMEOUT_S, DeferredWrites
from onboard.processes.heartbeat import Heartbeat, heartbeat_of
from onboard.processes.systemd import Systemd
from onboard.settings import Settings

log = logging.getLogger(__name__)
GRACE_S = 30.0
"""For a batch to finish and its canvas to be synced."""
STARTING_S = 60.0
"""Longest until a child's first line: Python and its libraries are loaded from a busy disk."""
_TURN_S = 0.1
_LONGEST_LINE = 1 << 16
_PAUSE_S = 0.5
"""After a turn that failed."""
_STOOD_SHARE = 0.5
"""Of the longest silence: a turn that comes later than this after the one before was held up, as children were."""


@dataclass
class Child:
    """A process that is kept running.

    Attributes:
        name: "worker", "sampling" or "api".
        command: without the options that each start adds.
        out_option: option for the pipe that it writes lines to.
        is_shared: its lines go on to the others.
        pause_s: before the next start; doubles with each death, up to ``most_s``, and falls back after a long life.
    """

    name: str
    command: Sequence[str]
    out_option: str
    is_shared: bool
    first_s: float
    most_s: float
    process: subprocess.Popen[bytes] | None = None
    pause_s: float = field(init=False)
    started: float = 0.0
    due: float = 0.0
    pipe: int = -1
    rest: bytes = b""
    heard: float = 0.0
    has_spoken: bool = False
    was_ever_heard: bool = False

    def __post_init__(self) -> None:
        self.pause_s = self.first_s

    def limit_s(self, timeout_s: float) -> float:
        """Longest silence that is not yet a failure."""
        return timeout_s if self.has_spoken else max(timeout_s, STARTING_S)

    def died(self, now: float) -> str:
        """Records the end of the process and sets the time of the next start; returns how it ended."""
        code = self.process.returncode if self.process is not None else 0
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        if self.pipe >= 0:
            os.close(self.pipe)
        self.process, self.pipe = None, -1
        # It lived long: whatever ended it is not what ended it before, so the next start need not wait.
        if now - self.started > 2 * self.most_s:
            self.pause_s = self.first_s
        self.due = now + self.pause_s
        self.pause_s = min(2 * self.pause_s, self.most_s)
        return f"signal {_signal_name(-code)}" if code < 0 else f"exit code {code}"


class Supervisor:
    """Runs until SIGTERM or SIGINT.

    Args:
        settings: of the service; children read the same environment.
        worker: command of the worker.
        api: command of the API; None starts none.
        sampling: command of the sampling process; None starts none.
        before_start: looks, once the folder is ours, at what else would stop a child.
    """

    def __init__(
        self,
        settings: Settings,
        worker: Sequence[str],
        api: Sequence[str] | None,
        sampling: Sequence[str] | None = None,
        before_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        first_s, max_s = settings.restart_delay_s, settings.max_restart_delay_s
        self.worker = Child("worker", worker, "--heartbeat", True, first_s, max_s)
        self.children = [self.worker]
        if sampling is not None:
            self.children.append(Child("sampling", sampling, "--out", True, first_s, max_s))
        if api is not None:
            self.children.append(Child("api", api, "--heartbeat", False, first_s, max_s))
        self.stopping = False
        self._before_start = before_start
        self._systemd = Systemd(os.environ)
        self._last: Heartbeat | None = None
        self._suspect: str | None = None
        self._is_ledger_doubted = False
        self._turned: float | None = None

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT.

        Raises:
            AlreadyRunning: another service works in the data folder.
            FolderUnusable: the data folder cannot be used.
            OptionsRefused: a child cannot work with these settings.
            LedgerDamaged: no ledger can be made there.
        """
        check_data_folder(self.settings)
        # Before the ledger is touched: a second service would queue again what this one's worker is mapping.
        with hold_data_folder(self.settings, SUPERVISOR_LOCK):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            try:
                self._before_start()
                while not self.stopping:
                    self._serve()
            finally:
                self._systemd.stopping()
                self._end_children()
                self._empty_log()

    def _serve(self) -> None:
        """Serves with a ledger that was checked, until a signal stops it or a child finds the ledger damaged."""
        self._is_ledger_doubted = False
        # No child runs: only so may the mark be rewritten and running scenes be queued again.
        self._turned = None
        with open_ledger(self.settings) as ledger:
            self._reconcile(ledger)
            ledger.checkpoint(wait_s=5.0)
        # From here on a connection that hardly waits for its lock: children's silence is measured meanwhile.
        with Ledger(self.settings.ledger_path, TIMEOUT_S) as ledger:
            backlog = DeferredWrites(ledger)
            while not self.stopping and not self._is_ledger_doubted:
                self._turn_safely(backlog)
            self._end_children()
            # After the children have ended nobody holds the lock: what waited is written now.
            backlog.turn()

    def _reconcile(self, ledger: Ledger) -> None:
        settings = self.settings
        reconcile_models(settings, ledger)
        config = MappingConfig.of(settings, active_model(settings, ledger).folder)
        reconcile(settings, ledger, config, lambda row: model_under_way(settings, ledger, row) is not None)

    def _turn_safely(self, backlog: DeferredWrites) -> None:
        try:
            self._turn(backlog)
        # The only end that no restart mends; systemd does not start the service again after it (exit code 2).
        except OptionsRefused:
            raise
        except Exception:
            log.exception("one turn of the supervisor's loop failed; it continues")
            time.sleep(_PAUSE_S)

    def _empty_log(self) -> None:
        """Empties the write-ahead log into the ledger: a flipped bit in the log would lose transactions."""
        if not self.settings.ledger_path.exists():
            return
        try:
            with Ledger(self.settings.ledger_path) as ledger:
                ledger.checkpoint(wait_s=5.0)
        except OnboardError as error:
            log.warning("%s", error)

    def _turn(self, backlog: DeferredWrites) -> None:
        """One turn of the loop: starts, checks and kills children, and waits _TURN_S for their lines.

        Raises:
            OptionsRefused: a child cannot work with these settings.
        """
        now = time.monotonic()
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                self._handle_exit(backlog, child, now)
            if child.process is None and now >= child.due:
                self._start(child, now)
        self._listen(backlog)
        self._forgive_standstill()
        for child in self.children:
            self._kill_if_silent(backlog, child)
        backlog.turn()
        if all(child.has_spoken for child in self.children):
            self._systemd.ready()
        self._systemd.alive()

    def _forgive_standstill(self) -> None:
        """Counts silence anew where this process itself stood still: a paused container, a stopped virtual machine.

        The children stood still too and had no time to write a line since; killing them would count as a crash of the
        scene under way.
        """
        now = time.monotonic()
        before, self._turned = self._turned, now
        if before is None or now - before <= _STOOD_SHARE * self.settings.heartbeat_timeout_s:
            return
        log.warning("everything stood still for %.0f s; the children's silence is counted from now on", now - before)
        for child in self.children:
            child.heard = now

    def _kill_if_silent(self, backlog: DeferredWrites, child: Child) -> None:
        """Kills the child before it writes the event: a child that hangs may hold the lock that the event waits for."""
        silent = time.monotonic() - child.heard
        if child.process is None or silent <= child.limit_s(self.settings.heartbeat_timeout_s):
            return
        child.process.kill()
        text = f"the {child.name} said nothing for {silent:.0f} s and was killed"
        backlog.log_event(f"{child.name}-silent", text, self._scene if child is self.worker else None)
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is not waited for
            child.process.wait(5)
        child.heard = time.monotonic()  # or it is killed and reported again before its end is seen

    @property
    def _scene(self) -> str | None:
        return None if self._last is None else self._last.scene

    def _start(self, child: Child, now: float) -> None:
        # O_CLOEXEC, and pass_fds for the one child: an end inherited by another child would keep the pipe open.
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        command = [*child.command, "--parent", str(os.getpid()), child.out_option, str(writing)]
        try:
            # None of the child's other output is read by us: it goes where ours goes.
            child.process = subprocess.Popen(command, pass_fds=[writing], stdin=subprocess.PIPE)
        except OSError as error:  # no process or memory to be had: that may pass
            os.close(reading)
            child.due = now + child.pause_s
            log.warning("%s cannot be started: %s", child.name, error)
            return
        finally:
            # Ours is closed in any case: else the pipe would not end with the child.
            os.close(writing)
        child.pipe, child.rest, child.has_spoken = reading, b"", False
        child.started = child.heard = now
        if child is self.worker:
            self._last = None  # what its predecessor worked on is no work of this one
        if child.process.stdin is not None:
            # A child that does not read must not stop the supervisor: it loses lines instead.
            os.set_blocking(child.process.stdin.fileno(), False)
        log.info("%s started, process %d", child.name, child.process.pid)

    def _handle_exit(self, backlog: DeferredWrites, child: Child, now: float) -> None:
        """Handles a child that ended by itself: its exit code, the event, and the scene it worked on.

        Raises:
            OptionsRefused: it cannot work with these settings, and never did.
        """
        code = child.process.returncode if child.process is not None else 0
        if child is self.worker:
            self._listen(backlog)  # its last lines, still in the pipe, say which scene it was
            # Whether the scene is to blame is known when another worker has found the engine right.
            self._suspect = self._scene or self._suspect
        about = self._scene if child is self.worker else None
        how = child.died(now)
        if child is self.worker:
            self._blame_model(backlog, code, how)
        if code == REFUSED and not child.was_ever_heard:
            raise OptionsRefused(f"the {child.name} cannot work with these settings", "its own line above says why")
        self._is_ledger_doubted |= code == DAMAGED
        backlog.log_event(f"{child.name}-died", f"the {child.name} ended ({how}); it is started again", about)

    def _listen(self, backlog: DeferredWrites) -> None:
        """Reads lines of the children as they arrive and forwards them."""
        telling = [child for child in self.children if child.pipe >= 0]
        if not telling:
            time.sleep(_TURN_S)
            return
        with selectors.DefaultSelector() as selector:
            for child in telling:
                selector.register(child.pipe, selectors.EVENT_READ, child)
            ready = selector.select(_TURN_S)
        ended = [self._read_lines(backlog, key.data) for key, _ in ready]
        if ended and all(ended):
            time.sleep(_TURN_S)  # a child is gone: its end is seen in the next turn

    def _read_lines(self, backlog: DeferredWrites, child: Child) -> bool:
        """Reads what a child has written; True when its pipe is closed."""
        data = os.read(child.pipe, 1 << 16)
        if not data:
            return True
        *lines, incomplete = (child.rest + data).split(b"\n")
        child.rest = incomplete[-_LONGEST_LINE:]  # a child that ends no line must not fill this process's memory
        for line in lines:
            child.heard = time.monotonic()
            child.has_spoken = child.was_ever_heard = True
            if child.is_shared:
                self._forward(child, line)
            heartbeat = heartbeat_of(line) if child is self.worker else None
            if heartbeat is None:
                continue
            self._last = heartbeat
            if heartbeat.engine == "ready" and self._suspect is not None:
                self._blame(backlog, self._suspect)
                self._suspect = None
        return False

    def _blame(self, backlog: DeferredWrites, scene_id: str) -> None:
        limit = self.settings.max_crashes

        def count(ledger: Ledger) -> None:
            if ledger.scenes.record_crash(scene_id, limit):
                backlog.log_event("scene-quarantined", f"the worker crashed on it {limit} times", scene_id)

        backlog.add(count)

    def _blame_model(self, backlog: DeferredWrites, code: int, how: str) -> None:
        """A model that ends the worker while it is opened, or before it has mapped a scene, goes in the end."""
        is_opening = self._last is not None and self._last.engine != "ready"
        # An exit code is the program's own word, not a runtime's crash; but of what a model raises when it is opened
        # nobody can foresee all (memory that is not there, for one).
        # A worker that has not spoken yet did not come so far.
        if code >= 0 and not (is_opening and code == UNFORESEEN and self.worker.has_spoken):
            return
        limit = self.settings.max_model_failures

        def count(ledger: Ledger) -> None:
            count_crash(ledger, how, limit, while_opening=is_opening)

        backlog.add(count)

    def _forward(self, source: Child, line: bytes) -> None:
        for child in self.children:
            process = child.process
            if child is source or process is None or process.stdin is None:
                continue
            # Whole or not at all (under PIPE_BUF). A child that does not read loses lines; the next ones say the same.
            with suppress(BlockingIOError, BrokenPipeError, ValueError):
                os.write(process.stdin.fileno(), line + b"\n")

    # A signal handler: it sets a flag, and the loop ends between two turns.
    def _stop(self, _: int, __: FrameType | None) -> None:
        self.stopping = True

    def _end_children(self) -> None:
        """Asks them to end, then makes them."""
        # The API first: it should accept nothing more while the worker ends its batch.
        running = [child for child in reversed(self.children) if child.process is not None]
        for child in running:
            if child.process is not None:
                with suppress(ProcessLookupError):
                    child.process.terminate()
        end = time.monotonic() + GRACE_S
        for child in running:
            self._wait_for(child, end)
            child.died(time.monotonic())

    def _wait_for(self, child: Child, end: float) -> None:
        """Until it has ended, or is killed at the end of its time; systemd hears from us meanwhile."""
        process = child.process
        while process is not None and process.poll() is None:
            self._systemd.alive()
            if time.monotonic() >= end:
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TURN_S)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal without a name
        return str(number)


def serve(settings: Settings, before_start: Callable[[], None] = lambda: None) -> None:
    """Supervises the shipped worker, API and sampling; see :class:`Supervisor`.

    Raises:
        AlreadyRunning, FolderUnusable, OptionsRefused, LedgerDamaged: see :meth:`Supervisor.run`.
    """
    worker = [sys.executable, "-m", "onboard.processes.worker"]
    api = [sys.executable, "-m", "onboard.api.serve"]
    sampling = [sys.executable, "-m", "onboard.processes.sampling"]
    Supervisor(settings, worker, api, sampling, before_start).run()
