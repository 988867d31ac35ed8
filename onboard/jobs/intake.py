"""How scenes come in: bytes to disk, judged, then a folder by one rename, then a row.

In this order, each step synced before the next: a row always has its file, and a file without a row (the power went in
between) is taken up at the next start. Whoever was told "accepted" has both. Names from outside never touch the file
system: folders are named by our own ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from onboard.errors import NoRoom
from onboard.jobs.kind import MapKind
from onboard.jobs.ledger import OVER, Ledger, SceneRow, scene_key
from onboard.jobs.moment import moment
from onboard.jobs.scene_folder import SCENE_FILE
from onboard.jobs.splice import Pipe, SocketSource, hash_behind, sync_behind
from onboard.mapping.files import storage_error, synced_file, synced_folder, write_all
from onboard.scene.probe import Probes
from onboard.scene.reader import SceneOptions
from onboard.settings import Settings

INCOMING = ".incoming"
FACTS_FILE = "scene.json"
# How often a growing file is held against the free space: often enough for the reserve, seldom enough to cost nothing.
_LOOK_EVERY = 16 << 20


@dataclass(frozen=True)
class Delivery:
    """What the deliverer says of a scene. ``acquired`` is RFC 3339 or None; ``name`` is for people."""

    name: str
    priority: str = "routine"
    acquired: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", readable(self.name))


@dataclass(frozen=True)
class Accepted:
    """The scene's row, and whether it is new work rather than known work."""

    row: SceneRow
    is_new: bool


class IncomingFile:
    """A scene's bytes on their way to the disk; one thread. `remove` ends it, whatever became of it.

    Args:
        settings: whose data folder and reserve count.
        expected: declared bytes, None where nobody said.

    Raises:
        NoRoom: there is no room for it.
    """

    def __init__(self, settings: Settings, expected: int | None) -> None:
        self._settings = settings
        folder = settings.scenes_dir / INCOMING
        folder.mkdir(parents=True, exist_ok=True)
        check_room(settings, expected or 0)
        self.path = folder / f"{uuid.uuid4().hex}.part"
        self.bytes = 0
        self._digest = hashlib.sha256()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    @property
    def sha256(self) -> str:
        """Of what was written so far, hex."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes | bytearray) -> None:
        """Appends.

        Raises:
            NoRoom: the reserve is reached.
            StorageError: the disk is full or failed.
        """
        self._look(len(chunk))
        write_all(self._file, memoryview(chunk), self.path)
        self._digest.update(chunk)
        self.bytes += len(chunk)

    def receive(self, source: SocketSource) -> None:
        """Appends the whole of a source, most of it synced already when this returns.

        Raises:
            NoRoom, StorageError: as :meth:`write`.
            TimeoutError, ConnectionError: of the source.
        """
        hashes = hash_behind(self._file, self._digest, at=self.bytes, path=self.path)
        syncs = sync_behind(self._file, at=self.bytes, path=self.path)
        with Pipe() as pipe, hashes, syncs, source.in_lumps():
            while source.left:
                count = source.move(pipe.into)
                self._look(count)
                pipe.drain(self._file, count, self.path)
                self.bytes += count
                hashes.wrote(self.bytes)
                syncs.wrote(self.bytes)

    def _look(self, more: int) -> None:
        if (self.bytes + more) // _LOOK_EVERY > self.bytes // _LOOK_EVERY:
            check_room(self._settings, more)

    def finish(self) -> None:
        """Makes the bytes durable.

        Raises:
            StorageError: the disk failed.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise storage_error(error, self.path) from error
        finally:
            self.close()

    def close(self) -> None:
        """Closes the file, which stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def move_into(self, folder: Path) -> None:
        """Puts it into a scene's folder by one rename."""
        self.path.rename(folder / SCENE_FILE)

    def remove(self) -> None:
        """Closes and removes it, if it is still there."""
        self.close()
        self.path.unlink(missing_ok=True)


def check_room(settings: Settings, wanted: int) -> None:
    """Passes if ``wanted`` more bytes leave the reserve untouched.

    Raises:
        NoRoom: they do not.
    """
    free = shutil.disk_usage(settings.scenes_dir).free
    if free - wanted < settings.reserve:
        raise NoRoom(settings.data_dir, wanted=wanted, free=free, reserve=settings.reserve)


class IncomingScene(Protocol):
    """A scene that is whole and durable and not yet accepted: one file, or several (see onboard.jobs.bundle)."""

    path: Path

    @property
    def sha256(self) -> str:
        """Of the file, or of all files."""
        ...

    bytes: int

    def move_into(self, folder: Path) -> None:
        """Puts it into a scene's folder by one rename."""
        ...

    def remove(self) -> None:
        """Removes what is still at its place."""
        ...


def accept(
    settings: Settings, ledger: Ledger, kind: MapKind, probes: Probes, file: IncomingScene, delivery: Delivery
) -> Accepted:
    """Takes up a finished incoming scene; it is gone from its place afterwards, whatever happens.

    Raises:
        SceneRefused: it cannot be mapped.
        StorageError: the disk is full or failed.
    """
    try:
        known = ledger.scene_by_key(scene_key(file.sha256, kind.model, kind.options))
        if known is not None and known.state not in OVER:
            return Accepted(known, is_new=False)
        bands = tuple(band.common_name or band.name for band in kind.manifest.input.bands)
        probes.judge(file.path, SceneOptions(band_names=bands))
        if known is None:
            row = _new_row(ledger, kind, file, delivery)
            _place(settings, file, row)
            added = ledger.add_scene(row)
            if added.id != row.id:  # the same scene came twice at the same time
                erase_folder(settings.scenes_dir / row.id, settings.scenes_dir / INCOMING)
            return Accepted(added, is_new=added.id == row.id)
        _place(settings, file, known)
        again = ledger.queue_again(known.id, delivery.priority)
        return Accepted(again or known, is_new=again is not None)
    finally:
        file.remove()


def readable(name: str) -> str:
    """A file's name as text: what is no UTF-8 in it (SQLite and HTTP take nothing else) becomes question marks."""
    return name.encode("utf-8", "replace").decode()


def read_facts(folder: Path) -> Mapping[str, Any]:
    """What scene.json says; empty where it cannot be read."""
    try:
        told = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def facts_of(row: SceneRow) -> dict[str, Any]:
    """What must be known to take a scene or its map up again without the ledger."""
    names = ("id", "sequence", "sha256", "bytes", "name", "priority", "acquired", "model", "options", "received")
    whole = asdict(row)
    return {name: whole[name] for name in names}


def erase_folder(folder: Path, temporary: Path) -> None:
    """Removes a folder so that a kill leaves it whole or leaves a temporary that the next start removes."""
    temporary.mkdir(parents=True, exist_ok=True)
    doomed = temporary / f"{folder.name}.{uuid.uuid4().hex}.gone"
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    synced_folder(folder.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def _new_row(ledger: Ledger, kind: MapKind, file: IncomingScene, delivery: Delivery) -> SceneRow:
    sequence = ledger.next_sequence()
    return SceneRow(
        id=f"s{sequence:08d}-{file.sha256[:8]}",
        sequence=sequence,
        sha256=file.sha256,
        bytes=file.bytes,
        name=delivery.name,
        priority=delivery.priority,
        acquired=delivery.acquired,
        model=kind.model,
        options=kind.options,
        received=moment(),
    )


def _place(settings: Settings, file: IncomingScene, row: SceneRow) -> None:
    """Puts the file into the scene's folder, made elsewhere and renamed, all of it synced.

    A file that is there already may be why the scene failed: these bytes take its place.
    """
    final = settings.scenes_dir / row.id
    staged = settings.scenes_dir / INCOMING / f"{row.id}.{uuid.uuid4().hex}"
    try:
        if (final / SCENE_FILE).is_file():
            file.move_into(final)
            synced_folder(final)
            return
        staged.mkdir()
        file.move_into(staged)
        (staged / FACTS_FILE).write_text(json.dumps(facts_of(row), indent=1), encoding="utf-8")
        synced_file(staged / FACTS_FILE)
        synced_folder(staged)
        erase_folder(final, settings.scenes_dir / INCOMING)
        staged.rename(final)
        synced_folder(settings.scenes_dir)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise storage_error(error, staged) from error
