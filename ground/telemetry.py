"""Telemetry pulled in passes: what is new since the last one, kept as Parquet; events, kept as lines of JSON.

The folder has ``history/`` (a file a page, named by its first and last tick), ``events.jsonl`` and ``state.json``
(where to go on). Every file is synced before the state says that it is there, and the satellite is told that its
events are stored only after that: a cut costs a page that is pulled again, never one that is lost.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ground.errors import AskedWrong, DiskFailed
from ground.link import Link, WindowClosed
from ground.transfer import sync

STATE, EVENTS, HISTORY = "state.json", "events.jsonl", "history"
PAGE_ROWS = 2000


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

    def _events(self, state: dict[str, Any], report: TelemetryReport) -> None:
        while True:
            told = self._link.json("GET", "/events", params={"since": state["event"], "limit": 1000})
            if told["events"]:
                _append(self._folder / EVENTS, told["events"], after=state["event"])
                state["event"] = told["events"][-1]["sequence"]
                self._keep(state)
                report.events += len(told["events"])
            if state["event"] > told["acknowledged"]:
                self._link.json("POST", "/events/acknowledged", json={"until": state["event"]})
            if told["next"] is None:
                return

    def _history(self, state: dict[str, Any], report: TelemetryReport) -> None:
        while True:
            asked: dict[str, Any] = {"step": self._step_s, "limit": PAGE_ROWS}
            if state["tick"] is not None:
                asked["since"] = state["tick"]
            told = self._link.json("GET", "/telemetry/history", params=asked)
            if state["tick"] is not None and told["now"] < state["tick"]:
                # The history aboard was lost and begun afresh: its ticks are another axis from here.
                state |= {"tick": None, "epoch": state["epoch"] + 1}
                continue
            ticks = told["columns"]["tick"]
            if ticks:
                name = f"{state['epoch']:03d}-{ticks[0]:015d}-{ticks[-1]:015d}.parquet"
                _write_parquet(self._folder / HISTORY / name, told["columns"], step_s=told["step_s"])
                state["tick"] = ticks[-1]
                self._keep(state)
                report.rows += len(ticks)
            if told["next"] is None:
                return

    def _state(self) -> dict[str, Any]:
        try:
            told = json.loads((self._folder / STATE).read_text(encoding="utf-8"))
            return {"tick": told["tick"], "event": int(told["event"]), "epoch": int(told["epoch"])}
        except FileNotFoundError:
            return {"tick": None, "event": 0, "epoch": 0}
        except (ValueError, KeyError, TypeError):
            raise AskedWrong(
                f"{self._folder / STATE} is damaged", "choose another --dest, or remove it: all is pulled again"
            ) from None

    def _keep(self, state: Mapping[str, Any]) -> None:
        fresh = self._folder / f"{STATE}.new"
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._folder / STATE)
        sync(self._folder)


def _append(path: Path, events: list[dict[str, Any]], *, after: int) -> None:
    """Appends what is newer than the last line that is there: a cut between file and state repeats nothing."""
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - (1 << 16)))
        tail = file.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        file.truncate(end - len(tail) + len(whole))  # a line that was torn
        last = json.loads(whole.splitlines()[-1])["sequence"] if whole else after
        for event in events:
            if event["sequence"] > last:
                file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def _write_parquet(path: Path, columns: Mapping[str, list[Any]], *, step_s: float) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"tick": pa.int64(), "samples": pa.int64(), "utc_s": pa.float64()}
    arrays = {name: pa.array(values, kinds.get(name, pa.float32())) for name, values in columns.items()}
    table = pa.table(arrays).replace_schema_metadata({"step_s": f"{step_s:g}"})
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd")
    sync(part)
    part.replace(path)
    sync(path.parent)
