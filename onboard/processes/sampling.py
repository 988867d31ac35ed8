"""The sampling process: `python -m onboard.processes.sampling --parent PID --out FD`; heartbeats on standard input.

A process of its own: a sensor's bus may hang, and neither the API nor the mapping may wait for it. It writes the
history, reports the last values twice a second, and writes events: throttling, over-current, sources lost and found.
"""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from onboard.errors import StorageError
from onboard.jobs.ledger import Ledger
from onboard.power.governor import makes_wait
from onboard.power.idle_power import calibrated_idle_w
from onboard.power.receiver import TelemetryMessage
from onboard.processes.child import STDIN, lines_of, run_child
from onboard.processes.heartbeat import Heartbeat, heartbeat_of
from onboard.settings import Settings, read_settings
from telemetry.discover import SCOPES, Source, main_rail, measured_period_s, scope_of, sources
from telemetry.history import History
from telemetry.readings import Reading, field_of
from telemetry.sampler import Sample, Sampler
from telemetry.sources.jtop import Jtop
from telemetry.sources.nvpmodel import power_mode
from telemetry.sources.thermal import hottest_of

log = logging.getLogger(__name__)
REPORT_S = 0.5
MODE_S = 10.0
"""Between two looks at the power mode, which changes when somebody changes it."""
MODE_AGAIN_S = 60.0
"""Until a power mode that could not be asked for is asked for again: jtop may not have answered yet."""
_TEXT = 48


@dataclass
class Sampling:
    """The work of the sampling process for each sample.

    Attributes:
        settings: of the service.
        sampler: with its sources.
        history: written here only.
        ledger: for events.
        out: pipe that lines go to.
        modes: power modes that the governor may ask for.
    """

    settings: Settings
    sampler: Sampler
    history: History
    ledger: Ledger
    out: int
    modes: tuple[str, ...] = ()
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    _tiles: tuple[float, int] | None = None
    _reported_s: float = float("-inf")
    _refreshed_s: float = float("-inf")
    _mode: str = ""
    _asked: tuple[str, str] = ("", "")
    _asked_s: float = float("-inf")
    _main: str = ""
    _main_scope: int = 0
    _main_problem: str = ""
    _problems: dict[str, str] = field(default_factory=dict)
    _is_measuring: dict[str, bool] = field(default_factory=dict)
    _history_lost: bool = False
    _throttling: bool = False
    _held_back: dict[str, bool] = field(default_factory=dict)
    _overcurrent: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.sampler.listeners.append(self.take)

    def take(self, sample: Sample) -> None:
        """Writes a sample to the history; every REPORT_S reports it, and writes events for what changed."""
        values = sample.values()
        self.history.add({**values, **self._work(sample.monotonic_s)})
        # Everything below is for twice a second: at ten samples a second only the history is written.
        if sample.monotonic_s - self._reported_s < REPORT_S:
            return
        self._reported_s = sample.monotonic_s
        latest = self.sampler.latest
        self._refresh(sample.monotonic_s)
        self._note(latest)
        self._set_mode(sample.monotonic_s)
        self._report(sample.monotonic_s, latest)

    def _work(self, now: float) -> dict[str, float]:
        """Tiles a second and whether work is under way, once a second; a pause of the governor's is no work."""
        if self._tiles is not None and now - self._tiles[0] < 1.0:
            return {}
        before, total = self._tiles, self.heartbeat.tiles_total
        self._tiles = (now, total)
        if before is None:
            return {}
        done = total - before[1] if total >= before[1] else total  # a new worker counts from 0
        return {"work:tiles_per_s": done / (now - before[0]), "work:busy": float(_is_working(self.heartbeat))}

    def _refresh(self, now: float) -> None:
        """Reads the power mode, chooses the main rail, and collects the problems of the sources, every MODE_S."""
        if now - self._refreshed_s < MODE_S:
            return
        self._refreshed_s = now
        self._problems = {source.name: source.state().problem[:_TEXT] or "lost" for source in self.sampler.sources}
        self._mode = power_mode(self.settings.telemetry_root)[0] or ""
        power = [reading for reading in self.sampler.latest.values() if reading.quantity == "power_w"]
        best = main_rail(power)
        # A narrower rail takes no wider one's place: a limit for the machine is not kept by what its GPU draws.
        if best is not None and (not self._main or SCOPES.index(scope_of(best)) <= self._main_scope):
            self._main, self._main_problem = field_of(best.quantity, best.rail), ""
            self._main_scope = SCOPES.index(scope_of(best))
        elif not self._main:
            reasons = [reading.reason for reading in power] or [
                source.state().problem for source in self.sampler.sources[:2]
            ]
            self._main_problem = "; ".join(dict.fromkeys(reasons)) or "no source of power"

    def _note(self, latest: dict[str, Reading]) -> None:
        """Writes events for sources lost and found, the history, throttling and over-current."""
        for source in self.sampler.sources:
            measures = self.sampler.measuring.get(source.name, False)
            was_measuring = self._is_measuring.get(source.name)
            self._is_measuring[source.name] = measures
            if was_measuring is True and not measures:
                reasons = (reading.reason for reading in latest.values() if reading.source == source.name)
                why = source.state().problem or next(filter(None, reasons), "it gives no value")
                self._event("warning", "source-lost", f"{source.name} measures nothing any more: {why}")
            elif was_measuring is False and measures:
                self._event("info", "source-found", f"{source.name} measures again")
        while self.history.renewals:
            self._event("warning", "history-renewed", self.history.renewals.pop(0))
        if bool(self.history.problem) != self._history_lost:
            self._history_lost = bool(self.history.problem)
            if self._history_lost:
                self._event("warning", "history-lost", self.history.problem)
            else:
                self._event("info", "history-kept", "history is written again")
        self._note_throttling([reading for reading in latest.values() if reading.quantity == "throttle_state"])
        for reading in latest.values():
            if reading.quantity == "over_current_events" and reading.value is not None:
                increase = reading.value - self._overcurrent.get(reading.rail, reading.value)
                if increase > 0:
                    text = f"{reading.rail}: {increase:.0f} more, {reading.value:.0f} since power-on"
                    self._event("warning", "over-current", text)
                self._overcurrent[reading.rail] = reading.value

    def _note_throttling(self, states: list[Reading]) -> None:
        """Throttling ends only by a measurement: a zone that cannot be read any more keeps its last state."""
        self._throttling = any(reading.value for reading in states)
        was_throttling = any(self._held_back.values()) if self._held_back else None
        self._held_back |= {reading.rail: reading.value > 0 for reading in states if reading.value is not None}
        held_back = [rail for rail, holds in self._held_back.items() if holds]
        if was_throttling is False and held_back:
            self._event("warning", "throttling-began", f"the board holds itself back: {', '.join(held_back)}")
        elif was_throttling and not held_back:
            self._event("info", "throttling-ended", "the board runs free again")

    def _set_mode(self, now: float) -> None:
        """Asks jtop's service for the mode that the governor wants, once for each wish, and again where it failed."""
        wanted = self.heartbeat.wanted_mode
        mode, problem = self._asked
        if not wanted or wanted == self._mode:
            return
        # A mode that the service refuses would be asked for twice a second.
        if wanted == mode and (not problem or now - self._asked_s < MODE_AGAIN_S):
            return
        jtop = next((source for source in self.sampler.sources if isinstance(source, Jtop)), None)
        problem = "there is no jtop here" if jtop is None else jtop.set_mode(wanted, self.modes)
        before, self._asked, self._asked_s = self._asked, (wanted, problem), now
        if self._asked == before:
            return
        if problem:
            self._event("warning", "power-mode", f"{wanted} could not be asked for: {problem}")
        else:
            self._event("info", "power-mode", f"{wanted} was asked for by the governor")

    def _report(self, now: float, latest: dict[str, Reading]) -> None:
        hottest = hottest_of(list(latest.values()))
        # Rounded and cut: the line must stay under PIPE_BUF to be written whole (docs/decisions/0006).
        message = TelemetryMessage(
            monotonic_s=round(now, 3), utc_s=round(time.time(), 3), tick=self.history.tick,
            readings=[
                (reading.quantity, reading.rail, reading.source, _six_digits(reading.value), reading.reason[:_TEXT])
                for reading in latest.values()
            ],
            energy={
                name: (round(e.joules, 4), round(e.covered_s, 5), round(e.gap_s, 3), _six_digits(e.peak_w))
                for name, e in self.sampler.energy.items()
            },
            began_s=self._began, main=self._main, main_problem=self._main_problem[:160],
            hottest_c=_six_digits(hottest.value), throttling=self._throttling, mode=self._mode,
            sources={
                name: "" if is_measuring else self._problems.get(name, "lost")
                for name, is_measuring in self._is_measuring.items()
            },
            idle_w=calibrated_idle_w(self.settings, self._main),
        )  # fmt: skip
        # A supervisor that is slow or gone loses a line; sampling goes on.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self.out, message.line())

    def _event(self, severity: str, kind: str, text: str) -> None:
        try:
            self.ledger.events.log(severity, kind, text)
        # LedgerDamaged passes: it ends this process by its exit code, and the supervisor builds the ledger again.
        except StorageError as error:
            log.warning("%s: %s (%s)", kind, text, error)


def _is_working(heartbeat: Heartbeat) -> bool:
    """Whether a scene is being mapped and the governor does not make it wait."""
    return heartbeat.scene is not None and not makes_wait(heartbeat.governor, heartbeat.governor_why)


def _six_digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def sample(settings: Settings, out: int, available: list[Source] | None = None) -> None:
    """Samples until SIGTERM, SIGINT, or the end of the input."""
    # A pipe that nobody reads must not stop the history.
    os.set_blocking(out, False)
    modes = tuple(name.strip() for name in settings.power_modes.split(",") if name.strip())
    measured = (
        # jtop is started to set modes; None leaves it to discovery, which starts it where the INA3221 cannot be read.
        available if available is not None else sources(settings.telemetry_root, with_jtop=True if modes else None)
    )
    for source in measured:
        if source.period_s < 1.0 and source.read():
            # A sensor that averages over longer than we ask would give every value twice.
            source.period_s = max(source.period_s, measured_period_s(source) or 0.0)
    sampler = Sampler(measured, interval_s=1 / settings.sample_hz)
    # A connection belongs to the thread that makes it: sampling happens on this one.
    with Ledger(settings.ledger_path) as ledger:
        history = _history(settings, ledger)
        sampling = Sampling(settings, sampler, history, ledger, out, modes)

        def listen() -> None:
            for line in lines_of(STDIN):
                heartbeat = heartbeat_of(line)
                if heartbeat is not None:
                    sampling.heartbeat = heartbeat
            # The input's end: the supervisor is gone.
            sampler.stop()

        threading.Thread(target=listen, name="beats", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sampler.stop())
        sampler.run()
        history.close()


def _history(settings: Settings, ledger: Ledger) -> History:
    """The history on the disk, or in memory: a full disk must not stop the measurements that the governor needs."""
    try:
        return History(settings.telemetry_dir / "history.sqlite")
    except (sqlite3.Error, OSError) as error:
        log.warning("history: %s", error)
        with suppress(StorageError):
            ledger.events.log(
                "warning", "history-off", f"the history cannot be saved ({error}); it is tried again at the next start"
            )
        return History(Path(":memory:"))


def main() -> None:
    """Started by the supervisor."""

    def live(out: int | None) -> None:
        sample(read_settings(), os.open(os.devnull, os.O_WRONLY) if out is None else out)

    run_child("sampling", "--out", live)


if __name__ == "__main__":
    main()
