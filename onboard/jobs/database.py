"""One SQLite connection under flight conditions: durable transactions, and errors by what the caller does next."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from onboard.errors import LedgerBusy, LedgerDamaged, OnboardError, StorageError

TIMEOUT_S: Final = 30.0
"""Longest wait for another process's transaction."""


class Database:
    """A connection for one thread; any number of processes may have one.

    WAL with synchronous=FULL: a transaction that returned is on the disk.

    Args:
        path: of the file, made if missing.
        migrations: SQL scripts, statements ended by ";" at a line's end; `user_version` counts those applied.
        timeout_s: longest wait for another connection's transaction.

    Raises:
        LedgerDamaged: the file is no database, is damaged, or is of a newer version.
        StorageError: the disk is full or failed: nothing is wrong with what the file holds.
    """

    def __init__(self, path: Path, migrations: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
        self.path, self._timeout_s = path, timeout_s
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # isolation_level None: Python would begin transactions by itself, and not always where ours begin.
            # check_same_thread False: the thread that ends the service closes the connections of all others.
            self.connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._opening_failure(error) from error
        self.connection.row_factory = sqlite3.Row
        try:
            # FULL, not NORMAL: in WAL mode NORMAL syncs at checkpoints only; a power cut takes answered writes back.
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self.connection.execute(f"PRAGMA {pragma}")
            self._migrate(migrations)
        except sqlite3.DatabaseError as error:
            self.connection.close()
            raise self._opening_failure(error) from error
        except StorageError:
            self.connection.close()
            raise

    def _migrate(self, migrations: Sequence[str]) -> None:
        if self._version() > len(migrations):
            raise LedgerDamaged(self.path, f"is of version {self._version()}, this program knows {len(migrations)}")
        if self._version() == len(migrations):
            return
        # All versions in one transaction: a kill leaves the schema of before or the newest one.
        with self.writing():
            # Asked again: another process may have been quicker. Not executescript, which commits on its own.
            for number in range(self._version(), len(migrations)):
                for statement in migrations[number].split(";\n"):
                    self.connection.execute(statement)
            self.connection.execute(f"PRAGMA user_version={len(migrations)}")

    def _version(self) -> int:
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    def first(self, query: str, *arguments: object) -> sqlite3.Row | None:
        """The first row, None where there is none.

        Raises:
            LedgerDamaged, LedgerBusy, StorageError: it cannot be read.
        """
        try:
            row: sqlite3.Row | None = self.connection.execute(query, arguments).fetchone()
        except sqlite3.DatabaseError as error:
            raise self.failure(error) from error
        return row

    def all(self, query: str, *arguments: object) -> list[sqlite3.Row]:
        """Every row.

        Raises:
            LedgerDamaged, LedgerBusy, StorageError: they cannot be read.
        """
        try:
            return self.connection.execute(query, arguments).fetchall()
        except sqlite3.DatabaseError as error:
            raise self.failure(error) from error

    def change(self, statement: str, *arguments: object) -> int:
        """Executes a statement, inside :meth:`writing`; returns how many rows it changed."""
        return self.connection.execute(statement, arguments).rowcount

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction that has the write lock from its start, so that none fails half way for want of it.

        Raises:
            LedgerBusy: another process keeps the lock; nothing was changed.
            StorageError: the disk is full or failed; nothing was changed.
            LedgerDamaged: the file is damaged; nothing was changed.
        """
        try:
            # Not the deferred kind: a read that becomes a write fails at once where another process wrote meanwhile.
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                # After some errors (a full disk, for one) SQLite has rolled back by itself; a second ROLLBACK fails.
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise self.failure(error) from error

    def check(self) -> None:
        """Reads the whole file, and holds its indices against its tables: a lost log can leave the two apart.

        Raises:
            LedgerDamaged: something is not as it was written.
            StorageError: it cannot be read now.
        """
        rows = [str(row[0]) for row in self.all("PRAGMA integrity_check")]
        if rows != ["ok"]:
            raise LedgerDamaged(self.path, rows[0])

    def checkpoint(self, wait_s: float = 0.0) -> bool:
        """Moves what the write-ahead log holds into the file and cuts the log to nothing; True if all of it went.

        What stands in the log can be lost with it: SQLite ends at the first frame whose checksum is wrong. Others' open
        transactions are waited for ``wait_s`` seconds.
        """
        # For this statement alone: it waits for readers too, and housekeeping has no 30 s to wait.
        self.connection.execute(f"PRAGMA busy_timeout={int(1000 * wait_s)}")
        try:
            busy = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            failure = self.failure(error)
            if isinstance(failure, LedgerBusy):
                return False
            raise failure from error
        finally:
            self.connection.execute(f"PRAGMA busy_timeout={int(1000 * self._timeout_s)}")
        return not busy

    def close(self) -> None:
        """Closes the connection; the last one to close takes the log with it."""
        self.connection.close()

    def failure(self, error: sqlite3.DatabaseError) -> Exception:
        """The error of ours for one of SQLite's; a fault in our own SQL is returned as it is.

        By its text: Python 3.10 knows no `sqlite_errorcode`.
        """
        text = str(error)
        if isinstance(error, sqlite3.OperationalError):
            if "locked" in text or "busy" in text:
                return LedgerBusy(self.path, text)
            # The schema is ours and was migrated at the opening: a missing table means that pages were lost.
            if "no such table" in text or "no such column" in text:
                return LedgerDamaged(self.path, text)
            return StorageError(self.path, f"the ledger cannot be used now ({text})", "make room or repair the disk")
        # SQLITE_CORRUPT and SQLITE_NOTADB come as plain DatabaseError; its subclasses are faults in our own SQL.
        if type(error) is sqlite3.DatabaseError:
            return LedgerDamaged(self.path, text)
        return error

    def _opening_failure(self, error: sqlite3.Error) -> OnboardError:
        if isinstance(error, sqlite3.OperationalError):  # full, locked, cannot be read: not what the file holds
            return StorageError(self.path, f"the ledger cannot be opened ({error})", "make room or repair the disk")
        return LedgerDamaged(self.path, str(error))
