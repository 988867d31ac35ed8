"""The sampling process: `python -m onboard.jobs.sampling --parent PID --out FD`, the worker's heartbeats on its input.

A process of its own: a sensor's bus may hang, and neither the API nor the mapping may wait for it. It writes the
history, tells the last values twice a second, and notes events: throttling, over-current, sources lost and found.
"""

from __future__ import annotations

import json
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
from onboard.jobs.child import run_child
from onboard.jobs.governor import makes_wait
from onboard.jobs.heartbeat import Heartbeat, heartbeat_of
from onboard.jobs.ledger import Ledger
from onboard.jobs.lines import STDIN, lines_of
from onboard.jobs.measured import Measured
from onboard.settings import Settings, read_settings
from telemetry.discover import Source, main_rail, measured_period_s, sources
from telemetry.history import History
from telemetry.readings import Reading, field_of
from telemetry.sampler import Sample, Sampler
from telemetry.sources.jtop import Jtop
from telemetry.sources.nvpmodel import power_mode
from telemetry.sources.thermal import hottest_of

log = logging.getLogger(__name__)
TELL_S = 0.5
MODE_S = 10.0
"""Between two looks at the power mode, which changes when somebody changes it."""
_TEXT = 48


@dataclass
class Sampling:
    """Everything the process does, a sample at a time.

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
    beat: Heartbeat = field(default_factory=Heartbeat)
    _tiles: tuple[float, int] | None = None
    _told: float = float("-inf")
    _looked: float = float("-inf")
    _mode: str = ""
    _asked_mode: str = ""
    _main: str = ""
    _main_problem: str = ""
    _problems: dict[str, str] = field(default_factory=dict)
    _found: dict[str, bool] = field(default_factory=dict)
    _history_lost: bool = False
    _throttling: bool = False
    _held_back: dict[str, bool] = field(default_factory=dict)
    _overcurrent: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.sampler.listeners.append(self.take)

    def take(self, sample: Sample) -> None:
        """Keeps a sample, and tells what is new in it."""
        values = sample.values()
        self.history.add({**values, **self._work(sample.monotonic_s)})
        if sample.monotonic_s - self._told < TELL_S:
            return
        self._told = sample.monotonic_s
        latest = self.sampler.latest
        self._look(sample.monotonic_s)
        self._note(latest)
        self._set_mode()
        self._tell(sample.monotonic_s, latest)

    def _work(self, now: float) -> dict[str, float]:
        """Tiles a second and whether work is under way, once a second; a pause of the governor's is no work."""
        if self._tiles is not None and now - self._tiles[0] < 1.0:
            return {}
        before, total = self._tiles, self.beat.tiles_total
        self._tiles = (now, total)
        if before is None:
            return {}
        done = total - before[1] if total >= before[1] else total  # a new worker counts from 0
        return {"work:tiles_per_s": done / (now - before[0]), "work:busy": float(_works(self.beat))}

    def _look(self, now: float) -> None:
        """Mode, and which rail counts: seldom."""
        if now - self._looked < MODE_S:
            return
        self._looked = now
        self._problems = {source.name: source.state().problem[:_TEXT] or "lost" for source in self.sampler.sources}
        self._mode = power_mode(self.settings.telemetry_root)[0] or ""
        power = [one for one in self.sampler.latest.values() if one.quantity == "power_w"]
        best = main_rail(power)
        if best is not None:
            self._main, self._main_problem = field_of(best.quantity, best.rail), ""
        elif not self._main:
            reasons = [one.reason for one in power] or [source.state().problem for source in self.sampler.sources[:2]]
            self._main_problem = "; ".join(dict.fromkeys(reasons)) or "no source of power"

    def _note(self, latest: dict[str, Reading]) -> None:
        """Events, where something began or ended."""
        for source in self.sampler.sources:
            own = [one for one in latest.values() if one.source == source.name]
            found = any(one.value is not None for one in own)
            before = self._found.get(source.name)
            self._found[source.name] = found
            if before is True and not found:
                why = source.state().problem or own[0].reason
                self._event("warning", "source-lost", f"{source.name} measures nothing any more: {why}")
            elif before is False and found:
                self._event("info", "source-found", f"{source.name} measures again")
        while self.history.renewals:
            self._event("warning", "history-renewed", self.history.renewals.pop(0))
        if bool(self.history.problem) != self._history_lost:
            self._history_lost = bool(self.history.problem)
            if self._history_lost:
                self._event("warning", "history-lost", self.history.problem)
            else:
                self._event("info", "history-kept", "history is written again")
        self._note_throttling([one for one in latest.values() if one.quantity == "throttle_state"])
        for one in latest.values():
            if one.quantity == "over_current_events" and one.value is not None:
                more = one.value - self._overcurrent.get(one.rail, one.value)
                if more > 0:
                    text = f"{one.rail}: {more:.0f} more, {one.value:.0f} since power-on"
                    self._event("warning", "over-current", text)
                self._overcurrent[one.rail] = one.value

    def _note_throttling(self, states: list[Reading]) -> None:
        """An end is one that was measured: what nobody can read any more stands as it was read last."""
        self._throttling = any(one.value for one in states)
        before = any(self._held_back.values()) if self._held_back else None
        self._held_back |= {one.rail: one.value > 0 for one in states if one.value is not None}
        held_back = [rail for rail, holds in self._held_back.items() if holds]
        if before is False and held_back:
            self._event("warning", "throttling-began", f"the board holds itself back: {', '.join(held_back)}")
        elif before and not held_back:
            self._event("info", "throttling-ended", "the board runs free again")

    def _set_mode(self) -> None:
        """Asks jtop's service for the mode that the governor wants, once for each wish."""
        wanted = self.beat.wanted_mode
        if not wanted or wanted in (self._asked_mode, self._mode):
            return
        self._asked_mode = wanted
        jtop = next((source for source in self.sampler.sources if isinstance(source, Jtop)), None)
        problem = "there is no jtop here" if jtop is None else jtop.set_mode(wanted, self.modes)
        if problem:
            self._event("warning", "power-mode", f"{wanted} could not be asked for: {problem}")
        else:
            self._event("info", "power-mode", f"{wanted} was asked for by the governor")

    def _tell(self, now: float, latest: dict[str, Reading]) -> None:
        hottest = hottest_of(list(latest.values()))
        told = Measured(
            monotonic_s=round(now, 3), utc_s=round(time.time(), 3), tick=self.history.tick,
            readings=[
                (one.quantity, one.rail, one.source, _short(one.value), one.reason[:_TEXT])
                for one in latest.values()
            ],
            energy={
                name: (round(e.joules, 4), round(e.covered_s, 5), round(e.gap_s, 3), _short(e.peak_w))
                for name, e in self.sampler.energy.items()
            },
            began_s=self._began, main=self._main, main_problem=self._main_problem[:160],
            hottest_c=_short(hottest.value), throttling=self._throttling, mode=self._mode,
            sources={
                name: "" if self._found.get(name) else self._problems.get(name, "lost") for name in self._found
            },
            idle_w=calibrated_idle_w(self.settings, self._main),
        )  # fmt: skip
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self.out, told.line())

    def _event(self, severity: str, kind: str, text: str) -> None:
        try:
            self.ledger.tell(severity, kind, text)
        except StorageError as error:
            log.warning("%s: %s (%s)", kind, text, error)


def _works(beat: Heartbeat) -> bool:
    """Whether a scene is being mapped and the governor does not make it wait."""
    return beat.scene is not None and not makes_wait(beat.governor, beat.governor_why)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def idle_path(settings: Settings) -> Path:
    """Where `onboard calibrate` keeps what rest takes."""
    return settings.telemetry_dir / "idle.json"


def calibrated_idle_w(settings: Settings, main: str) -> float | None:
    """Watts of the main rail at rest, None where nobody calibrated it."""
    try:
        told = json.loads(idle_path(settings).read_text(encoding="utf-8"))
        return float(told["idle_w"][main])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sample(settings: Settings, out: int, found: list[Source] | None = None) -> None:
    """The process's whole life: until it is told to stop or its input ends."""
    os.set_blocking(out, False)
    modes = tuple(name.strip() for name in settings.power_modes.split(",") if name.strip())
    every = found if found is not None else sources(settings.telemetry_root, with_jtop=True if modes else None)
    for source in every:
        if source.period_s < 1.0 and source.read():
            # A sensor that averages over longer than we ask would give every value twice.
            source.period_s = max(source.period_s, measured_period_s(source) or 0.0)
    sampler = Sampler(every, interval_s=1 / settings.sample_hz)
    # A connection belongs to the thread that makes it: sampling happens on this one.
    with Ledger(settings.ledger_path) as ledger:
        history = _history(settings, ledger)
        work = Sampling(settings, sampler, history, ledger, out, modes)

        def listen() -> None:
            for line in lines_of(STDIN):
                beat = heartbeat_of(line)
                if beat is not None:
                    work.beat = beat
            sampler.stop()

        threading.Thread(target=listen, name="beats", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sampler.stop())
        sampler.run()
        history.close()


def _history(settings: Settings, ledger: Ledger) -> History:
    """On the disk, or in memory where that cannot be: the governor must not go blind because a disk is full."""
    try:
        return History(settings.telemetry_dir / "history.sqlite")
    except (sqlite3.Error, OSError) as error:
        log.warning("history: %s", error)
        with suppress(StorageError):
            ledger.tell("warning", "history-off", f"history cannot be kept ({error}); it is tried at the next start")
        return History(Path(":memory:"))


def main() -> None:
    """Started by the supervisor."""

    def live(out: int | None) -> None:
        sample(read_settings(), os.open(os.devnull, os.O_WRONLY) if out is None else out)

    run_child("sampling", "--out", live)


if __name__ == "__main__":
    main()
