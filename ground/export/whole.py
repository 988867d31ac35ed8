"""Files made of maps: written into a folder of their own first and renamed into place."""

from __future__ import annotations

import argparse
import errno
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from ground.errors import AskedWrong, DiskFailed, GroundError
from ground.show import count, size

Writer = Callable[[Path], str]
"""Writes the file of a path, and others beside it; returns what a line about them says more than name and size."""


def write_each(
    jobs: Iterable[tuple[Path, Writer]], options: argparse.Namespace, done: str, *, sources: Iterable[Path] = ()
) -> int:
    """Writes each target that is not there, or each with ``options.overwrite``; one line each.

    Args:
        jobs: targets and what writes them; a map that cannot be is a line, and the next one's turn.
        options: ``overwrite``, ``quiet`` and ``screen`` of the command.
        done: what happened to a map, like ``exported``.
        sources: maps that are read; none of them is replaced, by whatever name or link a target leads to it.

    Returns:
        The exit code: 2 where nothing was written since all was asked wrongly, 1 where anything else failed.

    Raises:
        DiskFailed: the folder cannot be written.
    """
    kept = file_ids(sources)
    written = there = 0
    failures: list[GroundError] = []
    line = (lambda _: None) if options.quiet else options.screen.line
    for target, write in jobs:
        if target.exists() and not options.overwrite:
            there += 1
            line(f"{target}: is there already; --overwrite writes it anew")
            continue
        try:
            more = write_whole_files(write, target, kept)
        # Every further map would meet the same disk.
        except DiskFailed:
            raise
        except GroundError as error:
            failures.append(error)
            options.screen.note(str(error))
        else:
            written += 1
            line(f"{target}: {size(target.stat().st_size)}{more and ', '}{more}")
    parts = [f"{count(written, 'map')} {done}"]
    parts += [f"{there} there already"] if there else []
    parts += [f"{len(failures)} failed"] if failures else []
    line(", ".join(parts))
    if not failures:
        return 0
    asked_wrong = all(isinstance(error, AskedWrong) for error in failures)
    return 2 if asked_wrong and not written + there else 1


def write_whole_files(write: Writer, target: Path, kept: Collection[tuple[int, int]] = ()) -> str:
    """Writes into a folder beside the target, then renames what is there: the target last.

    Args:
        write: see :data:`Writer`.
        target: the file.
        kept: device and inode of files that are not replaced.

    Raises:
        GroundError: what cannot be read or written; what was there before stays.
    """
    from rasterio._err import CPLE_BaseError  # GDAL's own errors come as these, which are no RasterioError
    from rasterio.errors import RasterioError

    from ground.transfer import sync

    # Before any work. Names of files beside the target are known only to the writer, so they are checked below.
    _check_is_free(target, kept)
    # Beside the target, on the same file system: only there a rename is one step.
    folder = target.with_name(f".{target.name}.export")
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a command that was killed here
        folder.mkdir()
        more = write(folder / target.name)
        # The target last: where it stands the next command takes the map for done, so all else must stand by then.
        files = sorted(folder.iterdir(), key=lambda path: path.name == target.name)
        for path in files:
            _check_is_free(target.with_name(path.name), kept)
            sync(path)
        for path in files:
            path.replace(target.with_name(path.name))
        sync(target.parent)
    except OSError as error:
        raise DiskFailed(target, error) from error
    except AskedWrong:
        raise
    except (GroundError, RasterioError, CPLE_BaseError, sqlite3.Error) as error:
        # GDAL and SQLite give no errno: that the disk is full is told by what is left of it.
        if shutil.disk_usage(target.parent).free < 1 << 20:
            raise DiskFailed(target, OSError(errno.ENOSPC, "no room is left")) from error
        if isinstance(error, GroundError):
            raise
        raise GroundError(f"{target}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return more


def file_ids(paths: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """Of files that :func:`write_whole_files` is not to replace."""
    return frozenset(_file_id(path) for path in paths)


def _file_id(path: Path) -> tuple[int, int]:
    """Device and inode: the same for each name of a file, whatever links lead to it."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def _check_is_free(target: Path, kept: Collection[tuple[int, int]]) -> None:
    try:
        is_kept = _file_id(target) in kept
    except OSError:
        return  # there is nothing yet
    if is_kept:
        raise AskedWrong(f"{target}: is a map that is read here", "choose another --out")
