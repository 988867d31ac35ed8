"""All maps of a station's folder, kept in memory and read again where a folder changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ground.console.items import MapRecord, record_of
from ground.errors import AskedWrong
from ground.folders import PLAIN, layout_of, map_id, map_paths

Seen = dict[Path, tuple[tuple[int, int], MapRecord]]
"""By folder: its time and inode when it was read, and what was read."""
SCAN_S = 2.0
"""Least seconds between two looks at the folder."""


@dataclass(frozen=True)
class Query:
    """Which maps are asked for.

    Attributes:
        begin_s, end_s: span of the item's time, UTC seconds; None for open ends.
        text: part of id or title, case ignored.
        located: only those with a place (True), without one (False), or all (None).
    """

    begin_s: float | None = None
    end_s: float | None = None
    text: str = ""
    located: bool | None = None

    def takes(self, record: MapRecord) -> bool:
        """Whether it asks for this one; a map without a time falls in no span."""
        if self.located is not None and bool(record.rings) != self.located:
            return False
        if (self.begin_s is not None or self.end_s is not None) and record.time_s is None:
            return False
        if self.begin_s is not None and (record.time_s or 0.0) < self.begin_s:
            return False
        if self.end_s is not None and (record.time_s or 0.0) > self.end_s:
            return False
        text = self.text.casefold()
        return not text or text in record.id.casefold() or text in record.title.casefold()


class MapIndex:
    """Any thread may ask.

    Args:
        root: the station's folder (``--dest`` of ``ground pull``).
        clock: monotonic seconds.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.root = root.resolve()
        # Only the look at the folder is locked. It replaces what is kept and changes nothing in place, so that threads
        # which have a list go on with it.
        self._clock, self._lock = clock, threading.Lock()
        self._seen: Seen = {}
        self._folders: dict[str, Path] = {}
        self._sorted: list[MapRecord] = []
        self._scanned: float | None = None
        self._version = 0

    def records(self) -> list[MapRecord]:
        """All of them, the newest first."""
        with self._lock:
            # A page asks for many things at once, and one look at the folder serves them all.
            if self._scanned is None or self._clock() - self._scanned >= SCAN_S:
                self._scan()
                self._scanned = self._clock()
            return self._sorted

    @property
    def version(self) -> int:
        """Rises whenever a look at the folder found it changed."""
        self.records()
        return self._version

    def find(self, query: Query) -> list[MapRecord]:
        """Those that are asked for, the newest first."""
        return [record for record in self.records() if query.takes(record)]

    def get(self, name: str) -> MapRecord | None:
        """One map; None where there is none of this name."""
        self.records()
        folder = self._folders.get(name)
        seen = None if folder is None else self._seen.get(folder)
        return None if seen is None else seen[1]

    def path(self, record: MapRecord, name: str) -> Path | None:
        """A plain file of the map, inside the station's folder; None where there is none.

        The names are the folder's own: nothing of a request becomes part of a path.
        """
        folder = self._folders.get(record.id)
        if name not in record.files or folder is None:
            return None
        path = folder / name
        # Looked at now, since the folder may have changed after it was read; a link could lead anywhere.
        is_ours = path.is_file() and not path.is_symlink() and path.resolve().is_relative_to(self.root)
        return path if is_ours else None

    def overlapping(self, record: MapRecord, most: int = 50) -> list[MapRecord]:
        """Other maps whose bounds touch, the newest first: those that may be compared with it."""
        own = record.bounds
        return [] if own is None else [other for other in self._touching(own) if other.id != record.id][:most]

    def _touching(self, box: tuple[float, float, float, float]) -> Iterable[MapRecord]:
        for other in self.records():
            bounds = other.bounds
            if bounds is not None and other.raster is not None and _touch(box, bounds):
                yield other

    def _scan(self) -> None:
        seen: Seen = {}
        try:
            layout, paths = layout_of(self.root), list(map_paths(self.root))
        except (OSError, AskedWrong):
            # No maps rather than maps under wrong ids: the layout says what the folders' names mean.
            layout, paths = None, []
        for path in paths:
            try:
                facts = path.stat(follow_symlinks=False)
                # With the inode: another folder that was moved to this name may have the same time.
                stamp = (facts.st_mtime_ns, facts.st_ino)
                before = self._seen.get(path)
                # Files come by rename, so a folder's own time says that something came.
                if before is not None and before[0] == stamp:
                    seen[path] = before
                elif layout is not None and PLAIN.fullmatch(name := map_id(self.root, path, layout)):
                    seen[path] = (stamp, record_of(path, name))
            except OSError:  # noqa: PERF203 -- it goes while it is looked at
                continue
        self._version += _stamps(seen) != _stamps(self._seen)
        self._seen = seen
        self._folders = {record.id: path for path, (_, record) in seen.items()}
        records = [record for _, record in seen.values() if record.files]
        self._sorted = sorted(records, key=lambda record: (record.time_s or 0.0, record.id), reverse=True)


def _stamps(seen: Seen) -> dict[Path, tuple[int, int]]:
    return {path: stamp for path, (stamp, _) in seen.items()}


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether they do anywhere on the globe: a longitude is the same one a turn on."""
    is_level = a[1] <= b[3] and b[1] <= a[3]
    return is_level and any(a[0] <= b[2] + turn and b[0] + turn <= a[2] for turn in (-360.0, 0.0, 360.0))
