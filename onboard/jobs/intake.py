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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from onboard.errors import NoRoom
from onboard.jobs.kind import MapKind
from onboard.jobs.ledger import OVER, Ledger, SceneRow, scene_key
from onboard.jobs.moment import moment
from onboard.jobs.room import check_demand
from onboard.jobs.scene_folder import SCENE_FILE
from onboard.jobs.scene_options import options_of
from onboard.jobs.splice import Pipe, SocketSource, hash_behind, sync_behind
from onboard.mapping.files import storage_error, synced_file, synced_folder, write_all
from onboard.scene.probe import Probes
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
            TooSlow, ConnectionError: of the source.
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
    settings: Settings,
    ledger: Ledger,
    kind: MapKind,
    probes: Probes,
    file: IncomingScene,
    delivery: Delivery,
    free_up: Callable[[int], object] | None = None,
) -> Accepted:
    """Takes up a finished incoming scene; it is gone from its place afterwards, whatever happens.

    Whatever else is done to a scene of the same bytes meanwhile: what this gives back has its file, or its map.

    Args:
        settings: of the service.
        ledger: a connection of this thread.
        kind: model and options of now.
        probes: look at the file.
        file: finished.
        delivery: what the deliverer says.
        free_up: called with the bytes that canvas and map need, before they are looked for.

    Raises:
        SceneRefused: it cannot be mapped.
        NoRoom: its canvas and map would not fit.
        StorageError: the disk is full or failed.
    """
    key = scene_key(file.sha256, kind.model, kind.options)
    staged = _Staged(settings, file)
    try:
        pixels: int | None = None
        while True:
            known = ledger.scene_by_key(key)
            if known is not None and known.state not in OVER:
                return Accepted(known, is_new=False)
            if pixels is None:
                pixels = probes.judge(file.path, options_of(settings, kind.manifest))
                check_demand(settings, kind.manifest, pixels, free_up)
            row = known or _new_row(ledger, kind, file, delivery, pixels)
            staged.describe(row)
            taken = _take(ledger, staged, row, delivery, is_known=known is not None)
            if taken is not None:
                return taken
            # Between the look and the change another delivery or a cancellation of the same bytes was quicker.
    finally:
        staged.remove()
        file.remove()


def _take(ledger: Ledger, staged: _Staged, row: SceneRow, delivery: Delivery, *, is_known: bool) -> Accepted | None:
    """Row and file in one transaction; None if the scene is not as it was looked at."""

    def put() -> None:
        staged.put(row.id)

    if is_known:
        again = ledger.queue_again(row.id, delivery.priority, put)
        return None if again is None else Accepted(again, is_new=True)
    added = ledger.add_scene(row, put)
    return Accepted(added, is_new=True) if added.id == row.id else None


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
    return {name: whole[name] for name in (*names, "pixels")}


def erase_folder(folder: Path, temporary: Path) -> None:
    """Removes a folder so that a kill leaves it whole or leaves a temporary that the next start removes."""
    doomed = doom_folder(folder, temporary)
    if doomed is not None:
        shutil.rmtree(doomed, ignore_errors=True)


def doom_folder(folder: Path, temporary: Path) -> Path | None:
    """Moves a folder to where what is left of it goes at the next start, durably; gives where, None if it is not there.

    The quick part of :func:`erase_folder`, for a transaction.
    """
    temporary.mkdir(parents=True, exist_ok=True)
    doomed = temporary / f"{folder.name}.{uuid.uuid4().hex}.gone"
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return None
    synced_folder(folder.parent)
    return doomed


def _new_row(ledger: Ledger, kind: MapKind, file: IncomingScene, delivery: Delivery, pixels: int) -> SceneRow:
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
        pixels=pixels,
    )


class _Staged:
    """A scene's folder before it stands at its place: all of it synced, so that a rename is what is left to do."""

    def __init__(self, settings: Settings, file: IncomingScene) -> None:
        self._settings, self._file = settings, file
        self.folder = settings.scenes_dir / INCOMING / uuid.uuid4().hex
        self._replaced: Path | None = None

    def describe(self, row: SceneRow) -> None:
        """Writes what must be known of the scene, beside its file.

        Raises:
            StorageError: the disk is full or failed.
        """
        try:
            if not self.folder.exists():
                self.folder.mkdir()
                self._file.move_into(self.folder)
            (self.folder / FACTS_FILE).write_text(json.dumps(facts_of(row), indent=1), encoding="utf-8")
            synced_file(self.folder / FACTS_FILE)
            synced_folder(self.folder)
        except OSError as error:
            raise storage_error(error, self.folder) from error

    def put(self, scene_id: str) -> None:
        """Renames it to the scene's place; files that are there already may be why the scene failed: ours replace them.

        Raises:
            StorageError: the disk failed.
        """
        final = self._settings.scenes_dir / scene_id
        try:
            if (final / SCENE_FILE).is_file() and (self.folder / SCENE_FILE).is_file():
                (self.folder / SCENE_FILE).replace(final / SCENE_FILE)
                synced_folder(final)
                return
            self._replaced = doom_folder(final, self._settings.scenes_dir / INCOMING)
            self.folder.rename(final)
            synced_folder(final.parent)
        except OSError as error:
            raise storage_error(error, final) from error

    def remove(self) -> None:
        """What is left of it, and of what it took the place of."""
        for folder in (self.folder, self._replaced):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
