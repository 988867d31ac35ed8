"""A file of the inbox is claimed by a rename, so that no two take it, and given back where it cannot be taken.

A claim is a hidden folder beside the file, of a name nobody else has, with the file in it under its own name: after a
kill it says whose it was.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onboard.errors import SceneRefused
from onboard.jobs.intake import Accepted, Delivery, IncomingFile, accept
from onboard.jobs.kind import MapKind
from onboard.jobs.ledger import Ledger
from onboard.mapping.files import storage_error
from onboard.scene.probe import Probes, check_file
from onboard.settings import Settings

log = logging.getLogger(__name__)
ENDING = ".taken"


def accept_inbox_file(
    settings: Settings,
    ledger: Ledger,
    kind: MapKind,
    probes: Probes,
    path: Path,
    delivery: Delivery,
    free_up: Callable[[int], object] | None = None,
) -> Accepted:
    """Takes a file of the inbox; it is gone from there afterwards. ``free_up``: see :func:`accept`.

    Raises:
        SceneRefused: it is not there, not in the inbox, or cannot be mapped; it stays where it was.
        StorageError: the disk is full or failed; it stays where it was.
    """
    if not _lies_in(path, settings.inbox):
        raise _not_there(settings, path)
    check_file(path)
    with _claimed(settings, path) as claimed:
        file = IncomingFile(settings, claimed.stat().st_size)
        try:
            with claimed.open("rb") as source:
                while chunk := source.read(1 << 20):
                    file.write(chunk)
            file.finish()
        except BaseException:
            file.remove()
            raise
        accepted = accept(settings, ledger, kind, probes, file, delivery, free_up)
        claimed.unlink()
    return accepted


def give_back_claims(inbox: Path | None) -> int:
    """Gives back what a process that was killed had claimed, before anything else is; gives how many.

    What was accepted all the same is known by its bytes when it is taken again.
    """
    if inbox is None or not inbox.is_dir():
        return 0
    held = [path for path in sorted(inbox.rglob(f".*{ENDING}/*")) if path.is_file()]
    for path in held:
        try:
            _give_back(path)
        except OSError as error:  # noqa: PERF203 -- after a kill, at most as many as there were uploads
            log.warning("%s stays claimed: %s", path, error)
    return len(held)


def free_name(folder: Path, name: str) -> Path:
    """A path in the folder where nothing is: of this name, or with something before it."""
    path = folder / name
    return path if not path.exists() else folder / f"{uuid.uuid4().hex[:8]}-{name[-50:]}"


@contextmanager
def _claimed(settings: Settings, path: Path) -> Iterator[Path]:
    """Where the claimed file lies; whatever of it is left at the end goes back to where it was."""
    hold = path.with_name(f".{uuid.uuid4().hex}{ENDING}")
    try:
        hold.mkdir()
        path.rename(hold / path.name)
    except OSError as error:
        with suppress(OSError):
            hold.rmdir()
        if isinstance(error, FileNotFoundError):
            raise _not_there(settings, path) from None  # another was quicker
        raise storage_error(error, path) from error
    try:
        yield hold / path.name
    finally:
        if (hold / path.name).exists():
            _give_back(hold / path.name)
        else:
            hold.rmdir()


def _give_back(claimed: Path) -> None:
    hold = claimed.parent
    claimed.rename(free_name(hold.parent, claimed.name))  # another of that name may have come meanwhile
    with suppress(OSError):
        hold.rmdir()


def _not_there(settings: Settings, path: Path) -> SceneRefused:
    where = f"the inbox {settings.inbox}" if settings.inbox else "an inbox (set ONBOARD_INBOX)"
    return SceneRefused(path.name, "is no file in the inbox", f"put it into {where}, or send its bytes")


def _lies_in(path: Path, inbox: Path | None) -> bool:
    """Whether it is an ordinary file of the inbox; whatever else a stranger may write is not."""
    try:
        return (
            inbox is not None
            and path.resolve().is_relative_to(inbox.resolve())
            and not path.is_symlink()
            and path.is_file()
        )
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte in it, a loop of links
        return False
