"""Models in the ledger: their rows, which one is active, and every change of their state.

Exactly one row is active once the first model was noted. Activation and the way back are one transaction each, so a
power cut leaves the model of before or the one of after.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from onboard.jobs.ledger_database import LedgerDatabase
from onboard.jobs.model_states import MODEL_TRANSITIONS
from onboard.jobs.timestamps import timestamp

REPLACED = "another model was activated"


@dataclass(frozen=True)
class ModelRow:
    """A model as the ledger has it.

    Attributes:
        id: SHA-256 of its manifest.json, hex: the manifest names all other files with their digests.
        sequence: when it was first named, in the ledger's order.
        name, version: as its signed list or its manifest has them.
        origin: "shipped" with the software, or "uplink".
        state: of :data:`onboard.jobs.model_states.MODEL_STATES`.
        reason: why it is in this state, for people.
        files: by file name, {"sha256", "bytes"}.
        figures: measured at its verification (backend, agreement, seconds a tile, memory), and later.
        signed: version of the signed list that named it last; 0 for the shipped model.
        checks: verifications begun without an end.
        activated: number of its last activation in the ledger's order; 0 for none.
        failures: in service, in a row.
        has_proved: it has mapped a scene since its last activation.
        changed: number of the last change.
        received: see :func:`onboard.jobs.timestamps.timestamp`.
    """

    id: str
    sequence: int
    name: str
    version: str
    origin: str
    state: str
    reason: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    signed: int = 0
    checks: int = 0
    activated: int = 0
    failures: int = 0
    has_proved: bool = False
    changed: int = 0
    received: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For people: name, version and the beginning of its digest."""
        return f"{self.name} {self.version} ({self.id[:12]})"


class ModelStore:
    """The ledger's models.

    Args:
        database: shared with the other stores of this ledger.
    """

    def __init__(self, database: LedgerDatabase) -> None:
        self._database = database

    def get(self, model_id: str) -> ModelRow | None:
        """By its id."""
        row = self._database.first("SELECT * FROM models WHERE id = ?", model_id)
        return None if row is None else _model(row)

    def all(self) -> list[ModelRow]:
        """Every one, in the order they were first named; there are few."""
        return [_model(row) for row in self._database.all("SELECT * FROM models ORDER BY sequence")]

    def in_state(self, *states: str) -> list[ModelRow]:
        """Those in one of these states, in order."""
        return [row for row in self.all() if row.state in states]

    def active(self) -> ModelRow | None:
        """The model that maps; None before the first start with models."""
        row = self._database.first("SELECT * FROM models WHERE state = 'active'")
        return None if row is None else _model(row)

    def active_id(self) -> str | None:
        """Its id alone; cheap enough to ask between scenes and for every delivery."""
        row = self._database.first("SELECT id FROM models WHERE state = 'active'")
        return None if row is None else str(row["id"])

    def last_good(self) -> ModelRow | None:
        """The model to go back to: that on standby which was active last, else the shipped one."""
        row = self._database.first(
            # A model that never mapped is no better than the one that fails, so has_proved comes first. At equal rank
            # the shipped one wins: "shipped" sorts before "uplink".
            "SELECT * FROM models WHERE state = 'standby' ORDER BY has_proved DESC, activated DESC, origin LIMIT 1"
        )
        return None if row is None else _model(row)

    # What a signed list, or a start, says

    def name_signed(self, model_id: str, name: str, version: str, files: Mapping[str, Any], signed: int) -> bool:
        """Notes a model that a signed list names; True if its files are awaited from now on.

        One that is known keeps its state; a retired or refused one is awaited again by :meth:`begin_again`.
        """
        with self._database.numbered():
            if self.get(model_id) is not None:
                self._database.change("UPDATE models SET signed = ? WHERE id = ?", signed, model_id)
                return False
            number = self._database.next_number()
            self._insert(
                ModelRow(
                    model_id, number, name, version, "uplink", "receiving", "its files are awaited", files,
                    signed=signed, changed=number, received=timestamp(),
                )
            )  # fmt: skip
        return True

    def adopt(self, row: ModelRow) -> None:
        """Adds a model whose folder is on the disk and which the ledger does not know."""
        with self._database.numbered():
            number = self._database.next_number()
            self._insert(replace(row, sequence=number, changed=number))

    def begin_again(self, model_id: str, signed: int) -> bool:
        """Retired or refused to receiving: its files are gone, and a newer signed list names it."""
        with self._database.numbered():
            return self._change(
                model_id, "begin", "its files are awaited again", "signed = ?, checks = 0, failures = 0", signed
            )

    def note_shipped(self, row: ModelRow) -> None:
        """Notes the model that the settings name; that of earlier settings goes. It is active if no other one is."""
        with self._database.numbered():
            number = self._database.next_number()
            known = self.get(row.id)
            # The row of earlier settings may be the active one: then none is, and the new one is activated below.
            self._database.change("DELETE FROM models WHERE origin = 'shipped' AND id != ?", row.id)
            if known is None:
                self._insert(replace(row, sequence=number, changed=number))
            elif known.origin != "shipped":  # the same model came up the link before
                self._database.change("UPDATE models SET origin = 'shipped' WHERE id = ?", row.id)
                if known.state != "active":
                    self._database.change("UPDATE models SET state = 'standby' WHERE id = ?", row.id)
            if self.active_id() is None:
                # Not in the high-water mark: what that knows of may come back.
                self._database.change(
                    "UPDATE models SET state = 'active', reason = ?, activated = ? WHERE id = ?",
                    "shipped, and no other model is active", number, row.id,
                )  # fmt: skip

    # Changes of state

    def complete(self, model_id: str) -> bool:
        """Receiving to received."""
        with self._database.numbered():
            return self._change(model_id, "complete", "all files are here; it waits for its verification")

    def begin_check(self, model_id: str) -> int:
        """Counts a verification that begins; returns how many began without an end, this one included."""
        with self._database.writing():
            # Counted before it begins: one that brings the process down has been counted all the same.
            self._database.change("UPDATE models SET checks = checks + 1 WHERE id = ? AND state = 'received'", model_id)
            row = self._database.first("SELECT checks FROM models WHERE id = ?", model_id)
        return 0 if row is None else int(row["checks"])

    def verify(self, model_id: str, reason: str, figures: Mapping[str, Any]) -> bool:
        """Received to verified."""
        with self._database.numbered():
            return self._change(model_id, "verify", reason, "checks = 0, figures = ?", json.dumps(figures))

    def add_figures(self, model_id: str, figures: Mapping[str, Any]) -> None:
        """Adds figures to those of a model, in place of equal names."""
        with self._database.writing():
            row = self._database.first("SELECT figures FROM models WHERE id = ?", model_id)
            if row is not None:
                text = json.dumps({**json.loads(row["figures"]), **figures})
                self._database.change("UPDATE models SET figures = ? WHERE id = ?", text, model_id)

    def refuse(self, model_id: str, reason: str) -> bool:
        """Receiving, received or verified to refused."""
        with self._database.numbered():
            return self._change(model_id, "refuse", reason)

    def retire(self, model_id: str, reason: str) -> bool:
        """To retired, from every state but active and refused."""
        with self._database.numbered():
            return self._change(model_id, "retire", reason)

    def activate(self, model_id: str, reason: str) -> bool:
        """Makes it the active model, and the one of before a standby, in one transaction.

        False, and nothing is changed, where it is in no state to be activated.
        """
        with self._database.numbered():
            row = self.get(model_id)
            if row is None or row.state not in MODEL_TRANSITIONS["activate"].before:
                return False
            before = self.active_id()
            if before is not None:
                self._change(before, "replace", REPLACED)
            self._activate(model_id, reason)
        return True

    def fail(self, model_id: str, problem: str, limit: int) -> ModelRow | None:
        """Counts a failure of the active model; at the limit the last good one takes its place, in one transaction.

        Returns:
            The model that is active from now on; None where nothing changes: under the limit, or where it is the last
            resort, behind which there is none.
        """
        with self._database.numbered():
            self._database.change(
                "UPDATE models SET failures = failures + 1 WHERE id = ? AND state = 'active'", model_id
            )
            row, successor = self.get(model_id), self.last_good()
            if row is None or row.state != "active" or row.failures < limit or successor is None:
                return None
            # Back to standby, never retired: behind all others there must be one model that can be opened.
            change = "replace" if row.origin == "shipped" else "fall_back"
            self._change(model_id, change, f"{row.failures} failures in a row, the last: {problem}")
            self._activate(successor.id, f"the way back from {row.title}")
            return self.get(successor.id)

    def prove(self, model_id: str) -> None:
        """Notes that it mapped a scene: failures are counted from here."""
        row = self._database.first("SELECT failures, has_proved FROM models WHERE id = ?", model_id)
        if row is None or (row["has_proved"] and not row["failures"]):
            return  # nothing to write: storage wears
        with self._database.writing():
            self._database.change("UPDATE models SET has_proved = 1, failures = 0 WHERE id = ?", model_id)

    def _activate(self, model_id: str, reason: str) -> None:
        self._database.change(
            "UPDATE models SET state = 'active', reason = ?, activated = ?, changed = ?, failures = 0, has_proved = 0 "
            "WHERE id = ?",
            reason, self._database.next_number(), self._database.reached(), model_id,
        )  # fmt: skip
        self._database.mark_active(model_id)

    def _change(self, model_id: str, name: str, reason: str, columns: str = "", *values: object) -> bool:
        """One change of the table, inside a transaction; see :meth:`SceneStore.change_state`."""
        transition = MODEL_TRANSITIONS[name]
        marks = ", ".join("?" * len(transition.before))
        more = f"{columns}, " if columns else ""
        changed = self._database.change(
            f"UPDATE models SET {more}state = ?, reason = ?, changed = ? WHERE id = ? AND state IN ({marks})",  # noqa: S608 -- constants
            *values, transition.after, reason, self._database.next_number(), model_id, *transition.before,
        )  # fmt: skip
        return changed > 0

    def _insert(self, row: ModelRow) -> None:
        columns = {**row.__dict__, **{name: json.dumps(getattr(row, name)) for name in _JSON}}
        names = ", ".join(_FIELDS)
        marks = ", ".join("?" * len(_FIELDS))
        self._database.change(
            f"INSERT INTO models ({names}) VALUES ({marks})",  # noqa: S608 -- constants
            *(columns[name] for name in _FIELDS),
        )


_FIELDS = [each.name for each in fields(ModelRow)]
_JSON = ("files", "figures", "received")


def _model(row: sqlite3.Row) -> ModelRow:
    columns = {name: row[name] for name in _FIELDS}
    return ModelRow(
        **columns | {name: json.loads(row[name]) for name in _JSON} | {"has_proved": bool(row["has_proved"])}
    )
