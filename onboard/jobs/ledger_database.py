"""The ledger's SQLite file: its tables, its sequence of numbers, and transactions that the high-water mark follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from onboard.files import storage_error
from onboard.jobs.database import TIMEOUT_S, Database
from onboard.jobs.highwater import HighWaterMark, Mark, Note, read_mark, rewrite_mark

FileChange = Callable[[], object]
"""A change to files that belongs to a transaction: called while the write lock is held, so it must be a rename."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS counter (only INTEGER PRIMARY KEY CHECK (only = 1), value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (1, 0);
CREATE TABLE IF NOT EXISTS scenes (
    id TEXT PRIMARY KEY, sequence INTEGER NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, name TEXT NOT NULL, priority INTEGER NOT NULL, acquired TEXT,
    model TEXT NOT NULL, options TEXT NOT NULL, received TEXT NOT NULL,
    state TEXT NOT NULL, changed INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0, problem TEXT, figures TEXT NOT NULL DEFAULT '{}');
CREATE INDEX IF NOT EXISTS waiting ON scenes (state, priority, sequence);
CREATE TABLE IF NOT EXISTS maps (
    id TEXT PRIMARY KEY, sequence INTEGER NOT NULL UNIQUE, priority INTEGER NOT NULL,
    assets TEXT NOT NULL, item TEXT NOT NULL, delivered INTEGER);
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY, severity TEXT NOT NULL, kind TEXT NOT NULL, about TEXT, text TEXT NOT NULL,
    at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS acknowledged (only INTEGER PRIMARY KEY CHECK (only = 1), value INTEGER NOT NULL);
INSERT OR IGNORE INTO acknowledged VALUES (1, 0);
"""
# Since version 2: what is needed to know whether a scene's canvas fits, and why it waits if it does not.
_ROOM = """
ALTER TABLE scenes ADD COLUMN pixels INTEGER NOT NULL DEFAULT 0;
ALTER TABLE scenes ADD COLUMN waiting_reason TEXT;
"""
# Since version 3 ``pixels`` counts the enlargement for the model: of scenes that wait it is looked at again.
_CRASHES = """
ALTER TABLE scenes RENAME COLUMN deaths TO crashes;
UPDATE scenes SET pixels = 0 WHERE state IN ('queued', 'running');
"""
# Since version 4: models that come up the link, and which one is active.
# Its index lets at most one row be active, whatever a process does.
_MODELS = """
CREATE TABLE IF NOT EXISTS models (
    id TEXT PRIMARY KEY, sequence INTEGER NOT NULL UNIQUE, name TEXT NOT NULL, version TEXT NOT NULL,
    origin TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, files TEXT NOT NULL, figures TEXT NOT NULL,
    signed INTEGER NOT NULL, checks INTEGER NOT NULL, activated INTEGER NOT NULL, failures INTEGER NOT NULL,
    has_proved INTEGER NOT NULL, changed INTEGER NOT NULL, received TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS one_active ON models (state) WHERE state = 'active';
"""
MIGRATIONS: Final = (_SCHEMA, _ROOM, _CRASHES, _MODELS)


class LedgerDatabase(Database):
    """One connection to the ledger, for one thread; any number of processes may have one.

    Args:
        path: of the file, made if missing; the copies of the high-water mark lie beside it.
        timeout_s: longest wait for another connection's transaction.

    Raises:
        LedgerDamaged: the file is no ledger, is damaged, or is of a newer version.
        StorageError: the disk is full or failed: nothing is wrong with what the file holds.
    """

    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(path, MIGRATIONS, timeout_s)
        self._mark = HighWaterMark(path)
        self._note = Note(0)

    @contextmanager
    def numbered(self) -> Iterator[None]:
        """A transaction that may give out numbers: they go into the high-water mark once it is committed.

        Raises:
            LedgerBusy, StorageError, LedgerDamaged: as :meth:`Database.writing`.
        """
        # What an earlier transaction noted before it failed must not be written with this one.
        self._note = Note(0)
        with self.writing():
            before = self.reached()
            yield
            number = self.reached()
        # After the commit: the mark must never be ahead of the ledger, nor its sync hold the lock.
        if number != before:
            self._mark.note(replace(self._note, number=number))

    def next_number(self) -> int:
        """A number greater than all before, inside :meth:`numbered`."""
        self.change("UPDATE counter SET value = value + 1")
        return self.reached()

    def reached(self) -> int:
        """The last number given out; 0 by a new ledger."""
        row = self.first("SELECT value FROM counter")
        return 0 if row is None else int(row[0])

    def raise_counter(self, number: int) -> None:
        """Has later numbers be greater than this one, inside :meth:`writing`."""
        self.change("UPDATE counter SET value = max(value, ?)", number)

    def mark_receipt(self, map_id: str, sha256: str) -> None:
        """Adds a receipt to the high-water mark, inside :meth:`numbered`."""
        self._note = replace(self._note, receipts={**self._note.receipts, map_id: sha256})

    def mark_cancelled(self, scene_id: str) -> None:
        """Adds a cancellation to the high-water mark, inside :meth:`numbered`."""
        self._note = replace(self._note, cancelled=[*self._note.cancelled, scene_id])

    def mark_queued_again(self, scene_id: str) -> None:
        """Adds a new attempt to the high-water mark, inside :meth:`numbered`."""
        self._note = replace(self._note, queued=[*self._note.queued, scene_id])

    def mark_active(self, model_id: str) -> None:
        """Adds the model that maps from now on to the high-water mark, inside :meth:`numbered`."""
        self._note = replace(self._note, model=model_id)

    def complete_mark(self, note: Note) -> None:
        """Writes a note that may be missing in the high-water mark, if it is.

        The process may be killed after a commit and before its note. Nobody was answered then, so nothing was promised;
        but who asks again is told what the ledger knows, and from then on it is a promise.
        """
        mark = read_mark(self.path)
        if mark.lacks(note):
            self._mark.note(note)

    def renew_mark(self, mark: Mark) -> None:
        """Writes the high-water mark anew; only while no other process has the ledger open.

        Raises:
            StorageError: the disk is full or failed; the mark stays as it was.
        """
        try:
            rewrite_mark(self.path, mark)
        except OSError as error:
            raise storage_error(error, self.path) from error
        self._mark.close()  # it is opened anew with the next note

    def close(self) -> None:
        """Closes the connection and the mark's files."""
        super().close()
        self._mark.close()
