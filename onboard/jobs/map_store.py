"""Published maps in the ledger: their rows, their receipts, and the changes of their scenes that go with them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onboard.jobs.highwater import Note
from onboard.jobs.ledger_database import FileChange, LedgerDatabase
from onboard.jobs.scene_states import PRIORITIES, TRANSITIONS
from onboard.jobs.scene_store import SceneStore


@dataclass(frozen=True)
class MapRow:
    """A published map.

    Attributes:
        id: its scene's.
        sequence: when it was published, in the ledger's order.
        priority: its scene's.
        assets: by file name, {"bytes", "sha256"}; of map.tif also "heads" (see onboard.mapping.cog_prefix).
        item: its STAC item, as in map.json.
        delivered: the sequence number of the receipt, None before it.
    """

    id: str
    sequence: int
    priority: str
    assets: Mapping[str, Mapping[str, Any]]
    item: Mapping[str, Any]
    delivered: int | None = None


class MapStore:
    """The ledger's maps.

    Args:
        database: shared with the other stores of this ledger.
        scenes: whose states change with their maps.
    """

    def __init__(self, database: LedgerDatabase, scenes: SceneStore) -> None:
        self._database, self._scenes = database, scenes

    def finish(self, row: MapRow, figures: Mapping[str, Any]) -> bool:
        """Running to mapped, with its map, in one transaction; False, and no map, where it is not running any more."""
        with self._database.numbered():
            is_done = self._scenes.change_state(row.id, TRANSITIONS["finish"], "figures = ?", json.dumps(figures))
            if is_done:
                # A row of an earlier map may stand after the ledger fell back; its files are gone.
                self._database.change("DELETE FROM maps WHERE id = ?", row.id)
                self._insert(row)
        return is_done

    def adopt(self, row: MapRow, figures: Mapping[str, Any], *, replace: bool = False) -> MapRow:
        """Adds a map that stands on the disk, whatever its scene's state.

        A map known already stays as it is, unless it is another one of the same scene, to be put in its place.
        """
        with self._database.numbered():
            if replace:
                self._database.change("DELETE FROM maps WHERE id = ?", row.id)
            self._insert(row)
            self._scenes.change_state(row.id, TRANSITIONS["adopt"], "figures = ?", json.dumps(figures))
            return self.get(row.id) or row

    def get(self, map_id: str) -> MapRow | None:
        """By its id."""
        row = self._database.first("SELECT * FROM maps WHERE id = ?", map_id)
        return None if row is None else _map(row)

    def holds(self, map_id: str) -> bool:
        """Whether a map of this id is listed."""
        return self._database.first("SELECT 1 FROM maps WHERE id = ?", map_id) is not None

    def page(self, *, after: int = 0, limit: int = 100, undelivered: bool = False) -> list[MapRow]:
        """Maps in the order they were published, those behind sequence number ``after``."""
        only = "AND delivered IS NULL" if undelivered else ""
        query = f"SELECT * FROM maps WHERE sequence > ? {only} ORDER BY sequence LIMIT ?"  # noqa: S608 -- constants
        return [_map(row) for row in self._database.all(query, after, limit)]

    def newest(self, limit: int) -> list[MapRow]:
        """The maps that were published last, the newest first."""
        return [_map(row) for row in self._database.all("SELECT * FROM maps ORDER BY sequence DESC LIMIT ?", limit)]

    def record_receipt(self, map_id: str) -> bool:
        """Notes that the ground holds this map; False if that was known."""
        with self._database.numbered():
            row = self._database.first("SELECT assets FROM maps WHERE id = ? AND delivered IS NULL", map_id)
            if row is not None:
                number = self._database.next_number()
                self._database.change("UPDATE maps SET delivered = ? WHERE id = ?", number, map_id)
                # With the map's digest: a receipt that comes back after a loss counts only for a map of the same bytes.
                self._database.mark_receipt(map_id, str(json.loads(row["assets"]).get("map.tif", {}).get("sha256", "")))
        if row is None:
            self._confirm_receipt(map_id)
        return row is not None

    def _confirm_receipt(self, map_id: str) -> None:
        """Makes sure that a receipt known already outlives a loss in the ledger."""
        known = self.get(map_id)
        if known is not None and known.delivered is not None and (facts := known.assets.get("map.tif")):
            self._database.complete_mark(Note(known.delivered, receipts={map_id: str(facts["sha256"])}))

    def drop(self, row: MapRow, problem: str) -> bool:
        """Removes the row of this very map, before its files go; False if another stands there now.

        Where the ground does not hold it, its scene has failed by ``problem``.
        """
        with self._database.numbered():
            now = self._database.first("SELECT sequence, delivered FROM maps WHERE id = ?", row.id)
            # Since the caller looked, the scene may have been mapped again: that map is not the one to be dropped.
            if now is None or now["sequence"] != row.sequence:
                return False
            self._database.change("DELETE FROM maps WHERE id = ?", row.id)
            if now["delivered"] is None:
                self._scenes.change_state(row.id, TRANSITIONS["lose"], problem=problem)
        return True

    def lose(self, map_id: str, problem: str) -> None:
        """Removes the row of a map that the ground does not hold: its scene has failed, and may be delivered again."""
        with self._database.numbered():
            self._database.change("DELETE FROM maps WHERE id = ?", map_id)
            self._scenes.change_state(map_id, TRANSITIONS["lose"], problem=problem)

    def drop_assets(self, map_id: str, names: Sequence[str]) -> None:
        """Removes files from a map's row, which stays."""
        with self._database.writing():
            row = self._database.first("SELECT assets FROM maps WHERE id = ?", map_id)
            if row is not None:
                left = {name: facts for name, facts in json.loads(row["assets"]).items() if name not in names}
                self._database.change("UPDATE maps SET assets = ? WHERE id = ?", json.dumps(left), map_id)

    def remove(self, map_id: str) -> bool:
        """Removes a map's row, before its files go; False if there is none."""
        with self._database.writing():
            return self._database.change("DELETE FROM maps WHERE id = ?", map_id) > 0

    def remove_cancelled(self, scene_id: str) -> bool:
        """Removes the row of a cancelled scene's map, before its files go; False if the scene is not cancelled."""

        def remove() -> None:
            self._database.change("DELETE FROM maps WHERE id = ?", scene_id)

        return self._scenes.while_in(scene_id, ("cancelled",), remove)

    def while_unlisted(self, map_id: str, change_files: FileChange) -> bool:
        """Calls ``change_files`` while no map of this id is listed or being made; False, and no call, otherwise."""
        with self._database.writing():
            # A running scene may publish into this folder at any moment.
            if self.holds(map_id) or self._scenes.state_of(map_id) == "running":
                return False
            change_files()
        return True

    def _insert(self, row: MapRow) -> None:
        self._database.change(
            # OR IGNORE: a map that is listed keeps its row, and with it its receipt.
            "INSERT OR IGNORE INTO maps (id, sequence, priority, assets, item) VALUES (?, ?, ?, ?, ?)",
            row.id, self._database.next_number(), PRIORITIES.index(row.priority), json.dumps(row.assets),
            json.dumps(row.item),
        )  # fmt: skip


def _map(row: sqlite3.Row) -> MapRow:
    return MapRow(
        id=row["id"],
        sequence=row["sequence"],
        priority=PRIORITIES[row["priority"]],
        assets=json.loads(row["assets"]),
        item=json.loads(row["item"]),
        delivered=row["delivered"],
    )
