"""The ledger: what became of every scene, in one SQLite file that a power cut cannot tear.

WAL with synchronous=FULL: a transaction that returned is on the disk. One sequence of numbers, which only grows,
orders scenes, maps, receipts and events; the wall clock orders nothing. Heartbeats and progress do not come here:
storage wears.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from onboard.errors import LedgerDamaged, OnboardError, StorageError
from onboard.jobs.moment import moment

PRIORITIES: Final = ("urgent", "high", "routine")
STATES: Final = ("queued", "running", "mapped", "failed", "quarantined", "cancelled")
OVER: Final = ("failed", "quarantined", "cancelled")
"""States after which the same scene may be tried again."""
VERSION: Final = 1

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
EVENTS_KEPT: Final = 20_000
"""Beyond so many the oldest are forgotten, acknowledged ones first."""


@dataclass(frozen=True)
class SceneRow:
    """A scene as the ledger has it.

    Attributes:
        id: ours, also the name of its folder and of its map.
        sequence: when it came, in the ledger's order.
        name: its deliverer's; never part of a path.
        priority: one of :data:`PRIORITIES`.
        model, options: digest of the model, and what else decides the map's pixels (canonical JSON).
        received: see :func:`onboard.jobs.moment.moment`.
        state: one of :data:`STATES`; ``changed`` is the sequence number of its last change.
        attempts: how often mapping was begun; ``deaths`` how often it killed the worker.
        problem: why it failed, and what to do.
        figures: of the finished mapping: tiles, seconds, energy.
    """

    id: str
    sequence: int
    sha256: str
    bytes: int
    name: str
    priority: str
    acquired: str | None
    model: str
    options: str
    received: Mapping[str, Any]
    state: str = "queued"
    changed: int = 0
    attempts: int = 0
    deaths: int = 0
    problem: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Equal for the same bytes under the same model and options."""
        return scene_key(self.sha256, self.model, self.options)


@dataclass(frozen=True)
class MapRow:
    """A published map.

    Attributes:
        assets: by file name, {"bytes", "sha256"}.
        item: its STAC item, as in map.json.
        delivered: the sequence number of the receipt, None before it.
    """

    id: str
    sequence: int
    priority: str
    assets: Mapping[str, Mapping[str, Any]]
    item: Mapping[str, Any]
    delivered: int | None = None


@dataclass(frozen=True)
class Event:
    """Something an operator should know. ``severity`` is info, warning or error; ``about`` a scene's id, or None."""

    sequence: int
    severity: str
    kind: str
    about: str | None
    text: str
    at: Mapping[str, Any]


def scene_key(sha256: str, model: str, options: str) -> str:
    """Digest of what a map depends on."""
    return hashlib.sha256("\n".join((sha256, model, options)).encode()).hexdigest()


class Ledger:
    """One connection, for one thread; any number of processes may have one.

    Raises:
        LedgerDamaged: the file is no ledger, is damaged, or is of a newer version.
        StorageError: the disk is full or failed: nothing is wrong with what the file holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        self._base.row_factory = sqlite3.Row
        try:
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.execute("PRAGMA foreign_keys=ON")
            version = int(self._base.execute("PRAGMA user_version").fetchone()[0])
            if version > VERSION:
                raise LedgerDamaged(path, f"is of version {version}, this program knows {VERSION}")
            if version < VERSION:
                with self._writing():
                    # Not executescript: it would commit the transaction it stands in.
                    for statement in _SCHEMA.split(";\n"):
                        self._base.execute(statement)
                    self._base.execute(f"PRAGMA user_version={VERSION}")
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise self._failure(error) from error
        except StorageError:
            self._base.close()
            raise

    def check(self) -> None:
        """Reads the whole file.

        Raises:
            LedgerDamaged: something is not as it was written.
            StorageError: it cannot be read now.
        """
        try:
            told = [str(row[0]) for row in self._base.execute("PRAGMA quick_check")]
        except sqlite3.DatabaseError as error:
            raise self._failure(error) from error
        if told != ["ok"]:
            raise LedgerDamaged(self.path, told[0])

    # Scenes

    def next_sequence(self) -> int:
        """A number greater than all before, durably."""
        with self._writing():
            return self._next()

    def reached(self) -> int:
        """The last number given out; 0 by a new ledger."""
        return int(self._base.execute("SELECT value FROM counter").fetchone()[0])

    def skip_to(self, number: int) -> None:
        """Numbers from now on are greater than this one."""
        with self._writing():
            self._base.execute("UPDATE counter SET value = max(value, ?)", (number,))

    def add_scene(self, row: SceneRow) -> SceneRow:
        """Takes a scene up; if the same bytes are here for the same model and options, gives that row instead."""
        with self._writing():
            known = self._one("SELECT * FROM scenes WHERE key = ?", row.key)
            if known is not None:
                return _scene(known)
            self._base.execute("UPDATE counter SET value = max(value, ?)", (row.sequence,))
            changed = self._next()
            self._base.execute(
                "INSERT INTO scenes (id, sequence, key, sha256, bytes, name, priority, acquired, model, options, "
                "received, state, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row.id, row.sequence, row.key, row.sha256, row.bytes, row.name, PRIORITIES.index(row.priority),
                 row.acquired, row.model, row.options, json.dumps(row.received), row.state, changed),
            )  # fmt: skip
        return self.scene(row.id) or row

    def queue_again(self, scene_id: str, priority: str) -> SceneRow | None:
        """A new attempt of a scene that is over; None if it is not over."""
        with self._writing():
            self._base.execute(
                f"UPDATE scenes SET state = 'queued', deaths = 0, problem = NULL, priority = ?, changed = ? "  # noqa: S608 -- constants
                f"WHERE id = ? AND state IN {OVER}",
                (PRIORITIES.index(priority), self._next(), scene_id),
            )
            done = self._changes()
        return self.scene(scene_id) if done else None

    def scene(self, scene_id: str) -> SceneRow | None:
        """By its id."""
        row = self._one("SELECT * FROM scenes WHERE id = ?", scene_id)
        return None if row is None else _scene(row)

    def scene_by_key(self, key: str) -> SceneRow | None:
        """By :func:`scene_key`."""
        row = self._one("SELECT * FROM scenes WHERE key = ?", key)
        return None if row is None else _scene(row)

    def scenes(self, *, state: str | None = None, after: int = 0, limit: int = 100) -> list[SceneRow]:
        """In the order they came, those behind sequence number ``after``."""
        where = "sequence > ?" + ("" if state is None else " AND state = ?")
        arguments = (after,) if state is None else (after, state)
        rows = self._base.execute(
            f"SELECT * FROM scenes WHERE {where} ORDER BY sequence LIMIT ?",  # noqa: S608 -- constants
            (*arguments, limit),
        )
        return [_scene(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Scenes in each state, all states named."""
        found = dict(self._base.execute("SELECT state, count(*) FROM scenes GROUP BY state").fetchall())
        return {state: int(found.get(state, 0)) for state in STATES}

    def waiting(self) -> SceneRow | None:
        """The queued scene whose turn it is: the most urgent one, the oldest of those."""
        row = self._one("SELECT * FROM scenes WHERE state = 'queued' ORDER BY priority, sequence LIMIT 1")
        return None if row is None else _scene(row)

    def state_of(self, scene_id: str) -> str | None:
        """Its state alone; cheap enough to ask for every batch."""
        row = self._one("SELECT state FROM scenes WHERE id = ?", scene_id)
        return None if row is None else str(row["state"])

    def more_urgent_waits(self, priority: str) -> bool:
        """Whether a scene of a higher class is queued."""
        rank = PRIORITIES.index(priority)
        return self._one("SELECT 1 FROM scenes WHERE state = 'queued' AND priority < ? LIMIT 1", rank) is not None

    def start(self, scene_id: str) -> bool:
        """Queued to running; False if it was cancelled meanwhile."""
        return self._change(scene_id, ("queued",), "running", attempts=1)

    def put_back(self, scene_id: str) -> bool:
        """Running to queued: it yielded, or its worker ended."""
        return self._change(scene_id, ("running",), "queued")

    def retarget(self, scene_id: str, model: str, options: str) -> bool:
        """A queued scene is to be mapped by another model or with other options; False if that work is known."""
        with self._writing():
            row = self._one("SELECT sha256 FROM scenes WHERE id = ? AND state = 'queued'", scene_id)
            if row is None:
                return False
            key = scene_key(str(row["sha256"]), model, options)
            if self._one("SELECT 1 FROM scenes WHERE key = ?", key) is not None:
                return False
            self._base.execute(
                "UPDATE scenes SET model = ?, options = ?, key = ?, changed = ? WHERE id = ?",
                (model, options, key, self._next(), scene_id),
            )
        return True

    def queue_mapped_again(self, scene_id: str) -> bool:
        """Mapped to queued: its map was lost."""
        return self._change(scene_id, ("mapped",), "queued")

    def fail(self, scene_id: str, problem: str) -> bool:
        """Running or queued to failed: the scene cannot be mapped."""
        return self._change(scene_id, ("running", "queued"), "failed", problem=problem)

    def cancel(self, scene_id: str) -> bool:
        """Any state but cancelled to cancelled."""
        states = tuple(state for state in STATES if state != "cancelled")
        return self._change(scene_id, states, "cancelled")

    def record_death(self, scene_id: str, limit: int) -> bool:
        """Counts a death of the worker against a scene; True if that was one too many and it is quarantined."""
        with self._writing():
            self._base.execute("UPDATE scenes SET deaths = deaths + 1 WHERE id = ?", (scene_id,))
            row = self._one("SELECT deaths, state FROM scenes WHERE id = ?", scene_id)
            if row is None or row["deaths"] < limit or row["state"] not in ("queued", "running"):
                return False
            problem = f"the worker died on it {row['deaths']} times; deliver it again in another form, or cancel it"
            self._base.execute(
                "UPDATE scenes SET state = 'quarantined', problem = ?, changed = ? WHERE id = ?",
                (problem, self._next(), scene_id),
            )
        return True

    def running(self) -> list[SceneRow]:
        """What a worker has begun; more than one only after a crash."""
        return [_scene(row) for row in self._base.execute("SELECT * FROM scenes WHERE state = 'running'")]

    # Maps

    def publish(self, row: MapRow, figures: Mapping[str, Any]) -> MapRow:
        """Takes a map up and has its scene mapped, in one transaction; a map known already stays as it is."""
        with self._writing():
            self._base.execute(
                "INSERT OR IGNORE INTO maps (id, sequence, priority, assets, item) VALUES (?, ?, ?, ?, ?)",
                (row.id, self._next(), PRIORITIES.index(row.priority), json.dumps(row.assets), json.dumps(row.item)),
            )
            self._base.execute(
                "UPDATE scenes SET state = 'mapped', figures = ?, problem = NULL, changed = ? "
                "WHERE id = ? AND state != 'cancelled'",
                (json.dumps(figures), self._next(), row.id),
            )
        return self.map(row.id) or row

    def map(self, map_id: str) -> MapRow | None:
        """By its id, which is its scene's."""
        row = self._one("SELECT * FROM maps WHERE id = ?", map_id)
        return None if row is None else _map(row)

    def maps(self, *, after: int = 0, limit: int = 100, undelivered: bool = False) -> list[MapRow]:
        """In the order they were published, those behind sequence number ``after``."""
        only = "AND delivered IS NULL" if undelivered else ""
        rows = self._base.execute(
            f"SELECT * FROM maps WHERE sequence > ? {only} ORDER BY sequence LIMIT ?",  # noqa: S608 -- constants
            (after, limit),
        )
        return [_map(row) for row in rows]

    def lose_map(self, map_id: str, problem: str) -> None:
        """Forgets a map that the ground does not hold: its scene has failed, and may be delivered again."""
        with self._writing():
            self._base.execute("DELETE FROM maps WHERE id = ?", (map_id,))
            self._base.execute(
                "UPDATE scenes SET state = 'failed', problem = ?, changed = ? WHERE id = ? AND state = 'mapped'",
                (problem, self._next(), map_id),
            )

    def drop_assets(self, map_id: str, names: Sequence[str]) -> None:
        """Forgets files of a map, which stays."""
        with self._writing():
            row = self._one("SELECT assets FROM maps WHERE id = ?", map_id)
            if row is not None:
                kept = {name: facts for name, facts in json.loads(row["assets"]).items() if name not in names}
                self._base.execute("UPDATE maps SET assets = ? WHERE id = ?", (json.dumps(kept), map_id))

    def holds_map(self, map_id: str) -> bool:
        """Whether it is here."""
        return self._one("SELECT 1 FROM maps WHERE id = ?", map_id) is not None

    def receipt(self, map_id: str) -> bool:
        """The ground holds this map; False if that was known."""
        with self._writing():
            self._base.execute(
                "UPDATE maps SET delivered = ? WHERE id = ? AND delivered IS NULL", (self._next(), map_id)
            )
            return self._changes() > 0

    def remove_map(self, map_id: str) -> bool:
        """Forgets a map, before its files go."""
        with self._writing():
            self._base.execute("DELETE FROM maps WHERE id = ?", (map_id,))
            return self._changes() > 0

    # Events

    def tell(self, severity: str, kind: str, text: str, about: str | None = None) -> int:
        """Writes an event; gives its sequence number."""
        with self._writing():
            number = self._next()
            self._base.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                (number, severity, kind, about, text, json.dumps(moment())),
            )
            for known, limit in ((self.acknowledged(), EVENTS_KEPT // 2), (number, EVENTS_KEPT)):
                self._base.execute(
                    "DELETE FROM events WHERE sequence <= ? AND sequence <="
                    " (SELECT sequence FROM events ORDER BY sequence DESC LIMIT 1 OFFSET ?)",
                    (known, limit),
                )
        return number

    def acknowledged(self) -> int:
        """Sequence number up to which the ground has the events."""
        row = self._one("SELECT value FROM acknowledged")
        return 0 if row is None else int(row[0])

    def acknowledge(self, sequence: int) -> int:
        """The ground has the events up to here; gives the highest number ever said, never one to come."""
        with self._writing():
            self._base.execute(
                "UPDATE acknowledged SET value = max(value, min(?, (SELECT value FROM counter)))", (sequence,)
            )
        return self.acknowledged()

    def events(self, *, after: int = 0, limit: int = 100) -> list[Event]:
        """In their order, those behind sequence number ``after``."""
        rows = self._base.execute("SELECT * FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit))
        return [Event(**{**dict(row), "at": json.loads(row["at"])}) for row in rows]

    def close(self) -> None:
        """Closes the connection."""
        self._base.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that has the write lock from its start, so that none fails half way for want of it.

        Raises:
            StorageError: the disk is full; nothing was changed.
        """
        try:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            if "full" not in str(error) and "disk I/O" not in str(error):
                raise
            raise StorageError(self.path, f"the ledger cannot be written ({error})", "make room") from error

    def _failure(self, error: sqlite3.DatabaseError) -> OnboardError:
        if isinstance(error, sqlite3.OperationalError):  # full, locked, cannot be read: not what the file holds
            return StorageError(self.path, f"the ledger cannot be opened ({error})", "make room or mend the disk")
        return LedgerDamaged(self.path, str(error))

    def _next(self) -> int:
        self._base.execute("UPDATE counter SET value = value + 1")
        return int(self._base.execute("SELECT value FROM counter").fetchone()[0])

    def _changes(self) -> int:
        return int(self._base.execute("SELECT changes()").fetchone()[0])

    def _one(self, query: str, *arguments: object) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._base.execute(query, arguments).fetchone()
        return row

    def _change(
        self, scene_id: str, before: Sequence[str], after: str, *, problem: str | None = None, attempts: int = 0
    ) -> bool:
        marks = ", ".join("?" * len(before))
        with self._writing():
            self._base.execute(
                f"UPDATE scenes SET state = ?, problem = ?, attempts = attempts + ?, changed = ? "  # noqa: S608 -- marks
                f"WHERE id = ? AND state IN ({marks})",
                (after, problem, attempts, self._next(), scene_id, *before),
            )
            return self._changes() > 0


_SCENE_FIELDS = [each.name for each in fields(SceneRow)]


def _scene(row: sqlite3.Row) -> SceneRow:
    told = {name: row[name] for name in _SCENE_FIELDS}
    return SceneRow(
        **told
        | {
            "priority": PRIORITIES[row["priority"]],
            "received": json.loads(row["received"]),
            "figures": json.loads(row["figures"]),
        }
    )


def _map(row: sqlite3.Row) -> MapRow:
    return MapRow(
        id=row["id"],
        sequence=row["sequence"],
        priority=PRIORITIES[row["priority"]],
        assets=json.loads(row["assets"]),
        item=json.loads(row["item"]),
        delivered=row["delivered"],
    )
