"""Areas of interest of a service: as set or pushed up, and what the last map of each showed.

Alerts are written into a map's item before it is published, and become events after: what a power cut leaves out
between the two is made up for at the next look, since the file of last shares names the map it has come to.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from engines.files import replace_file, synced_folder
from engines.manifest import Manifest
from onboard.errors import OptionsRefused, StorageError
from onboard.files import storage_error
from onboard.jobs.ledger import Ledger
from onboard.jobs.map_store import MapRow
from onboard.jobs.published import AREAS
from onboard.scene.areas import MOST_BYTES, Area, Areas, read_areas
from onboard.settings import Settings

log = logging.getLogger(__name__)
ALERT: Final = "area-alert"
_PAGE = 200
_OWN_FILE = 4 * MOST_BYTES
"""Longest file of our own: what was left out of the areas as they were given stands in it with its default."""


class AreaStore:
    """The areas that count now; any process may have one.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self._given, self._pushed = settings.areas, settings.data_dir / "areas.json"

    def read(self) -> Areas:
        """Those that were pushed up, else those of the setting.

        Raises:
            OptionsRefused: the file cannot be read, or holds something else.
        """
        if self._pushed.exists():
            return read_areas(self._pushed, _OWN_FILE)
        return Areas.of([]) if self._given is None else read_areas(self._given)

    def check(self, manifest: Manifest) -> None:
        """Passes if the setting's file holds areas whose classes the model has.

        Raises:
            OptionsRefused: it does not.
        """
        if self._given is not None:
            check_areas(read_areas(self._given), manifest)

    def write(self, areas: Areas) -> None:
        """Has these count from the next scene on, in place of all others.

        Raises:
            StorageError: the disk is full or failed; those before stay.
        """
        try:
            replace_file(self._pushed, areas.as_json())
        except OSError as error:
            raise storage_error(error, self._pushed) from error

    def forget(self) -> bool:
        """Forgets what was pushed up: the setting's count again; False where nothing was.

        Raises:
            StorageError: the disk failed.
        """
        try:
            self._pushed.unlink()
            synced_folder(self._pushed.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, self._pushed) from error
        return True


def check_areas(areas: Areas, manifest: Manifest) -> None:
    """Passes if the model has every head and class that the areas name.

    Raises:
        OptionsRefused: it has not.
    """
    whole = manifest.with_heads(manifest.head_names) if manifest.head_names else manifest
    heads = {head.name: {item.name: item.title for item in head.classes} for head in whole.opened_heads}
    areas.check_classes({item.name: item.title for item in manifest.classes}, heads)


class LastShares:
    """Shares of each area on the newest map that showed enough of it; one process writes.

    Args:
        settings: of the service.
        ledger: a connection of this thread.
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._path, self._ledger = settings.data_dir / "areas-last.json", ledger
        self._last: dict[str, dict[str, Any]] = {}
        try:
            self._reached, self._last = _read_last(self._path)
        except FileNotFoundError:
            self._reached = 0
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            self._reached = self._begun_anew(error)

    def _begun_anew(self, error: Exception) -> int:
        """Takes shares from the maps aboard, whose alerts were events before; gives the newest one's number."""
        log.warning("%s cannot be read (%s): it is made anew from the maps aboard", self._path, error)
        reached = 0
        while maps := self._ledger.maps.page(after=reached, limit=_PAGE):
            for row in maps:
                for area in _rows_of(row):
                    self._take(row, area)
            reached = maps[-1].sequence
        try:
            self._ledger.events.log(
                "warning", "area-shares-lost",
                f"{self._path.name} was damaged; areas are compared with the maps aboard, whose alerts are not told "
                "again: an alert of the very last map may be missing, and stands in its item",
            )  # fmt: skip
            self._keep(reached)
        except StorageError as full:
            log.warning("it is made anew again at the next start: %s", full)
        return reached

    def _keep(self, reached: int) -> None:
        try:
            replace_file(self._path, json.dumps({"reached": reached, "areas": self._last}).encode())
        except OSError as error:
            raise storage_error(error, self._path) from error

    def compared(
        self, rows: Sequence[Mapping[str, Any]], areas: Sequence[Area], *, time: str, model: str
    ) -> list[dict[str, Any]]:
        """The rows of a map's item with the change since the last map of each area, and alerts.

        Args:
            rows: of :func:`onboard.mapping.areas.measure_areas`.
            areas: that were measured.
            time: RFC 3339, of the map.
            model: its SHA-256: shares by different models are not compared. A row of a named head has its own.
        """
        by_key = {area.key: area for area in areas}
        compared = []
        for row in rows:
            area, last = by_key[row["key"]], self._last.get(row["key"])
            # No figure rather than a wrong one: other models classify otherwise, an older scene shows no change since.
            if last is None or last["model"] != row.get("model", model) or not _is_later(time, last["time"]):
                compared.append(dict(row))
                continue
            change = {
                title: round(share - last["shares"][title], 4)
                for title, share in row["shares"].items()
                if title in last["shares"]
            }
            alerts = _alerts(area, row, change, last)
            compared.append({**row, "change": change, "against": last["map"], **({"alerts": alerts} if alerts else {})})
        return compared

    def note_published(self) -> None:
        """Takes the shares of maps that were published since the last look; their alerts become events.

        Raises:
            StorageError: the disk is full or failed; the next look does it again.
        """
        # Events first, then the file: a power cut between the two repeats an alert and loses none.
        while maps := self._ledger.maps.page(after=self._reached, limit=_PAGE):
            for row in maps:
                for area in _rows_of(row):
                    for text in area.get("alerts", ()):
                        self._ledger.events.log("warning", ALERT, str(text), row.id)
                    self._take(row, area)
            self._reached = maps[-1].sequence
            self._keep(self._reached)

    def _take(self, row: MapRow, area: Mapping[str, Any]) -> None:
        properties, key = row.item["properties"], str(area["key"])
        last, time = self._last.get(key), str(properties["datetime"])
        if last is None or _is_later(time, last["time"]):
            self._last[key] = {
                "map": row.id, "time": time, "model": str(area.get("model", properties["onboard:model"]["sha256"])),
                "covered": float(area["covered"]), "shares": dict(area["shares"]),
            }  # fmt: skip
            while len(self._last) > 1000:  # of areas that are no more, the ones that were noted first
                self._last.pop(next(iter(self._last)))


def _alerts(area: Area, row: Mapping[str, Any], change: Mapping[str, float], last: Mapping[str, Any]) -> list[str]:
    facts = area.properties
    if facts.alert_points is None or 100 * min(row["covered"], last["covered"]) < facts.cover_percent:
        return []
    return [
        f"{title} {100 * points:+.0f} points in {facts.name} ({last['shares'][title]:.0%} to {row['shares'][title]:.0%}"
        f" of it, since map {last['map']})"
        for title, points in change.items()
        # A change of exactly the limit counts, whatever floats make of it: 100 * 0.29 is 28.999999999999996.
        if 100 * abs(points) >= facts.alert_points - 1e-9
    ]


def _rows_of(row: MapRow) -> list[Mapping[str, Any]]:
    rows = row.item["properties"].get(AREAS, [])
    return [area for area in rows if "key" in area] if isinstance(rows, list) else []


def _is_later(time: str, than: str) -> bool:
    """Whether a map is newer: an older scene that is mapped late says nothing of what changed since."""
    try:
        # Python 3.10's fromisoformat does not know "Z".
        first, second = (datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (than, time))
        is_later = second >= first
    # TypeError: a time with a zone cannot be compared with one without. Texts of RFC 3339 sort by time in one zone.
    except (ValueError, TypeError):
        return time >= than
    return is_later


def _read_last(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Number of the last map that was taken, and shares by area.

    Raises:
        FileNotFoundError: there is no such file yet.
        OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError: it is damaged.
    """
    state = json.loads(path.read_bytes())
    areas = {
        str(key): {
            "map": str(last["map"]), "time": str(last["time"]), "model": str(last["model"]),
            "covered": float(last["covered"]),
            "shares": {str(title): float(share) for title, share in last["shares"].items()},
        }
        for key, last in state["areas"].items()
    }  # fmt: skip
    return int(state["reached"]), areas


def current_areas(settings: Settings, ledger: Ledger) -> tuple[Area, ...]:
    """The areas for the next scene; where they cannot be read there is an event, and none count."""
    try:
        return tuple(AreaStore(settings).read().features)
    # A scene is mapped all the same: its areas can be looked at on the ground, a scene that waits cannot.
    except OptionsRefused as error:
        ledger.events.log("error", "areas-unreadable", f"{error}; no area counts until they are pushed up again")
        return ()
