"""Scenes in the ledger: their rows, their queue, and every change of their state.

A change of state names the states it may begin from (:data:`TRANSITIONS`) and is one conditional UPDATE. Files that
belong to a state change inside the same transaction: see :data:`FileChange`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from onboard.jobs.highwater import Note
from onboard.jobs.ledger_database import FileChange, LedgerDatabase
from onboard.jobs.scene_states import PRIORITIES, STATES, TRANSITIONS, Transition

HEADS = "heads"
"""Option of a scene whose deliverer named heads of the model."""


@dataclass(frozen=True)
class SceneRow:
    """A scene as the ledger has it.

    Attributes:
        id: ours, also the name of its folder and of its map.
        sequence: when it came, in the ledger's order.
        sha256, bytes: digest and size of its file, or of all its files.
        name: its deliverer's; never part of a path.
        priority: one of :data:`PRIORITIES`.
        acquired: RFC 3339 time of acquisition as the deliverer gave it, or None.
        model, options: digest of the model, and what else decides the map's pixels (canonical JSON).
        received: see :func:`onboard.jobs.timestamps.timestamp`.
        state: one of :data:`STATES`; ``changed`` is the sequence number of its last change.
        attempts: how often mapping was begun; ``crashes`` how often the worker ended while it was mapped.
        problem: why it failed, and what to do.
        figures: of the finished mapping: tiles, seconds, energy.
        pixels: width times height of the scene, or of its enlargement for the model where that has more; 0 where it
            was not looked at yet.
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
    crashes: int = 0
    problem: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    pixels: int = 0
    waiting_reason: str | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads that its deliverer asked for; none where the settings decide."""
        return tuple(json.loads(self.options).get(HEADS, ()))

    @property
    def key(self) -> str:
        """Equal for the same bytes under the same model and options."""
        return scene_key(self.sha256, self.model, self.options)


def scene_key(sha256: str, model: str, options: str) -> str:
    """SHA-256, in hex, of what a map depends on."""
    return hashlib.sha256("\n".join((sha256, model, options)).encode()).hexdigest()


class SceneStore:
    """The ledger's scenes.

    Args:
        database: shared with the other stores of this ledger.
    """

    def __init__(self, database: LedgerDatabase) -> None:
        self._database = database

    def add(self, row: SceneRow, change_files: FileChange | None = None) -> SceneRow:
        """Adds a scene; returns the row that is there if the same bytes are known for the same model and options.

        ``change_files`` puts its files in place; it is not called where the scene is known.
        """
        with self._database.numbered():
            known = self._database.first("SELECT * FROM scenes WHERE key = ?", row.key)
            if known is not None:
                return _scene(known)
            if change_files is not None:
                change_files()
            # A scene that comes back from its folder has its number: later ones must be above it.
            self._database.raise_counter(row.sequence)
            self._database.change(
                "INSERT INTO scenes (id, sequence, key, sha256, bytes, name, priority, acquired, model, options, "
                "received, state, changed, pixels) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row.id, row.sequence, row.key, row.sha256, row.bytes, row.name, PRIORITIES.index(row.priority),
                row.acquired, row.model, row.options, json.dumps(row.received), row.state,
                self._database.next_number(), row.pixels,
            )  # fmt: skip
            return self.get(row.id) or row  # read within: once it is committed, another may cancel it

    def get(self, scene_id: str) -> SceneRow | None:
        """By its id."""
        row = self._database.first("SELECT * FROM scenes WHERE id = ?", scene_id)
        return None if row is None else _scene(row)

    def by_key(self, key: str) -> SceneRow | None:
        """By :func:`scene_key`."""
        row = self._database.first("SELECT * FROM scenes WHERE key = ?", key)
        return None if row is None else _scene(row)

    def page(self, *, state: str | None = None, after: int = 0, limit: int = 100) -> list[SceneRow]:
        """Scenes in the order they came, those behind sequence number ``after``."""
        where = "sequence > ?" + ("" if state is None else " AND state = ?")
        arguments = (after,) if state is None else (after, state)
        query = f"SELECT * FROM scenes WHERE {where} ORDER BY sequence LIMIT ?"  # noqa: S608 -- constants
        return [_scene(row) for row in self._database.all(query, *arguments, limit)]

    def counts(self) -> dict[str, int]:
        """Scenes in each state, all states named."""
        counted = {row[0]: row[1] for row in self._database.all("SELECT state, count(*) FROM scenes GROUP BY state")}
        return {state: int(counted.get(state, 0)) for state in STATES}

    def state_of(self, scene_id: str) -> str | None:
        """Its state alone; cheap enough to ask for every batch."""
        row = self._database.first("SELECT state FROM scenes WHERE id = ?", scene_id)
        return None if row is None else str(row["state"])

    def running(self) -> list[SceneRow]:
        """Scenes that a worker has begun; more than one only after a crash."""
        return [_scene(row) for row in self._database.all("SELECT * FROM scenes WHERE state = 'running'")]

    # The queue

    def queue(self) -> Iterator[SceneRow]:
        """Queued scenes in their turn: by priority, then by age; those that wait aside as well."""
        # By pages that continue behind the last row: the caller changes states while it reads.
        last = (-1, 0)
        while rows := self._database.all(
            "SELECT * FROM scenes WHERE state = 'queued' AND (priority, sequence) > (?, ?) "
            "ORDER BY priority, sequence LIMIT 100",
            *last,
        ):
            last = (rows[-1]["priority"], rows[-1]["sequence"])
            yield from map(_scene, rows)

    def next_queued(self) -> SceneRow | None:
        """The queued scene whose turn it is."""
        return next(self.queue(), None)

    def waiting_aside(self, limit: int = 100) -> list[SceneRow]:
        """Queued scenes that cannot be started now, in their turn."""
        rows = self._database.all(
            "SELECT * FROM scenes WHERE state = 'queued' AND waiting_reason IS NOT NULL "
            "ORDER BY priority, sequence LIMIT ?",
            limit,
        )
        return [_scene(row) for row in rows]

    def more_urgent_waits(self, priority: str) -> bool:
        """Whether a scene of a higher priority could be started."""
        query = "SELECT 1 FROM scenes WHERE state = 'queued' AND priority < ? AND waiting_reason IS NULL LIMIT 1"
        return self._database.first(query, PRIORITIES.index(priority)) is not None

    def set_waiting_reason(self, scene_id: str, reason: str | None) -> bool:
        """Notes why a queued scene is not started, or that it may be (None); False where that was known."""
        # Read before a transaction is begun: it is asked again and again, and most often nothing has changed.
        row = self._database.first("SELECT waiting_reason FROM scenes WHERE id = ? AND state = 'queued'", scene_id)
        if row is None or row[0] == reason:
            return False
        with self._database.numbered():
            changed = self._database.change(
                "UPDATE scenes SET waiting_reason = ?, changed = ? WHERE id = ? AND state = 'queued'",
                reason, self._database.next_number(), scene_id,
            )  # fmt: skip
        return changed > 0

    def set_pixels(self, scene_id: str, pixels: int) -> None:
        """Notes a scene's size, where an earlier version of the service had not."""
        with self._database.writing():
            self._database.change("UPDATE scenes SET pixels = ? WHERE id = ?", pixels, scene_id)

    def set_priority(self, scene_id: str, priority: str, change_files: FileChange) -> SceneRow | None:
        """Changes a queued scene's turn; ``change_files`` notes it in its folder; None if it does not wait."""
        with self._database.numbered():
            changed = self._database.change(
                "UPDATE scenes SET priority = ?, changed = ? WHERE id = ? AND state = 'queued'",
                PRIORITIES.index(priority), self._database.next_number(), scene_id,
            )  # fmt: skip
            if not changed:
                return None
            change_files()
            return self.get(scene_id)

    def retarget(self, scene_id: str, model: str, options: str) -> bool:
        """Has a queued scene mapped by another model or with other options; False if that work is known."""
        with self._database.numbered():
            row = self._database.first("SELECT sha256 FROM scenes WHERE id = ? AND state = 'queued'", scene_id)
            if row is None:
                return False
            key = scene_key(str(row["sha256"]), model, options)
            if self._database.first("SELECT 1 FROM scenes WHERE key = ?", key) is not None:
                return False  # two rows of one key would map the same bytes twice
            self._database.change(
                # Another model may enlarge the scene otherwise: its pixels are looked at again before it is started.
                "UPDATE scenes SET model = ?, options = ?, key = ?, changed = ?, pixels = 0 WHERE id = ?",
                model, options, key, self._database.next_number(), scene_id,
            )  # fmt: skip
        return True

    # Changes of state

    def start(self, scene_id: str) -> bool:
        """Queued to running; False if it was cancelled meanwhile."""
        with self._database.numbered():
            return self.change_state(scene_id, TRANSITIONS["start"], "attempts = attempts + 1")

    def requeue(self, scene_id: str) -> bool:
        """Running to queued: it was interrupted, or its worker ended."""
        with self._database.numbered():
            return self.change_state(scene_id, TRANSITIONS["requeue"])

    def requeue_mapped(self, scene_id: str) -> bool:
        """Mapped to queued: its map was lost."""
        with self._database.numbered():
            return self.change_state(scene_id, TRANSITIONS["remap"])

    def fail(self, scene_id: str, problem: str, *, before: tuple[str, ...] | None = None) -> bool:
        """Running or queued to failed, or from those of them in ``before`` only: the scene cannot be mapped."""
        transition = TRANSITIONS["fail"]
        with self._database.numbered():
            return self.change_state(
                scene_id, transition if before is None else transition.narrowed(before), problem=problem
            )

    def retry(
        self, scene_id: str, priority: str, change_files: FileChange | None = None, *, name: str | None = None,
        acquired: str | None = None,
    ) -> SceneRow | None:  # fmt: skip
        """Queues a new attempt, for which ``change_files`` puts the files in place; None if it cannot be retried.

        Where ``name`` or ``acquired`` are given, the scene has these from now on.
        """
        with self._database.numbered():
            # Its crashes were of an earlier attempt, or of a file that is replaced now.
            is_done = self.change_state(
                scene_id,
                TRANSITIONS["retry"],
                "crashes = 0, priority = ?, name = coalesce(?, name), acquired = coalesce(?, acquired)",
                PRIORITIES.index(priority),
                name,
                acquired,
            )
            if not is_done:
                return None
            # In the mark too: after a loss, an older cancellation there must not win over this attempt.
            self._database.mark_queued_again(scene_id)
            if change_files is not None:
                change_files()
            return self.get(scene_id)

    def cancel(self, scene_id: str) -> str | None:
        """Any state but cancelled to cancelled; returns the state before, None where nothing was changed."""
        with self._database.numbered():
            # Within the transaction: the state that is given back is the one that was changed.
            state = self.state_of(scene_id)
            is_done = state in TRANSITIONS["cancel"].before
            if is_done:
                self.change_state(scene_id, TRANSITIONS["cancel"])
                self._database.mark_cancelled(scene_id)
        if not is_done and (row := self.get(scene_id)) is not None:
            self.confirm(row)
        return state if is_done else None

    def confirm(self, row: SceneRow) -> None:
        """Makes sure that this state outlives a loss in the ledger, before it is told to who asks for it once more."""
        is_cancelled = row.state == "cancelled"
        self._database.complete_mark(
            Note(row.changed, cancelled=[row.id] if is_cancelled else [], queued=[] if is_cancelled else [row.id])
        )

    def record_crash(self, scene_id: str, limit: int) -> bool:
        """Counts an end of the worker against a scene; True if the limit is reached and it is quarantined."""
        with self._database.numbered():
            # Counted in any state: by now the scene is queued again. Whether it can be quarantined the transition says.
            self._database.change("UPDATE scenes SET crashes = crashes + 1 WHERE id = ?", scene_id)
            row = self._database.first("SELECT crashes FROM scenes WHERE id = ?", scene_id)
            if row is None or row["crashes"] < limit:
                return False
            problem = f"the worker crashed on it {row['crashes']} times; deliver it again in another form, or cancel it"
            return self.change_state(scene_id, TRANSITIONS["quarantine"], problem=problem)

    def while_in(self, scene_id: str, states: Sequence[str], change_files: FileChange) -> bool:
        """Calls ``change_files`` while the scene is held in one of these states; False, and no call, otherwise."""
        with self._database.writing():
            if self.state_of(scene_id) not in states:
                return False
            change_files()
        return True

    def change_state(
        self, scene_id: str, transition: Transition, columns: str = "", *values: object, problem: str | None = None
    ) -> bool:
        """One change of the table, inside a transaction (:meth:`LedgerDatabase.numbered`).

        Args:
            scene_id: of the scene.
            transition: of :data:`TRANSITIONS`, or narrowed.
            columns: further assignments in SQL, constants of our own; ``values`` are their parameters.
            values: see ``columns``.
            problem: why it failed; None clears it.

        Returns:
            False, and nothing is changed, where the scene is in no state that the transition begins from.
        """
        # A reason to wait holds for one stay in the queue, a problem until the next attempt: both are set anew here.
        marks = ", ".join("?" * len(transition.before))
        more = f"{columns}, " if columns else ""
        changed = self._database.change(
            f"UPDATE scenes SET {more}state = ?, problem = ?, waiting_reason = NULL, changed = ? "  # noqa: S608 -- constants
            f"WHERE id = ? AND state IN ({marks})",
            *values, transition.after, problem, self._database.next_number(), scene_id, *transition.before,
        )  # fmt: skip
        return changed > 0


_SCENE_FIELDS = [each.name for each in fields(SceneRow)]


def _scene(row: sqlite3.Row) -> SceneRow:
    columns = {name: row[name] for name in _SCENE_FIELDS}
    return SceneRow(
        **columns
        | {
            "priority": PRIORITIES[row["priority"]],
            "received": json.loads(row["received"]),
            "figures": json.loads(row["figures"]),
        }
    )
