"""The watched inbox: scenes that appear complete are taken as if they were posted, with the files beside them."""

from __future__ import annotations

import logging
import os
import time
import uuid
from pathlib import Path

from onboard.api.paths import without_paths
from onboard.api.service import Service
from onboard.errors import LedgerDamaged, OnboardError, SceneRefused, StorageError
from onboard.files import is_hidden
from onboard.jobs.inbox import ARCHIVES, accept_inbox_file, free_name, scene_files
from onboard.jobs.intake import Delivery, readable
from onboard.scene.mosaic import names_tiles, tile_names
from onboard.scene.sidecars import sidecars_of

log = logging.getLogger(__name__)
REJECTED = "rejected"
ENDINGS = (".tif", ".tiff", *ARCHIVES)
NO_ROOM_S = 60.0
"""Before a scene for which there was no room is tried again: each try reads and writes it whole."""
FAILED_S = 3600.0
"""Before a scene that failed by an error nobody foresaw is tried again, if its files stay as they are."""


def take_inbox(service: Service) -> int:
    """One look: takes files whose size and time are as at the look before; gives how many.

    A scene that cannot be mapped goes to INBOX/rejected, with the reason in a text file beside it. Whoever delivers by
    rename is never looked at half way; for others two equal looks at all files of a scene are waited for. What belongs
    to a scene is best put there before it.
    """
    inbox = service.settings.inbox
    if inbox is None or not service.settings.watch_inbox or not inbox.is_dir():
        return 0
    states: dict[Path, tuple[int, ...]] = {}
    taken = 0
    paths = _scenes_in(inbox)
    for path in paths:
        try:
            taken += _looked_at(service, path, states)
        except OSError as error:  # noqa: PERF203 -- of this scene alone: those behind it are not to wait for it
            log.warning("%s stays in the inbox: %s", readable(path.name), error)
        except LedgerDamaged:
            raise
        except Exception as error:  # noqa: BLE001 -- it is told with its traceback
            _note_failure(service, path, states.get(path), error)
    # Only files of this look: what is gone and comes again is looked at twice like anything new.
    service.inbox_seen = states
    service.inbox_waits = {path: until for path, until in service.inbox_waits.items() if path in states}
    service.inbox_failed = {path: state for path, state in service.inbox_failed.items() if path in paths}
    return taken


def _looked_at(service: Service, path: Path, states: dict[Path, tuple[int, ...]]) -> bool:
    """One look at one scene; notes the state of its files. True if it was taken."""
    states[path] = tuple(number for file in _files_of(path) for number in _size_and_time(file))
    if service.inbox_seen.get(path) != states[path]:
        # What it was to wait for was said of other files.
        service.inbox_waits.pop(path, None)
        # Said once for each state of the files, not at each look.
        if not _is_whole(path):
            log.warning("%s waits in the inbox: tiles that it names are not there yet", readable(path.name))
        return False
    return _is_whole(path) and time.monotonic() >= service.inbox_waits.get(path, 0.0) and _taken(service, path)


def _note_failure(service: Service, path: Path, state: tuple[int, ...] | None, error: Exception) -> None:
    """Has a scene wait that failed by an error nobody foresaw; an event says so, once for each state of its files."""
    service.inbox_waits[path] = time.monotonic() + FAILED_S
    if path in service.inbox_failed and service.inbox_failed[path] == state:
        return
    log.error("%s stays in the inbox", readable(path.name), exc_info=error)
    reason = " ".join(str(error).split())[:150]
    try:
        service.ledger.events.log(
            "error", "inbox-failed",
            f"{readable(path.name)} stays in the inbox: {type(error).__name__}: {without_paths(reason)}; it is tried "
            "again when its files change, after an hour and after a restart",
        )  # fmt: skip
    except StorageError as full:
        log.warning("no event of it: %s", full)  # with the next try
    else:
        service.inbox_failed[path] = state


def _scenes_in(inbox: Path) -> list[Path]:
    """Files that a scene can be opened by: GeoTIFFs, archives, descriptions of tiles, and no tile that one names."""
    files = [path for path in sorted(inbox.iterdir()) if not is_hidden(Path(path.name)) and path.is_file()]
    described = [path for path in files if names_tiles(path)]
    tiles = {name for path in described for name in tile_names(path)}
    alone = [path for path in files if path.suffix.lower() in ENDINGS and path.name not in tiles]
    return sorted([*described, *alone])


def _files_of(path: Path) -> list[Path]:
    """Those of its files that are there."""
    try:
        return scene_files(path)
    except SceneRefused:
        return [
            path,
            *sidecars_of(path),
            *(tile for name in tile_names(path) if (tile := path.parent / name).is_file()),
        ]


def _is_whole(path: Path) -> bool:
    """Whether all tiles that a description names are there; what else may be wrong is found when it is taken."""
    return all((path.parent / name).is_file() for name in tile_names(path)) if names_tiles(path) else True


def _size_and_time(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _taken(service: Service, path: Path) -> bool:
    service.inbox_waits.pop(path, None)
    try:
        service.make_room(sum(file.stat().st_size for file in _files_of(path)))
        accept_inbox_file(
            service.settings, service.ledger, service.mapping_config, service.probes, path, Delivery(path.name[:200]),
            service.make_room,
        )  # fmt: skip
    except StorageError as error:
        # Not an event: it comes again and again, and health says already that there is no room.
        log.warning("%s waits in the inbox: %s", readable(path.name), error)
        service.inbox_waits[path] = time.monotonic() + NO_ROOM_S
        return False
    except LedgerDamaged:
        raise  # of the ledger's: nothing is wrong with the scene
    except OnboardError as error:
        _reject(path, error)
        service.ledger.events.log("warning", "inbox-rejected", f"{readable(path.name)}: {error.advice}")
        return False
    return True


def _reject(path: Path, error: OnboardError) -> None:
    folder = path.parent / REJECTED
    folder.mkdir(exist_ok=True)
    files = [file for file in _files_of(path) if file.parent == path.parent]
    prefix = uuid.uuid4().hex[:8] if any((folder / file.name).exists() for file in files) else ""
    rejected = free_name(folder, path.name, prefix)
    for file in files:
        file.rename(free_name(folder, file.name, prefix))
    # A name of 255 bytes leaves none for an ending.
    reason = folder / (os.fsdecode(os.fsencode(rejected.name)[:250]) + ".txt")
    reason.write_text(f"{readable(path.name)}: {error.advice}\n", encoding="utf-8")
