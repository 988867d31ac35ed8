"""History of measurements in bounded space, which survives restarts and covers the hours between two passes.

Four levels: every sample for minutes, then rows of 1 s, 10 s and 1 min with minimum, mean and maximum of each field. A
row is a time and a blob of float32, NaN where nothing was measured; the oldest rows of a full level are removed. It is
an SQLite file: one writer (the sampling process), any number of readers, and a torn page is rolled back after a power
cut.

On board the clock cannot be trusted, so rows are ordered by a tick: milliseconds of operation since the history began,
rising over restarts and reboots. Time while the service is down is not counted; ``utc_s`` is the clock's own reading.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RAW = 0.0
"""Step of the level that has every sample."""


@dataclass(frozen=True)
class Level:
    """Rows of one step.

    Attributes:
        step_s: seconds a row; 0 is a row a sample.
        keep_s: seconds of running for which rows are kept.
    """

    step_s: float
    keep_s: float


LEVELS = (Level(RAW, 600), Level(1.0, 6 * 3600), Level(10.0, 48 * 3600), Level(60.0, 60 * 86400))
_ODD_ROW = "a row cannot be read: "
FLUSH_S = 30.0
"""Seconds between two transactions: a compromise of storage wear and the data that a power cut may cost."""

# WITHOUT ROWID stores rows in the order of (level, tick): a page reads neighbours, and the oldest lie together.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS fields (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS rows (
    level INTEGER NOT NULL, tick INTEGER NOT NULL, utc_s REAL NOT NULL, samples INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (level, tick)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Page:
    """A part of the history, as columns of equal length.

    Attributes:
        step_s: seconds per row; 0 where every sample has its own row.
        columns: "tick" (int64, ms), "utc_s", "samples" (number in a row), and each field: plain where every sample has
            its own row, else as FIELD.min, FIELD.mean and FIELD.max (float32, NaN: not measured).
        next: tick from which the next page begins, None at the end.
        now: the newest tick; ask with it for newer rows next time.
        problem: why there are no rows, where the file is damaged; its writer will begin a new one.
    """

    step_s: float
    columns: dict[str, NDArray[Any]]
    next: int | None
    now: int
    problem: str = ""


@dataclass
class _Bucket:
    """The row of a level that is being filled."""

    begin: int
    utc_s: float
    samples: int = 0
    sums: dict[int, tuple[float, float, float, int]] = field(default_factory=dict)  # field: least, sum, most, count

    def add(self, values: Mapping[int, float]) -> None:
        self.samples += 1
        for number, value in values.items():
            least, total, most, count = self.sums.get(number, (math.inf, 0.0, -math.inf, 0))
            self.sums[number] = (min(least, value), total + value, max(most, value), count + 1)

    def blob(self) -> bytes:
        data = np.full((max(self.sums, default=-1) + 1, 3), np.nan, dtype="<f4")
        for number, (least, total, most, count) in self.sums.items():
            data[number] = least, total / count, most
        return data.tobytes()


class History:
    """Writes the history; one process at a time.

    Attributes:
        problem: why the last flush failed and what was lost; empty after a successful one.
        renewals: reasons for each replacement of a damaged file while it was open; the reader of the list empties it.

    Args:
        path: of the SQLite file; a damaged one is renamed and a new one begun.
        levels: steps, each a multiple of the one before.
        clock: monotonic seconds.
        wall: seconds since 1970, as far as the machine knows.

    Raises:
        sqlite3.OperationalError, OSError: the file cannot be opened or made.
    """

    def __init__(
        self,
        path: Path,
        levels: Sequence[Level] = LEVELS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.levels, self._clock, self._wall = path, levels, clock, wall
        # The sampling process keeps it in memory where no file can be made: the governor needs samples.
        self._is_in_memory = str(path) == ":memory:"
        self._db = _opened_or_new(path)
        # SQLite goes on writing to a file that was deleted or replaced, without an error: the inode tells.
        self._inode = 0 if self._is_in_memory else path.stat().st_ino
        self._fields = dict(self._db.execute("SELECT name, id FROM fields").fetchall())
        last = self._db.execute("SELECT max(tick) FROM rows").fetchone()[0]
        # A row begins before it ends: the longest step is left free, so that ticks rise over a restart.
        self._base = 0 if last is None else last + int(1000 * max(1.0, levels[-1].step_s))
        self._began = clock()
        self._newest = self._base - 1
        self._buckets: list[_Bucket | None] = [None] * len(levels)
        self._rows: list[tuple[int, int, float, int, bytes]] = []
        self._flushed = clock()
        self.problem = ""
        self.renewals: list[str] = []

    @property
    def tick(self) -> int:
        """The current tick, in milliseconds of operation."""
        return self._base + int(1000 * (self._clock() - self._began))

    def add(self, values: Mapping[str, float]) -> None:
        """Adds one sample of values by field; it is written with the next flush."""
        # Ticks are keys, so two samples within a millisecond need two of them.
        self._newest = tick = max(self.tick, self._newest + 1)
        utc_s = self._wall()
        # NaN says "not measured" in a row; an infinite value would spoil the mean of its whole bucket.
        numbered = {self._number(name): value for name, value in values.items() if math.isfinite(value)}
        for position, level in enumerate(self.levels):
            if level.step_s == RAW:
                data = np.full(max(numbered, default=-1) + 1, np.nan, dtype="<f4")
                data[list(numbered)] = list(numbered.values())
                self._rows.append((position, tick, utc_s, 1, data.tobytes()))
                continue
            step = int(1000 * level.step_s)
            begin = tick - tick % step
            bucket = self._buckets[position]
            if bucket is None or bucket.begin != begin:
                self._close_bucket(position)
                bucket = self._buckets[position] = _Bucket(begin, utc_s)
            bucket.add(numbered)
        if self._clock() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Writes finished rows and removes the oldest; on a full disk rows are lost, but nothing is raised.

        A damaged or deleted file is set aside and the rows go into a new one.
        """
        self._flushed = self._clock()
        # They go whether they are written or not: on a full disk they would fill the memory instead.
        rows, self._rows = self._rows, []
        try:
            if damage := self._damage():
                self._renew(damage)
            try:
                self._write(rows)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._renew(str(error))
                self._write(rows)
        # Nothing is raised: measuring and the governor go on without a history.
        except (sqlite3.Error, OSError) as error:
            self.problem = f"{len(rows)} rows of history were lost: {error}"
        else:
            self.problem = ""

    def _write(self, rows: Sequence[tuple[int, int, float, int, bytes]]) -> None:
        with self._db:
            # All of them, each time: the file may be a new one.
            known = [(number, name) for name, number in self._fields.items()]
            self._db.executemany("INSERT OR IGNORE INTO fields VALUES (?, ?)", known)
            self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", rows)
            for position, level in enumerate(self.levels):
                # In the same transaction as the new rows, so the size stays bounded wherever power is cut.
                oldest = self.tick - int(1000 * level.keep_s)
                self._db.execute("DELETE FROM rows WHERE level = ? AND tick < ?", (position, oldest))

    def _damage(self) -> str:
        """What is wrong with the file; empty if nothing is known. A reader that finds damage leaves a note."""
        if self._is_in_memory:
            return ""
        try:
            is_ours = self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            is_ours = False
        if not is_ours:
            return "the file is gone, or another lies in its place"
        note = _note_of(self.path)
        if not note.exists():
            return ""
        report = note.read_text(encoding="utf-8", errors="replace")[:200]
        # With a new connection: the open one may still have the undamaged pages in its cache.
        with closing(sqlite3.connect(self.path, timeout=5)) as fresh:
            is_whole = not _check(fresh)
        note.unlink(missing_ok=True)
        # SQLite's check cannot find rows with invalid content.
        return "" if is_whole and not report.startswith(_ODD_ROW) else report or "quick_check failed"

    def _renew(self, why: str) -> None:
        """Puts the file aside and begins anew; ticks go on rising."""
        self._db.close()
        _put_aside(self.path)
        self._db = _opened(self.path)
        self._inode = self.path.stat().st_ino
        self.renewals.append(f"the history was damaged ({why}); it is kept as {self.path.name}.damaged, and begun anew")

    def close(self) -> None:
        """Writes everything, unfinished rows too."""
        for position in range(len(self.levels)):
            self._close_bucket(position)
        self.flush()
        self._db.close()

    def _close_bucket(self, position: int) -> None:
        bucket, self._buckets[position] = self._buckets[position], None
        if bucket is not None and bucket.samples:
            self._rows.append((position, bucket.begin, bucket.utc_s, bucket.samples, bucket.blob()))

    def _number(self, name: str) -> int:
        number = self._fields.get(name)
        if number is None:
            # Given once and for ever: rows on the disk hold values by these numbers.
            number = self._fields[name] = len(self._fields)
        return int(number)


class Reader:
    """Reads a history that another process may be writing."""

    def __init__(self, path: Path, levels: Sequence[Level] = LEVELS) -> None:
        self.path, self.levels = path, levels

    def query(
        self,
        since: int | None = None,
        until: int | None = None,
        step_s: float = 1.0,
        fields: Sequence[str] | None = None,
        limit: int = 2000,
    ) -> Page:
        """Rows after a tick (None: from the first) up to another, oldest first, at most ``limit``.

        Taken from the coarsest level that is at least as fine as ``step_s``, or a coarser one where that no longer
        reaches back to ``since``; the page says which it was. Negative ticks count from now, in
        milliseconds. ``fields`` names what is wanted, by whole names or by their part before the colon.
        """
        if not self.path.exists():
            return Page(step_s, _empty(), None, 0)
        try:
            # A connection for each query: the writer may put another file here between two. Read-only, since the writer
            # alone makes and repairs the file.
            db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        except sqlite3.OperationalError:
            return Page(step_s, _empty(), None, 0)
        try:
            return self._page(db, since, until, step_s, fields, limit)
        except sqlite3.OperationalError as error:
            # Just being made; or damaged so that a table seems to be missing, which its writer sees.
            return Page(step_s, _empty(), None, 0, "" if "no such table" in str(error) else str(error))
        except (sqlite3.DatabaseError, ValueError, TypeError, OverflowError) as error:
            return self._damaged(error, step_s)
        finally:
            db.close()

    def _damaged(self, error: Exception, step_s: float) -> Page:
        """Leaves a note for the writer, the only process that may replace the file."""
        kind = "" if isinstance(error, sqlite3.DatabaseError) else _ODD_ROW
        with suppress(OSError):  # the writer stumbles over it as well, or at its next start
            _note_of(self.path).write_text(f"{kind}{error}", encoding="utf-8")
        return Page(step_s, _empty(), None, 0, f"the history is damaged and will be begun anew ({error})")

    def _page(
        self,
        db: sqlite3.Connection,
        since: int | None,
        until: int | None,
        step_s: float,
        fields: Sequence[str] | None,
        limit: int,
    ) -> Page:
        now = db.execute("SELECT max(tick) FROM rows").fetchone()[0] or 0
        # Rows after `since` are given, and the first tick may be 0.
        since = -1 if since is None else _from_now(since, now)
        until = None if until is None else _from_now(until, now)
        names = dict(db.execute("SELECT id, name FROM fields").fetchall())
        wanted = {i: n for i, n in names.items() if fields is None or n in fields or n.partition(":")[0] in fields}
        level = self._level(db, since, step_s)
        own = self.levels[level].step_s
        rows = db.execute(
            "SELECT tick, utc_s, samples, data FROM rows WHERE level = ? AND tick > ? AND tick <= ?"
            " ORDER BY tick LIMIT ?",
            (level, since, 2**62 if until is None else until, limit + 1),  # one more says whether there is a next page
        ).fetchall()
        more = len(rows) > limit
        rows = rows[:limit]
        following = rows[-1][0] if more else None
        return Page(own, _columns(rows, wanted, raw=own == RAW), following, now)

    def _level(self, db: sqlite3.Connection, since: int, step_s: float) -> int:
        fit = max((i for i, level in enumerate(self.levels) if level.step_s <= max(step_s, 0.0)), default=0)
        firsts = dict(db.execute("SELECT level, min(tick) FROM rows GROUP BY level").fetchall())
        reach = [i for i in range(fit, len(self.levels)) if i in firsts]
        oldest = min(firsts.values(), default=0)
        for position in reach:
            # A level reaches back if its first row is no later than what was asked for, give or take a row. What lies
            # before the history's own beginning counts for no level.
            slack = 1000 * self.levels[position].step_s
            if firsts[position] <= max(since, oldest + 1000 * self.levels[-1].step_s) + slack:
                return position
        return reach[-1] if reach else fit


def _from_now(tick: int, now: int) -> int:
    return tick if tick >= 0 else max(0, now + tick)


def _empty() -> dict[str, NDArray[Any]]:
    return {"tick": np.zeros(0, np.int64), "utc_s": np.zeros(0), "samples": np.zeros(0, np.int64)}


def _columns(
    rows: Sequence[tuple[int, float, int, bytes]], wanted: Mapping[int, str], *, raw: bool
) -> dict[str, NDArray[Any]]:
    width = 1 if raw else 3
    data = np.full((len(rows), max(wanted, default=-1) + 1, width), np.nan, np.float32)
    for position, (_, _, _, blob) in enumerate(rows):
        # A row is as long as there were fields when it was written: fields that came later stay NaN.
        values = np.frombuffer(blob, "<f4").reshape(-1, width)[: data.shape[1]]
        data[position, : len(values)] = values
    tick = np.array([row[0] for row in rows], np.int64)
    utc_s = np.array([row[1] for row in rows], float)
    samples = np.array([row[2] for row in rows], np.int64)
    columns: dict[str, NDArray[Any]] = {"tick": tick, "utc_s": utc_s, "samples": samples}
    for number, name in sorted(wanted.items(), key=lambda pair: pair[1]):
        if np.isnan(data[:, number]).all():
            continue
        if raw:
            columns[name] = data[:, number, 0]
        else:
            columns |= {f"{name}.{part}": data[:, number, i] for i, part in enumerate(("min", "mean", "max"))}
    return columns


def _opened_or_new(path: Path) -> sqlite3.Connection:
    try:
        return _opened(path)
    except sqlite3.OperationalError:
        raise  # the disk is full, or the file is locked: nothing is wrong with what it holds
    except sqlite3.DatabaseError:
        _put_aside(path)
        return _opened(path)


def _put_aside(path: Path) -> None:
    # The database before its log. A power cut between them leaves a log alone, which SQLite throws away; the other way
    # round a database would be opened without its log.
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        file = path.with_name(name)
        if file.exists():
            file.replace(path.with_name(f"{name}.damaged"))
    _note_of(path).unlink(missing_ok=True)


def _note_of(path: Path) -> Path:
    """Path of the note in which a reader reports a damaged file."""
    return path.with_name(f"{path.name}.stumbled")


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is damaged (not the disk full, not a lock); Python 3.10 has no `sqlite_errorcode`."""
    return type(error) is sqlite3.DatabaseError or "no such table" in str(error)


def _check(db: sqlite3.Connection) -> str:
    """Result of SQLite's check of the whole file; empty where it is intact."""
    try:
        result = str(db.execute("PRAGMA quick_check").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if result == "ok" else result


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5)
    try:
        # Readers in the API never wait for the writer, nor the writer for them.
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")  # a power cut may take the last flush, never the file
        db.executescript(_SCHEMA)
        if problem := _check(db):
            raise sqlite3.DatabaseError(problem)
    except BaseException:
        db.close()
        raise
    return db
