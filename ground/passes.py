"""The log of passes beside the maps of a station: a line of JSON a pass, and whether one is going on.

A pass that is going on holds a shared lock on the station's folder. The kernel takes it away with the process, so a
pass that was killed never looks as if it lasted.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ground.text import visible
from ground.transfer import last_lines, open_plain

if TYPE_CHECKING:
    from ground.station import PassReport

LOG = "passes.jsonl"
LONGEST_LOG = 8 << 20
"""Bytes that are read from the end of the log: tens of thousands of passes."""
# One second in all.
LOCK_TRIES, LOCK_PAUSE_S = 20, 0.05


class PassRecord(BaseModel):
    """One pass.

    Attributes:
        began: UTC by this machine's clock, RFC 3339.
        seconds: how long it lasted.
        maps, files, receipts, coarse: how many came, or were given.
        received_bytes, repeated_bytes: over the link, in files.
        left: files that were planned and did not come.
        damaged, gone: maps that could not be had.
        window_closed: it ended by its time or its bytes.
        problem: why it broke off; empty where it did not.
    """

    model_config = ConfigDict(extra="ignore")

    began: str = Field(max_length=40)
    seconds: float = Field(ge=0, le=1e9)
    maps: int = Field(ge=0)
    files: int = Field(ge=0)
    receipts: int = Field(0, ge=0)
    coarse: int = Field(0, ge=0)
    received_bytes: int = Field(ge=0)
    repeated_bytes: int = Field(0, ge=0)
    left: int = Field(ge=0)
    damaged: int = Field(0, ge=0)
    gone: int = Field(0, ge=0)
    window_closed: bool = False
    problem: str = Field("", max_length=2000)


class PassLog:
    """Writes one line when a pass ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The date by the clock, the length by one that nobody sets.
        self._began = datetime.now(timezone.utc)
        self._clock = time.monotonic()

    def write(self, report: PassReport, problem: str = "") -> None:
        """Appends the pass; a last line that a cut has torn stays a line of its own.

        Args:
            report: what the pass did.
            problem: why it broke off; text of others, written out like :func:`ground.text.visible`.

        Raises:
            OSError, ValueError: the log cannot be written; the maps are not concerned.
        """
        record = PassRecord(
            began=self._began.isoformat(timespec="seconds").replace("+00:00", "Z"),
            seconds=round(time.monotonic() - self._clock, 3), maps=len(report.maps), files=report.files,
            receipts=len(report.receipts), coarse=len(report.coarse), received_bytes=report.received_bytes,
            repeated_bytes=report.repeated_bytes, left=report.left, damaged=len(report.damaged),
            gone=len(report.gone), window_closed=report.window_closed, problem=visible(problem),
        )  # fmt: skip
        line = record.model_dump_json().encode() + b"\n"
        with os.fdopen(open_plain(self._folder / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+b") as file:
            # Append mode, and one write for the line: those of two passes at once do not mix.
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            is_torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" + line if is_torn else line)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def pass_going_on(folder: Path) -> Iterator[None]:
    """Marks the folder as in use by a pass for the length of the block.

    A mark is not worth a pass: a file system without locks has none, and another's lock is not waited for.
    """
    descriptor = None
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        # The folder itself is locked: no lock file is left behind, and closing it, or a kill, ends the lock.
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        _mark(descriptor)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _mark(descriptor: int) -> None:
    """Takes the shared lock; whoever looks whether a pass is going on holds the folder for some microseconds."""
    for _ in range(LOCK_TRIES):
        try:
            # Shared: two passes into one folder do not keep each other out.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # noqa: PERF203 -- the first try is the usual one
            time.sleep(LOCK_PAUSE_S)
        else:
            return


def is_going_on(folder: Path) -> bool:
    """Whether a pass writes into the folder now."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Fails while any pass holds its shared lock.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def read_passes(folder: Path) -> list[PassRecord]:
    """Passes of the log, the newest last; lines that are none are passed over."""
    try:
        lines = last_lines(folder / LOG, LONGEST_LOG)
    except OSError:
        return []
    records = []
    for line in lines:
        with suppress(ValidationError, json.JSONDecodeError):
            records.append(PassRecord.model_validate_json(line))
    return records
