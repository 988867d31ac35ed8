"""The ledger: the state of every scene, every map and every event, in one SQLite file that a power cut cannot tear.

A transaction that returned is on the disk. One sequence of numbers, which only grows, orders scenes, maps, receipts and
events; the wall clock orders nothing. Heartbeats and progress are not written here: storage wears.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from onboard.jobs.database import TIMEOUT_S
from onboard.jobs.event_log import EventLog
from onboard.jobs.highwater import Mark
from onboard.jobs.ledger_database import LedgerDatabase
from onboard.jobs.map_store import MapStore
from onboard.jobs.model_store import ModelStore
from onboard.jobs.scene_store import SceneStore

if TYPE_CHECKING:
    from typing_extensions import Self


class Ledger:
    """One open ledger, for one thread; any number of processes may open one. A context manager.

    Args:
        path: of the file, made if missing.
        timeout_s: longest wait for another process's transaction.

    Attributes:
        scenes: rows and states of scenes.
        maps: rows and receipts of maps.
        events: for the operator.
        models: that may map scenes, and which one does.

    Raises:
        LedgerDamaged: the file is no ledger, is damaged, or is of a newer version.
        StorageError: the disk is full or failed: nothing is wrong with what the file holds.
    """

    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._database = LedgerDatabase(path, timeout_s)
        self.scenes = SceneStore(self._database)
        self.maps = MapStore(self._database, self.scenes)
        self.events = EventLog(self._database)
        self.models = ModelStore(self._database)

    def next_sequence(self) -> int:
        """A number greater than all before, durably."""
        with self._database.numbered():
            return self._database.next_number()

    def reached(self) -> int:
        """The last number given out; 0 by a new ledger."""
        return self._database.reached()

    def skip_to(self, number: int) -> None:
        """Has later numbers be greater than this one."""
        with self._database.numbered():
            self._database.raise_counter(number)

    def check(self) -> None:
        """Reads the whole file; see :meth:`Database.check`."""
        self._database.check()

    def checkpoint(self, wait_s: float = 0.0) -> bool:
        """Empties the write-ahead log; see :meth:`Database.checkpoint`."""
        return self._database.checkpoint(wait_s)

    def renew_mark(self, mark: Mark) -> None:
        """Writes the high-water mark anew; see :meth:`LedgerDatabase.renew_mark`."""
        self._database.renew_mark(mark)

    def close(self) -> None:
        """Closes the connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
