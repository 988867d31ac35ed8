"""Telemetry pulled in passes: what is new since the last one, kept as Parquet; events, kept as lines of JSON.

The folder has ``history/`` (a file a page, named by its first and last tick), ``events.jsonl`` and ``state.json``
(where to go on). Every file is synced before the state says that it is there, and the satellite is told that its
events are stored only after that: a cut costs a page that is pulled again, never one that is lost. Where the history
has grown meanwhile, that page is longer, and its file takes the place of the first one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ground.answers import Event, Events, History, Tick
from ground.errors import AskedWrong, DiskFailed, GroundError
from ground.json_text import model_of
from ground.link import Link, WindowClosed
from ground.transfer import open_plain, read_small, sync, write_whole

STATE, EVENTS, HISTORY = "state.json", "events.jsonl", "history"
PAGE_ROWS = 2000
MOST_PAGES = 5000
"""Pages of one kind in a pass: ten million rows, or five million events. One that never ends is left for this pass."""
_LONGEST_STATE, _BLOCK = 1 << 16, 1 << 16
_LONGEST_TAIL = 64 << 20
"""Bytes of ``events.jsonl`` that are searched for the last event: lines come from answers of 16 MiB at most."""


class State(BaseModel):
    """Where to go on: after which tick of which history, and after which event."""

    model_config = ConfigDict(strict=True)

    tick: Tick | None = None
    event: int = Field(0, ge=0, le=2**62)
    epoch: int = Field(0, ge=0, le=10**6)


@dataclass
class TelemetryReport:
    """What a pass brought: rows of history, events, and whether the window closed before the end."""

    rows: int = 0
    events: int = 0
    window_closed: bool = False


class TelemetryStation:
    """Pulls into one folder; one process at a time.

    Args:
        link: to the service.
        folder: made if missing.
        step_s: seconds a row, at most.

    Raises:
        AskedWrong: pyarrow is not installed.
    """

    def __init__(self, link: Link, folder: Path, step_s: float) -> None:
        self._link, self._folder, self._step_s = link, folder, step_s
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise AskedWrong("Parquet needs pyarrow", f"{sys.executable} -m pip install pyarrow") from None

    def pull(self) -> TelemetryReport:
        """One pass.

        Raises:
            AskedWrong, LinkDown: see :class:`ground.link.Link`.
            DiskFailed: the folder cannot be written.
        """
        report = TelemetryReport()
        try:
            (self._folder / HISTORY).mkdir(parents=True, exist_ok=True)
            state = self._state()
            try:
                self._events(state, report)
                self._history(state, report)
            except WindowClosed:
                report.window_closed = True
        except OSError as error:
            raise DiskFailed(self._folder, error) from error
        return report

    def _events(self, state: State, report: TelemetryReport) -> None:
        for _ in range(MOST_PAGES):
            page = self._link.read(Events, "GET", "/events", params={"since": state.event, "limit": 1000})
            if page.events:
                _append(self._folder / EVENTS, page.events, after=state.event)
                # A page that leads nowhere would be asked for again without end. Its lines were not written twice.
                if page.events[-1].sequence <= state.event:
                    raise _never_ends(self._link.url, "/events")
                state.event = page.events[-1].sequence
                self._keep(state)
                report.events += len(page.events)
            # Only now, with lines and state on the disk: aboard, acknowledged events are the first to be removed.
            if state.event > page.acknowledged:
                self._link.json("POST", "/events/acknowledged", json={"until": state.event})
            if page.next is None:
                return
            if not page.events:
                raise _never_ends(self._link.url, "/events")
        raise _never_ends(self._link.url, "/events")

    def _history(self, state: State, report: TelemetryReport) -> None:
        was_lost = False
        for _ in range(MOST_PAGES):
            query: dict[str, Any] = {"step": self._step_s, "limit": PAGE_ROWS}
            if state.tick is not None:
                query["since"] = state.tick
            page = self._link.read(History, "GET", "/telemetry/history", params=query)
            # Once a pass: an axis that falls again and again would begin an epoch with each page.
            if state.tick is not None and page.now < state.tick and not was_lost:
                # The history aboard was lost and begun afresh: its ticks are another axis from here.
                state.tick, state.epoch, was_lost = None, state.epoch + 1, True
                # Now: after a cut the new axis may reach beyond the old tick, and would be taken for the old one.
                self._keep(state)
                continue
            ticks = page.ticks
            if ticks and state.tick is not None and ticks[-1] <= state.tick:
                raise _never_ends(self._link.url, "/telemetry/history")
            if ticks:
                # Padded, so that names sort by epoch and tick: the console reads files in that order.
                name = f"{state.epoch:03d}-{ticks[0]:015d}-{ticks[-1]:015d}.parquet"
                _write_parquet(self._folder / HISTORY / name, page.columns, step_s=page.step_s)
                _remove_replaced(self._folder / HISTORY / name)
                state.tick = ticks[-1]
                self._keep(state)
                report.rows += len(ticks)
            if page.next is None:
                return
            if not ticks:
                raise _never_ends(self._link.url, "/telemetry/history")
        raise _never_ends(self._link.url, "/telemetry/history")

    def _state(self) -> State:
        path = self._folder / STATE
        try:
            return State.model_validate_json(read_small(path, _LONGEST_STATE))
        except FileNotFoundError:
            # What lies aboard is the newest history of those that were pulled.
            names = [file.name for file in (self._folder / HISTORY).glob("[0-9][0-9][0-9]-*.parquet")]
            return State(epoch=max((int(name[:3]) for name in names), default=0))
        except (ValidationError, OSError) as error:
            reason = "it is no state" if isinstance(error, ValidationError) else (error.strerror or str(error))
            raise AskedWrong(
                f"{path} is damaged ({reason})", "choose another --dest, or remove it: all is pulled again"
            ) from None

    def _keep(self, state: State) -> None:
        write_whole(self._folder / STATE, state.model_dump_json().encode())


def _never_ends(url: str, path: str) -> GroundError:
    return GroundError(
        f"{url}{path}: its pages do not go forward, or never end; what came is kept: see the satellite's log"
    )


def _append(path: Path, events: list[Event], *, after: int) -> None:
    """Appends what is newer than the last line that is there: a cut between file and state repeats nothing."""
    with os.fdopen(open_plain(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
        end = _end_of_lines(file)
        last = _last_sequence(file, end, after)
        file.truncate(end)  # a line that was torn
        file.seek(end)
        for event in events:
            if event.sequence > last:
                file.write(json.dumps(event.model_dump(), ensure_ascii=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def _end_of_lines(file: IO[bytes]) -> int:
    """Where the last line that is whole ends, however long the rest is."""
    begin = file.seek(0, os.SEEK_END)
    while begin > 0:
        begin, end = max(0, begin - _BLOCK), begin
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
    return 0


def _last_sequence(file: IO[bytes], end: int, usual: int) -> int:
    """Of the last line up to ``end`` that is an event; ``usual`` where none is: what the state says."""
    begin, size = end, _BLOCK
    while begin > max(0, end - _LONGEST_TAIL):
        begin = max(0, end - size)
        size *= 4
        file.seek(begin)
        # May begin in the middle of a line, which then is no event.
        for line in reversed(file.read(end - begin).splitlines()):
            try:
                return model_of(Event, line).sequence
            except (ValueError, RecursionError):  # noqa: PERF203 -- damaged lines are few
                continue
    return usual


def _remove_replaced(path: Path) -> None:
    """Removes files of the same first tick whose every row this one has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first, _, _ = path.name.rpartition("-")
    for other in path.parent.glob(f"{first}-*.parquet"):
        # What else has such a name, a damaged file too, stays: it is not known to be here.
        with suppress(OSError, ValueError, KeyError, pa.ArrowException):
            if other != path and other.is_file() and not other.is_symlink():
                rows, more = (pq.read_table(file, columns=["tick"]) for file in (other, path))
                is_same_step = rows.schema.metadata == more.schema.metadata
                if is_same_step and set(rows["tick"].to_pylist()) <= set(more["tick"].to_pylist()):
                    other.unlink()


def _write_parquet(path: Path, columns: Mapping[str, Sequence[Any]], *, step_s: float) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # float32 would round UTC seconds of today to steps of 128 s. All else was float32 aboard.
    kinds = {"tick": pa.int64(), "samples": pa.int64(), "utc_s": pa.float64()}
    arrays = {name: pa.array(values, kinds.get(name, pa.float32())) for name, values in columns.items()}
    table = pa.table(arrays).replace_schema_metadata({"step_s": f"{step_s:g}"})
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd")
    # The bytes before the name, so that a file of this name is always whole.
    sync(part)
    part.replace(path)
    sync(path.parent)
