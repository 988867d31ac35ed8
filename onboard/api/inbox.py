"""The watched inbox: GeoTIFFs that appear complete are taken as if they were posted."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from onboard.api.service import Service
from onboard.downlink.retention import make_room
from onboard.errors import OnboardError, StorageError
from onboard.jobs.claim import accept_inbox_file, free_name
from onboard.jobs.intake import Delivery, readable

log = logging.getLogger(__name__)
REJECTED = "rejected"
ENDINGS = (".tif", ".tiff")


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
            if service.inbox_seen.get(path) == seen[path]:
                taken += _taken(service, path)
        except OSError as error:  # of this file alone: those behind it are not to wait for it
            log.warning("%s stays in the inbox: %s", readable(path.name), error)
    service.inbox_seen = seen
    return taken


def _taken(service: Service, path: Path) -> bool:
    make_room(service.settings, service.ledger, path.stat().st_size)
    try:
        accept_inbox_file(
            service.settings, service.ledger, service.kind, service.probes, path, Delivery(path.name[:200])
        )
    except StorageError as error:
        # Not an event: it comes again every few seconds, and health says already that there is no room.
        log.warning("%s waits in the inbox: %s", readable(path.name), error)
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
