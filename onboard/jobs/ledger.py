"""The ledger: what became of every scene, in one SQLite file that a power cut cannot tear.

A transaction that returned is on the disk. One sequence of numbers, which only grows, orders scenes, maps, receipts and
events; the wall clock orders nothing. Heartbeats and progress do not come here: storage wears.

A change of state names the states that it may begin from, and files that belong to a state change inside the
transaction that changes it: an ``act`` is called while the write lock is held, so no process comes between the two. It
must be short: a rename, never a copy.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from onboard.jobs.database import TIMEOUT_S, Database
from onboard.jobs.highwater import HighWaterMark, Mark, Note, rewrite_mark
from onboard.jobs.moment import moment
from onboard.mapping.files import storage_error

PRIORITIES: Final = ("urgent", "high", "routine")
STATES: Final = ("queued", "running", "mapped", "failed", "quarantined", "cancelled")
OVER: Final = ("failed", "quarantined", "cancelled")
"""States after which the same scene may be tried again."""

Act = Callable[[], object]
"""What is done to files inside a transaction."""

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
MIGRATIONS: Final = (_SCHEMA, _ROOM)
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
        pixels: width times height; 0 where nobody looked yet.
        waiting_reason: why it is not started though it is its turn; None where it only waits for its turn.
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
    pixels: int = 0
    waiting_reason: str | None = None

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

    Args:
        path: of the file, made if missing.
        timeout_s: longest wait for another process's transaction.

    Raises:
        LedgerDamaged: the file is no ledger, is damaged, or is of a newer version.
        StorageError: the disk is full or failed: nothing is wrong with what the file holds.
    """

    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._base = Database(path, MIGRATIONS, timeout_s)
        self._mark = HighWaterMark(path)
        # What the transaction under way adds to the mark.
        self._receipts: dict[str, str] = {}
        self._cancelled: list[str] = []
        self._queued: list[str] = []

    def check(self) -> None:
        """Reads the whole file; see :meth:`Database.check`."""
        self._base.check()

    def checkpoint(self, wait_s: float = 0.0) -> bool:
        """Empties the write-ahead log; see :meth:`Database.checkpoint`."""
        return self._base.checkpoint(wait_s)

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

    # Scenes

    def next_sequence(self) -> int:
        """A number greater than all before, durably."""
        with self._writing():
            return self._next()

    def reached(self) -> int:
        """The last number given out; 0 by a new ledger."""
        row = self._base.one("SELECT value FROM counter")
        return 0 if row is None else int(row[0])

    def skip_to(self, number: int) -> None:
        """Numbers from now on are greater than this one."""
        with self._writing():
            self._base.change("UPDATE counter SET value = max(value, ?)", number)

    def add_scene(self, row: SceneRow, act: Act | None = None) -> SceneRow:
        """Takes a scene up; if the same bytes are here for the same model and options, gives that row instead.

        ``act`` puts its files in place; it is not called where the scene is known.
        """
        with self._writing():
            known = self._base.one("SELECT * FROM scenes WHERE key = ?", row.key)
            if known is not None:
                return _scene(known)
            if act is not None:
                act()
            self._base.change("UPDATE counter SET value = max(value, ?)", row.sequence)
            self._base.change(
                "INSERT INTO scenes (id, sequence, key, sha256, bytes, name, priority, acquired, model, options, "
                "received, state, changed, pixels) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row.id, row.sequence, row.key, row.sha256, row.bytes, row.name, PRIORITIES.index(row.priority),
                row.acquired, row.model, row.options, json.dumps(row.received), row.state, self._next(), row.pixels,
            )  # fmt: skip
        return self.scene(row.id) or row

    def queue_again(self, scene_id: str, priority: str, act: Act | None = None) -> SceneRow | None:
        """A new attempt of a scene that is over, for which ``act`` puts the files in place; None if it is not over."""
        with self._writing():
            done = self._base.change(
                f"UPDATE scenes SET state = 'queued', deaths = 0, problem = NULL, priority = ?, changed = ? "  # noqa: S608 -- constants
                f"WHERE id = ? AND state IN {OVER}",
                PRIORITIES.index(priority), self._next(), scene_id,
            )  # fmt: skip
            if done:
                self._queued.append(scene_id)
                if act is not None:
                    act()
        return self.scene(scene_id) if done else None

    def while_in(self, scene_id: str, states: Sequence[str], act: Act) -> bool:
        """Calls ``act`` while the scene is held in one of these states; False, and no call, if it is in none."""
        with self._base.writing():
            if self.state_of(scene_id) not in states:
                return False
            act()
        return True

    def forget_cancelled(self, scene_id: str) -> bool:
        """Takes the map of a cancelled scene off the list, before its files go; False if it is not cancelled."""

        def forget() -> None:
            self._base.change("DELETE FROM maps WHERE id = ?", scene_id)

        return self.while_in(scene_id, ("cancelled",), forget)

    def scene(self, scene_id: str) -> SceneRow | None:
        """By its id."""
        row = self._base.one("SELECT * FROM scenes WHERE id = ?", scene_id)
        return None if row is None else _scene(row)

    def scene_by_key(self, key: str) -> SceneRow | None:
        """By :func:`scene_key`."""
        row = self._base.one("SELECT * FROM scenes WHERE key = ?", key)
        return None if row is None else _scene(row)

    def scenes(self, *, state: str | None = None, after: int = 0, limit: int = 100) -> list[SceneRow]:
        """In the order they came, those behind sequence number ``after``."""
        where = "sequence > ?" + ("" if state is None else " AND state = ?")
        arguments = (after,) if state is None else (after, state)
        query = f"SELECT * FROM scenes WHERE {where} ORDER BY sequence LIMIT ?"  # noqa: S608 -- constants
        return [_scene(row) for row in self._base.all(query, *arguments, limit)]

    def counts(self) -> dict[str, int]:
        """Scenes in each state, all states named."""
        counted = {row[0]: row[1] for row in self._base.all("SELECT state, count(*) FROM scenes GROUP BY state")}
        return {state: int(counted.get(state, 0)) for state in STATES}

    def queue(self) -> Iterator[SceneRow]:
        """Queued scenes in their turn: the most urgent first, the oldest of those; those that wait aside as well."""
        last = (-1, 0)
        while rows := self._base.all(
            "SELECT * FROM scenes WHERE state = 'queued' AND (priority, sequence) > (?, ?) "
            "ORDER BY priority, sequence LIMIT 100",
            *last,
        ):
            last = (rows[-1]["priority"], rows[-1]["sequence"])
            yield from map(_scene, rows)

    def waiting(self) -> SceneRow | None:
        """The queued scene whose turn it is."""
        return next(self.queue(), None)

    def aside(self, limit: int = 100) -> list[SceneRow]:
        """Queued scenes that cannot be started now, in their turn."""
        rows = self._base.all(
            "SELECT * FROM scenes WHERE state = 'queued' AND waiting_reason IS NOT NULL "
            "ORDER BY priority, sequence LIMIT ?",
            limit,
        )
        return [_scene(row) for row in rows]

    def set_aside(self, scene_id: str, reason: str | None) -> bool:
        """Notes why a queued scene is not started, or that it may be (None); False where that was known."""
        row = self._base.one("SELECT waiting_reason FROM scenes WHERE id = ? AND state = 'queued'", scene_id)
        if row is None or row[0] == reason:
            return False
        with self._writing():
            changed = self._base.change(
                "UPDATE scenes SET waiting_reason = ?, changed = ? WHERE id = ? AND state = 'queued'",
                reason, self._next(), scene_id,
            )  # fmt: skip
        return changed > 0

    def set_pixels(self, scene_id: str, pixels: int) -> None:
        """Notes a scene's size, where an earlier version of the service had not."""
        with self._base.writing():
            self._base.change("UPDATE scenes SET pixels = ? WHERE id = ?", pixels, scene_id)

    def state_of(self, scene_id: str) -> str | None:
        """Its state alone; cheap enough to ask for every batch."""
        row = self._base.one("SELECT state FROM scenes WHERE id = ?", scene_id)
        return None if row is None else str(row["state"])

    def more_urgent_waits(self, priority: str) -> bool:
        """Whether a scene of a higher class could be started."""
        query = "SELECT 1 FROM scenes WHERE state = 'queued' AND priority < ? AND waiting_reason IS NULL LIMIT 1"
        return self._base.one(query, PRIORITIES.index(priority)) is not None

    def start(self, scene_id: str) -> bool:
        """Queued to running; False if it was cancelled meanwhile."""
        return self._change(scene_id, ("queued",), "running", attempts=1)

    def put_back(self, scene_id: str) -> bool:
        """Running to queued: it yielded, or its worker ended."""
        return self._change(scene_id, ("running",), "queued")

    def retarget(self, scene_id: str, model: str, options: str) -> bool:
        """A queued scene is to be mapped by another model or with other options; False if that work is known."""
        with self._writing():
            row = self._base.one("SELECT sha256 FROM scenes WHERE id = ? AND state = 'queued'", scene_id)
            if row is None:
                return False
            key = scene_key(str(row["sha256"]), model, options)
            if self._base.one("SELECT 1 FROM scenes WHERE key = ?", key) is not None:
                return False
            self._base.change(
                "UPDATE scenes SET model = ?, options = ?, key = ?, changed = ? WHERE id = ?",
                model, options, key, self._next(), scene_id,
            )  # fmt: skip
        return True

    def queue_mapped_again(self, scene_id: str) -> bool:
        """Mapped to queued: its map was lost."""
        return self._change(scene_id, ("mapped",), "queued")

    def fail(self, scene_id: str, problem: str, *, before: Sequence[str] = ("running", "queued")) -> bool:
        """From one of these states to failed: the scene cannot be mapped."""
        return self._change(scene_id, before, "failed", problem=problem)

    def cancel(self, scene_id: str) -> str | None:
        """Any state but cancelled to cancelled; gives the state before, None where nothing was changed."""
        with self._writing():
            state = self.state_of(scene_id)
            if state in (None, "cancelled"):
                return None
            self._base.change(
                "UPDATE scenes SET state = 'cancelled', problem = NULL, waiting_reason = NULL, changed = ? "
                "WHERE id = ?",
                self._next(), scene_id,
            )  # fmt: skip
            self._cancelled.append(scene_id)
        return state

    def record_death(self, scene_id: str, limit: int) -> bool:
        """Counts a death of the worker against a scene; True if that was one too many and it is quarantined."""
        with self._writing():
            self._base.change("UPDATE scenes SET deaths = deaths + 1 WHERE id = ?", scene_id)
            row = self._base.one("SELECT deaths, state FROM scenes WHERE id = ?", scene_id)
            if row is None or row["deaths"] < limit or row["state"] not in ("queued", "running"):
                return False
            problem = f"the worker died on it {row['deaths']} times; deliver it again in another form, or cancel it"
            self._base.change(
                "UPDATE scenes SET state = 'quarantined', problem = ?, waiting_reason = NULL, changed = ? "
                "WHERE id = ?",
                problem, self._next(), scene_id,
            )  # fmt: skip
        return True

    def running(self) -> list[SceneRow]:
        """What a worker has begun; more than one only after a crash."""
        return [_scene(row) for row in self._base.all("SELECT * FROM scenes WHERE state = 'running'")]

    # Maps

    def finish(self, row: MapRow, figures: Mapping[str, Any]) -> bool:
        """Running to mapped, with its map, in one transaction; False, and no map, where it is not running any more."""
        with self._writing():
            done = self._change_to_mapped(row.id, figures, ("running",))
            if done:
                self._insert_map(row)
        return done

    def publish(self, row: MapRow, figures: Mapping[str, Any]) -> MapRow:
        """Takes up a map that stands on the disk, whatever its scene's state; a map known already stays as it is."""
        with self._writing():
            self._insert_map(row)
            self._change_to_mapped(row.id, figures, [state for state in STATES if state != "cancelled"])
        return self.map(row.id) or row

    def map(self, map_id: str) -> MapRow | None:
        """By its id, which is its scene's."""
        row = self._base.one("SELECT * FROM maps WHERE id = ?", map_id)
        return None if row is None else _map(row)

    def maps(self, *, after: int = 0, limit: int = 100, undelivered: bool = False) -> list[MapRow]:
        """In the order they were published, those behind sequence number ``after``."""
        only = "AND delivered IS NULL" if undelivered else ""
        query = f"SELECT * FROM maps WHERE sequence > ? {only} ORDER BY sequence LIMIT ?"  # noqa: S608 -- constants
        return [_map(row) for row in self._base.all(query, after, limit)]

    def drop_map(self, row: MapRow, problem: str) -> bool:
        """Forgets this very map, before its files go; False if another stands there now.

        Where the ground does not hold it, its scene has failed by ``problem``.
        """
        with self._writing():
            now = self._base.one("SELECT sequence, delivered FROM maps WHERE id = ?", row.id)
            if now is None or now["sequence"] != row.sequence:
                return False
            self._base.change("DELETE FROM maps WHERE id = ?", row.id)
            if now["delivered"] is None:
                self._fail_mapped(row.id, problem)
        return True

    def while_unlisted(self, map_id: str, act: Act) -> bool:
        """Calls ``act`` while no map of this id is listed and none is being made; False, and no call, otherwise."""
        with self._base.writing():
            if self.holds_map(map_id) or self.state_of(map_id) == "running":
                return False
            act()
        return True

    def lose_map(self, map_id: str, problem: str) -> None:
        """Forgets a map that the ground does not hold: its scene has failed, and may be delivered again."""
        with self._writing():
            self._base.change("DELETE FROM maps WHERE id = ?", map_id)
            self._fail_mapped(map_id, problem)

    def drop_assets(self, map_id: str, names: Sequence[str]) -> None:
        """Forgets files of a map, which stays."""
        with self._base.writing():
            row = self._base.one("SELECT assets FROM maps WHERE id = ?", map_id)
            if row is not None:
                kept = {name: facts for name, facts in json.loads(row["assets"]).items() if name not in names}
                self._base.change("UPDATE maps SET assets = ? WHERE id = ?", json.dumps(kept), map_id)

    def holds_map(self, map_id: str) -> bool:
        """Whether it is here."""
        return self._base.one("SELECT 1 FROM maps WHERE id = ?", map_id) is not None

    def receipt(self, map_id: str) -> bool:
        """The ground holds this map; False if that was known."""
        with self._writing():
            row = self._base.one("SELECT assets FROM maps WHERE id = ? AND delivered IS NULL", map_id)
            if row is None:
                return False
            self._base.change("UPDATE maps SET delivered = ? WHERE id = ?", self._next(), map_id)
            self._receipts[map_id] = str(json.loads(row["assets"]).get("map.tif", {}).get("sha256", ""))
        return True

    def remove_map(self, map_id: str) -> bool:
        """Forgets a map, before its files go."""
        with self._base.writing():
            return self._base.change("DELETE FROM maps WHERE id = ?", map_id) > 0

    # Events

    def tell(self, severity: str, kind: str, text: str, about: str | None = None) -> int:
        """Writes an event; gives its sequence number."""
        with self._writing():
            number = self._next()
            self._base.change(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                number, severity, kind, about, text, json.dumps(moment()),
            )  # fmt: skip
            for known, limit in ((self.acknowledged(), EVENTS_KEPT // 2), (number, EVENTS_KEPT)):
                self._base.change(
                    "DELETE FROM events WHERE sequence <= ? AND sequence <="
                    " (SELECT sequence FROM events ORDER BY sequence DESC LIMIT 1 OFFSET ?)",
                    known, limit,
                )  # fmt: skip
        return number

    def acknowledged(self) -> int:
        """Sequence number up to which the ground has the events."""
        row = self._base.one("SELECT value FROM acknowledged")
        return 0 if row is None else int(row[0])

    def acknowledge(self, sequence: int) -> int:
        """The ground has the events up to here; gives the highest number ever said, never one to come."""
        with self._base.writing():
            self._base.change(
                "UPDATE acknowledged SET value = max(value, min(?, (SELECT value FROM counter)))", sequence
            )
        return self.acknowledged()

    def events(self, *, after: int = 0, limit: int = 100) -> list[Event]:
        """In their order, those behind sequence number ``after``."""
        rows = self._base.all("SELECT * FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?", after, limit)
        return [Event(**{**dict(row), "at": json.loads(row["at"])}) for row in rows]

    def close(self) -> None:
        """Closes the connection."""
        self._base.close()
        self._mark.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction (:meth:`Database.writing`) whose numbers go into the high-water mark when it is committed."""
        self._receipts, self._cancelled, self._queued = {}, [], []
        with self._base.writing():
            before = self.reached()
            yield
            number = self.reached()
        if number != before:
            self._mark.note(Note(number, self._receipts, self._cancelled, self._queued))

    def _next(self) -> int:
        self._base.change("UPDATE counter SET value = value + 1")
        return self.reached()

    def _insert_map(self, row: MapRow) -> None:
        self._base.change(
            "INSERT OR IGNORE INTO maps (id, sequence, priority, assets, item) VALUES (?, ?, ?, ?, ?)",
            row.id, self._next(), PRIORITIES.index(row.priority), json.dumps(row.assets), json.dumps(row.item),
        )  # fmt: skip

    def _change_to_mapped(self, scene_id: str, figures: Mapping[str, Any], before: Sequence[str]) -> bool:
        marks = ", ".join("?" * len(before))
        changed = self._base.change(
            f"UPDATE scenes SET state = 'mapped', figures = ?, problem = NULL, waiting_reason = NULL, changed = ? "  # noqa: S608 -- marks
            f"WHERE id = ? AND state IN ({marks})",
            json.dumps(figures), self._next(), scene_id, *before,
        )  # fmt: skip
        return changed > 0

    def _fail_mapped(self, scene_id: str, problem: str) -> None:
        self._base.change(
            "UPDATE scenes SET state = 'failed', problem = ?, changed = ? WHERE id = ? AND state = 'mapped'",
            problem, self._next(), scene_id,
        )  # fmt: skip

    def _change(
        self, scene_id: str, before: Sequence[str], after: str, *, problem: str | None = None, attempts: int = 0
    ) -> bool:
        marks = ", ".join("?" * len(before))
        with self._writing():
            changed = self._base.change(
                f"UPDATE scenes SET state = ?, problem = ?, waiting_reason = NULL, attempts = attempts + ?, "  # noqa: S608 -- marks
                f"changed = ? WHERE id = ? AND state IN ({marks})",
                after, problem, attempts, self._next(), scene_id, *before,
            )  # fmt: skip
            return changed > 0


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
