"""Scenes that lie on this machine, to be shown under their maps."""

from __future__ import annotations

import threading
from pathlib import Path

from ground.console.items import MapRecord
from ground.transfer import sha256_of

_SUFFIXES = (".tif", ".tiff", ".TIF", ".TIFF")


class SceneFolder:
    """A folder of GeoTIFFs; a map's scene is the file of the name in its item, and of the digest in it.

    Args:
        folder: None where there is none. Names of the satellite's are looked up in its listing, never joined to a path.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._digests: dict[tuple[str, int, int], str] = {}

    def of(self, record: MapRecord) -> Path | None:
        """The map's scene; None where it is not here, or another file has its name."""
        digest = record.facts.get("scene_sha256")
        path = self._named(record.scene) if digest else None
        return path if path is not None and self._sha256(path) == digest else None

    def has(self, record: MapRecord) -> bool:
        """Whether there is a file of its name, without reading it."""
        return bool(record.facts.get("scene_sha256")) and self._named(record.scene) is not None

    def _named(self, name: str) -> Path | None:
        if self._folder is None or not name:
            return None
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if name in (path.name, path.stem) and path.suffix in _SUFFIXES and path.is_file():
                return path
        return None

    def _sha256(self, path: Path) -> str:
        facts = path.stat()
        # A scene is read once for all its tiles; other threads wait for it here, as a page asks for many at once.
        stamp = (path.name, facts.st_size, facts.st_mtime_ns)
        with self._lock:
            if stamp not in self._digests:
                self._digests[stamp] = sha256_of(path)
            return self._digests[stamp]
