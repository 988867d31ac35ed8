"""Claims a scene of the inbox by a rename, so that only one process takes it, and gives it back on failure.

A claim is a hidden folder with a random name beside the scene's file. The scene's files are moved into it under their
own names, so that after a kill they can be put back.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from onboard.errors import SceneRefused
from onboard.files import storage_error
from onboard.jobs.bundle import IncomingBundle, bundle_of, new_folder
from onboard.jobs.intake import Accepted, Delivery, IncomingFile, IncomingScene, accept
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.scene.mosaic import files_of
from onboard.scene.probe import Probes, check_file
from onboard.settings import Settings

log = logging.getLogger(__name__)
ENDING = ".taken"
ARCHIVES = (".zip", ".tar")


def accept_inbox_file(
    settings: Settings,
    ledger: Ledger,
    config: MappingConfig,
    probes: Probes,
    path: Path,
    delivery: Delivery,
    free_up: Callable[[int], object] | None = None,
) -> Accepted:
    """Takes a scene of the inbox by its file: with the files beside it, a product's tiles, or what an archive holds.

    They are gone from there afterwards. ``free_up``: see :func:`accept`.

    Raises:
        SceneRefused: it is not there, not in the inbox, or cannot be mapped; it stays where it was.
        StorageError: the disk is full or failed; it stays where it was.
    """
    if not _lies_in(path, settings.inbox):
        raise _not_there(settings, path)
    if path.suffix.lower() not in ARCHIVES:
        check_file(path)
    files = scene_files(path)
    for file in files:
        if not _lies_in(file, settings.inbox):
            raise SceneRefused(path.name, f"its file {file.name} is no ordinary file", "put the files themselves there")
    # Claim, copy, accept, remove. A kill on the way leaves the claim, whose files are given back at the next start; a
    # scene that was accepted all the same is known by its digest when it is taken again.
    with _claimed(settings, files) as claimed:
        incoming = _copied(settings, claimed)
        accepted = accept(settings, ledger, config, probes, incoming, delivery, free_up)
        for file in claimed:
            # Only now: what is still in the claim at its end goes back to where it was.
            file.unlink(missing_ok=True)
    return accepted


def scene_files(path: Path) -> list[Path]:
    """The file of a scene in the inbox, then the others that belong to it.

    Raises:
        SceneRefused: a product's description names files that are not there.
    """
    return [path] if path.suffix.lower() in ARCHIVES else files_of(path)


def _copied(settings: Settings, claimed: Sequence[Path]) -> IncomingScene:
    """The claimed files, the scene's first, as an incoming scene."""
    main, *others = claimed
    if not others:
        file = _copy_of(settings, main)
        try:
            return bundle_of(settings, file)
        except BaseException:
            file.remove()
            raise
    folder = new_folder(settings)
    try:
        for path in claimed:
            target = folder / path.relative_to(main.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_of(settings, path).path.rename(target)
        return IncomingBundle(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _copy_of(settings: Settings, path: Path) -> IncomingFile:
    file = IncomingFile(settings, path.stat().st_size)
    try:
        with path.open("rb") as source:
            while chunk := source.read(1 << 20):
                file.write(chunk)
        file.finish()
    except BaseException:
        file.remove()
        raise
    return file


def give_back_claims(inbox: Path | None) -> int:
    """Gives back what a process that was killed had claimed, before anything else is; gives how many.

    What was accepted all the same is known by its bytes when it is taken again.
    """
    if inbox is None or not inbox.is_dir():
        return 0
    count = 0
    for hold in sorted(path for path in inbox.rglob(f".*{ENDING}") if path.is_dir()):
        try:
            count += _give_back(hold)
        except OSError as error:  # noqa: PERF203 -- after a kill, at most as many as there were uploads
            log.warning("%s stays claimed: %s", hold, error)
    return count


def free_name(folder: Path, name: str, prefix: str = "") -> Path:
    """A path that is free in the folder: this name, or the name with a prefix, the given or a random one."""
    path = folder / name
    if not prefix and not path.exists():
        return path
    named = f"{prefix or uuid.uuid4().hex[:8]}-{name}"
    # A name that would be too long is cut in its middle: by its ending the file is read.
    fits = len(os.fsencode(named)) <= 255
    return folder / (named if fits else f"{named[:9]}{name[-50:]}")


@contextmanager
def _claimed(settings: Settings, files: Sequence[Path]) -> Iterator[list[Path]]:
    """Where the claimed files lie, the scene's first; whatever of them is left at the end goes back to where it was."""
    path = files[0]
    hold = path.with_name(f".{uuid.uuid4().hex}{ENDING}")
    claimed: list[Path] = []
    try:
        try:
            hold.mkdir()
            for file in files:
                target = hold / file.relative_to(path.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError) if claimed else nullcontext():  # who has the scene's file has all
                    file.rename(target)
                    claimed.append(target)
        except FileNotFoundError:
            raise _not_there(settings, path) from None  # another was quicker
        except OSError as error:
            raise storage_error(error, path) from error
        yield claimed
    finally:
        _give_back(hold)


def _give_back(hold: Path) -> int:
    """Puts what lies in a claim back beside it, under names that go together; gives the number of scenes, 0 or 1."""
    claimed = sorted(path for path in hold.rglob("*") if path.is_file())
    targets = [hold.parent / path.relative_to(hold) for path in claimed]
    # Others of these names may have come meanwhile: then all get one beginning, for they are found by their names.
    is_occupied = any(target.exists() for target in targets)
    for path, target in zip(claimed, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(free_name(target.parent, target.name, hold.name[1:9] if is_occupied else ""))
    shutil.rmtree(hold, ignore_errors=True)
    return int(bool(claimed))


def _not_there(settings: Settings, path: Path) -> SceneRefused:
    where = f"the inbox {settings.inbox}" if settings.inbox else "an inbox (set ONBOARD_INBOX)"
    return SceneRefused(path.name, "is no file in the inbox", f"put it into {where}, or send its bytes")


def _lies_in(path: Path, inbox: Path | None) -> bool:
    """Whether the path is an ordinary file inside the inbox."""
    try:
        return (
            inbox is not None
            # resolve() follows links among the folders of the path, is_symlink looks at the file: neither may lead out.
            and path.resolve().is_relative_to(inbox.resolve())
            and not path.is_symlink()
            and path.is_file()
        )
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte in it, a loop of links
        return False
