"""The watched inbox: GeoTIFFs that appear complete are taken as if they were posted."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from onboard.api.service import Service
from onboard.errors import OnboardError, StorageError
from onboard.jobs.claim import accept_inbox_file, free_name
from onboard.jobs.intake import Delivery, readable

log = logging.getLogger(__name__)
REJECTED = "rejected"
ENDINGS = (".tif", ".tiff")
NO_ROOM_S = 60.0
"""Before a file for which there was no room is tried again: each try reads and writes it whole."""


def take_inbox(service: Service) -> int:
    """One look: takes files whose size and time are as at the look before; gives how many.

    A file that cannot be mapped goes to INBOX/rejected, with the reason in a text file beside it. Whoever delivers by
    rename is never looked at half way; for others two equal looks are waited for.
    """
    inbox = service.settings.inbox
    if inbox is None or not service.settings.watch_inbox or not inbox.is_dir():
        return 0
    seen: dict[Path, tuple[int, int]] = {}
    taken = 0
    for path in sorted(inbox.iterdir()):
        if path.suffix.lower() not in ENDINGS or path.name.startswith(".") or not path.is_file():
            continue
        try:
            facts = path.stat()
            seen[path] = (facts.st_size, facts.st_mtime_ns)
            if service.inbox_seen.get(path) == seen[path] and time.monotonic() >= service.inbox_waits.get(path, 0.0):
                taken += _taken(service, path)
        except OSError as error:  # of this file alone: those behind it are not to wait for it
            log.warning("%s stays in the inbox: %s", readable(path.name), error)
    service.inbox_seen = seen
    service.inbox_waits = {path: until for path, until in service.inbox_waits.items() if path in seen}
    return taken


def _taken(service: Service, path: Path) -> bool:
    service.inbox_waits.pop(path, None)
    service.make_room(path.stat().st_size)
    try:
        accept_inbox_file(
            service.settings, service.ledger, service.kind, service.probes, path, Delivery(path.name[:200]),
            service.make_room,
        )  # fmt: skip
    except StorageError as error:
        # Not an event: it comes again and again, and health says already that there is no room.
        log.warning("%s waits in the inbox: %s", readable(path.name), error)
        service.inbox_waits[path] = time.monotonic() + NO_ROOM_S
        return False
    except OnboardError as error:
        _reject(path, error)
        service.ledger.tell("warning", "inbox-rejected", f"{readable(path.name)}: {error.advice}")
        return False
    return True


def _reject(path: Path, error: OnboardError) -> None:
    folder = path.parent / REJECTED
    folder.mkdir(exist_ok=True)
    rejected = free_name(folder, path.name)
    path.rename(rejected)
    # A name of 255 bytes leaves none for an ending.
    reason = folder / (os.fsdecode(os.fsencode(rejected.name)[:250]) + ".txt")
    reason.write_text(f"{readable(path.name)}: {error.advice}\n", encoding="utf-8")
