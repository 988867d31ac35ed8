"""Intake of a scene: its bytes are written and probed, then its folder appears by one rename, then its row.

In this order, each step synced before the next: a row always has its file, and a file without a row (the power failed
in between) is adopted at the next start. A deliverer that was answered "accepted" can rely on both. Names from outside
never become paths: folders are named by our own ids.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from engines.command_line import bytes_text
from engines.files import replace_file, synced_file, synced_folder
from onboard.errors import NoRoom
from onboard.files import storage_error, write_all
from onboard.jobs.disk_space import check_demand
from onboard.jobs.heads import check_heads
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.jobs.scene_folder import SCENE_FILE
from onboard.jobs.scene_options import options_of, target_of
from onboard.jobs.scene_states import RETRYABLE_STATES
from onboard.jobs.scene_store import SceneRow, scene_key
from onboard.jobs.timestamps import timestamp
from onboard.scene.probe import Probes
from onboard.settings import Settings

log = logging.getLogger(__name__)

INCOMING = ".incoming"
FACTS_FILE = "scene.json"
# Bytes between two checks of the free space: often enough for the reserve, seldom enough to cost nothing.
_CHECK_EVERY_BYTES = 16 << 20


@dataclass(frozen=True)
class Delivery:
    """The deliverer's words about a scene.

    Attributes:
        name: for people.
        acquired: RFC 3339 in UTC, or None.
        heads: of the model, whose maps are wanted; none for those of the settings.
        is_named: whether the deliverer chose the name; the usual one takes no other's place.
    """

    name: str
    priority: str = "routine"
    acquired: str | None = None
    heads: tuple[str, ...] = ()
    is_named: bool = False

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
        # By the declared length, before the first byte. It may be missing or wrong, so `write` asks again.
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
        self._check_space(len(chunk))
        write_all(self._file, memoryview(chunk), self.path)
        self._digest.update(chunk)
        self.bytes += len(chunk)

    def _check_space(self, more: int) -> None:
        if (self.bytes + more) // _CHECK_EVERY_BYTES > self.bytes // _CHECK_EVERY_BYTES:
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
    if free - wanted < settings.disk_reserve_bytes:
        raise NoRoom(settings.data_dir, wanted=wanted, free=free, reserve=settings.disk_reserve_bytes)


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
    config: MappingConfig,
    probes: Probes,
    file: IncomingScene,
    delivery: Delivery,
    free_up: Callable[[int], object] | None = None,
) -> Accepted:
    """Accepts a finished incoming scene; its incoming file is gone afterwards, whatever happens.

    Other deliveries and cancellations of the same bytes may run at the same time: the scene returned has its file, or
    its map.

    Args:
        settings: of the service.
        ledger: a connection of this thread.
        config: model and options of now.
        probes: look at the file.
        file: finished.
        delivery: what the deliverer says.
        free_up: called with the bytes that canvas and map need, before they are looked for.

    Raises:
        SceneRefused: it cannot be mapped.
        OptionsRefused: the model lacks a head that is asked for.
        NoRoom: its canvas and map would not fit.
        StorageError: the disk is full or failed.
    """
    staged = _Staged(settings, file)
    try:
        check_heads(config.manifest, delivery.heads, "heads")
        config = config.asking(delivery.heads)
        key = scene_key(file.sha256, config.model, config.options)
        pixels: int | None = None
        while True:
            # By the key first: bytes that are known need no probe and no room.
            known = ledger.scenes.by_key(key)
            if known is not None and known.state not in RETRYABLE_STATES:
                ledger.scenes.confirm(known)
                return Accepted(known, is_new=False)
            # Once, however often the loop turns: the file is the same.
            if pixels is None:
                target = target_of(settings, config.manifest)
                pixels = probes.judge(file.path, options_of(settings, config.manifest), target)
                check_demand(settings, config.manifest, pixels, free_up)
            row = _new_row(ledger, config, file, delivery, pixels) if known is None else known
            # What this delivery says of a known scene is newer than what is kept. Its folder must know it too: the
            # ledger may be lost.
            row = _as_told(row, delivery)
            # What is slow happens before the transaction: inside it a rename is left.
            staged.describe(row)
            accepted = _take(ledger, staged, row, is_known=known is not None)
            if accepted is not None:
                return accepted
            # Between the look and the change another delivery or a cancellation of the same bytes was quicker.
    finally:
        staged.remove()
        file.remove()


def _as_told(row: SceneRow, delivery: Delivery) -> SceneRow:
    """The row with what a delivery says of it; what it does not say stays."""
    return replace(
        row, priority=delivery.priority, name=delivery.name if delivery.is_named else row.name,
        acquired=delivery.acquired or row.acquired,
    )  # fmt: skip


def _take(ledger: Ledger, staged: _Staged, row: SceneRow, *, is_known: bool) -> Accepted | None:
    """Row and file in one transaction; None if the scene is not as it was looked at."""

    def put() -> None:
        staged.put(row.id)

    if is_known:
        queued = ledger.scenes.retry(row.id, row.priority, put, name=row.name, acquired=row.acquired)
    else:
        added = ledger.scenes.add(row, put)
        # Another id: the same bytes came by another request in between.
        queued = added if added.id == row.id else None
    if queued is None:
        return None
    # The name is the sender's: %r keeps line breaks and escapes out of the log.
    log.info("received %s %r: %s, %s", queued.id, queued.name, bytes_text(queued.bytes), queued.priority)
    return Accepted(queued, is_new=True)


def readable(name: str) -> str:
    """A file's name as text: what is no UTF-8 in it (SQLite and HTTP take nothing else) becomes question marks."""
    return name.encode("utf-8", "replace").decode()


def read_facts(folder: Path) -> Mapping[str, Any]:
    """Contents of scene.json; empty where it cannot be read."""
    try:
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def facts_of(row: SceneRow) -> dict[str, Any]:
    """What the scene's folder keeps, so that the scene can be adopted without the ledger."""
    names = ("id", "sequence", "sha256", "bytes", "name", "priority", "acquired", "model", "options", "received")
    whole = asdict(row)
    return {name: whole[name] for name in names}  # pixels are looked at again: another model may enlarge otherwise


def change_priority(settings: Settings, ledger: Ledger, row: SceneRow, priority: str) -> SceneRow | None:
    """Has a queued scene wait by another priority, in the ledger and in its folder; None if it does not wait any more.

    Raises:
        StorageError: the disk is full or failed; nothing was changed.
    """
    folder, temporary = settings.scenes_dir / row.id, settings.scenes_dir / INCOMING / f"{uuid.uuid4().hex}.json"
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        # Whole and synced before the transaction, which only renames it.
        content = json.dumps(facts_of(replace(row, priority=priority)), indent=1).encode()
        replace_file(temporary, content)
        return ledger.scenes.set_priority(row.id, priority, lambda: temporary.replace(folder / FACTS_FILE))
    except OSError as error:
        raise storage_error(error, folder) from error
    finally:
        temporary.unlink(missing_ok=True)


def erase_folder(folder: Path, temporary: Path) -> None:
    """Removes a folder so that a kill leaves it whole or leaves a temporary that the next start removes."""
    moved = move_aside(folder, temporary)
    if moved is not None:
        shutil.rmtree(moved, ignore_errors=True)


def move_aside(folder: Path, temporary: Path) -> Path | None:
    """Moves a folder to where what is left of it goes at the next start, durably; gives where, None if it is not there.

    The quick part of :func:`erase_folder`, for a transaction.
    """
    temporary.mkdir(parents=True, exist_ok=True)
    # A random part: the same scene may be moved aside twice before the first one is removed.
    moved = temporary / f"{folder.name}.{uuid.uuid4().hex}.gone"
    try:
        folder.rename(moved)
    except FileNotFoundError:
        return None
    synced_folder(folder.parent)
    return moved


def _new_row(ledger: Ledger, config: MappingConfig, file: IncomingScene, delivery: Delivery, pixels: int) -> SceneRow:
    sequence = ledger.next_sequence()
    return SceneRow(
        id=f"s{sequence:08d}-{file.sha256[:8]}",
        sequence=sequence,
        sha256=file.sha256,
        bytes=file.bytes,
        name=delivery.name,
        priority=delivery.priority,
        acquired=delivery.acquired,
        model=config.model,
        options=config.options,
        received=timestamp(),
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
            # A file replaces a file in one step. Folders cannot be replaced so: the old one moves aside first.
            if (final / SCENE_FILE).is_file() and (self.folder / SCENE_FILE).is_file():
                for name in (SCENE_FILE, FACTS_FILE):
                    (self.folder / name).replace(final / name)
                synced_folder(final)
                return
            self._replaced = move_aside(final, self._settings.scenes_dir / INCOMING)
            self.folder.rename(final)
            synced_folder(final.parent)
        except OSError as error:
            raise storage_error(error, final) from error

    def remove(self) -> None:
        """Removes what is left of the staged folder, and the folder that it replaced."""
        for folder in (self.folder, self._replaced):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
