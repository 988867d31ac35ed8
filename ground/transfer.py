"""One file from the satellite to the disk: in ranges, resumable, verified, whole or not there.

The part file's name holds the digest of what is fetched, and the service's entity tags are digests: so a part fits
exactly one version of a file, and nothing else has to be remembered to resume.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from ground.errors import DiskFailed, MapDamaged
from ground.link import Link, TryLater

SYNC_BYTES = 4 << 20
"""Bytes between two fsyncs of a part: what a power cut at the station may cost."""

Progress = Callable[[int], None]


class Superseded(Exception):
    """Another version of the file stands aboard now: the next plan names it."""


@dataclass(frozen=True)
class Wanted:
    """A file, or its leading part.

    Attributes:
        path: on the service.
        target: where it is to be.
        sha256: of the whole file, hex.
        bytes: of the whole file.
        length: leading bytes to fetch; the whole file where it equals ``bytes``.
    """

    path: str
    target: Path
    sha256: str
    bytes: int
    length: int

    @property
    def is_whole(self) -> bool:
        """Whether all of it is wanted."""
        return self.length >= self.bytes

    @property
    def part(self) -> Path:
        """Where it grows."""
        return self.target.with_name(f"{self.target.name}.{self.sha256[:16]}.part")


@dataclass
class Tally:
    """Bytes of a pass: those that came, and of them those that had come before."""

    received: int = 0
    repeated: int = 0


def fetch(link: Link, wanted: Wanted, tally: Tally, progress: Progress | None = None) -> None:
    """Fetches until it is there; the target appears by one rename, after its bytes were verified and synced.

    Of a leading part there is nothing to verify it by: it stays a part, and the rest continues it.

    Raises:
        WindowClosed: the pass is over; the part stays and the next pass continues.
        LinkDown, AskedWrong: see :meth:`ground.link.Link.json`.
        MapDamaged: it arrived whole twice, and wrong, or ends too early aboard.
        Superseded: another version is there now.
        DiskFailed: the disk is full or failed; the part stays.
    """
    _remove_other_parts(wanted)
    for attempt in (1, 2):
        _fetch_bytes(link, wanted, tally, progress)
        if not wanted.is_whole:
            return
        found = sha256_of(wanted.part)
        if found == wanted.sha256:
            _put_in_place(wanted)
            return
        tally.repeated += wanted.bytes
        wanted.part.unlink()
        if attempt == 2:
            raise MapDamaged(wanted.target, f"SHA-256 {wanted.sha256}", f"SHA-256 {found}")


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch_bytes(link: Link, wanted: Wanted, tally: Tally, progress: Progress | None) -> None:
    while (at := _size(wanted.part)) < wanted.length:
        link.window.check()
        before = tally.received
        try:
            _fetch_once(link, wanted, at, tally, progress)
            link.answered()
        except httpx.TransportError as error:
            if tally.received > before:
                link.answered()  # the link lives, if not for long
            link.pause(f"{type(error).__name__} {error}".strip())
        except TryLater as error:
            link.pause(str(error), error.after_s)


def _fetch_once(link: Link, wanted: Wanted, at: int, tally: Tally, progress: Progress | None) -> None:
    """One request, from byte ``at`` on."""
    last = wanted.length - 1
    if link.window.bytes_left is not None:
        last = min(last, at + link.window.bytes_left - 1)
    headers = {"Range": f"bytes={at}-{last}", "If-Range": f'"{wanted.sha256}"'}
    with link.stream(wanted.path, headers) as answer:
        if answer.status_code == 416:
            # By If-Range another version would have come whole: it is this one, and it ends here. The part stays: the
            # next pass spends one request on it.
            raise MapDamaged(wanted.target, f"{wanted.bytes:,} bytes", f"{at:,} bytes and an end")
        if answer.headers.get("etag") != f'"{wanted.sha256}"':
            wanted.part.unlink(missing_ok=True)
            raise Superseded
        start = _begin_of(answer) if answer.status_code == 206 else 0
        if start > at:
            raise httpx.RemoteProtocolError(f"asked from byte {at} on, got {answer.headers.get('content-range')!r}")
        tally.repeated += at - start
        _write(link, wanted, answer, start, tally, progress)


def _write(
    link: Link, wanted: Wanted, answer: httpx.Response, start: int, tally: Tally, progress: Progress | None
) -> None:
    try:
        wanted.part.parent.mkdir(parents=True, exist_ok=True)
        with wanted.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            unsynced = 0
            for chunk in answer.iter_raw():
                file.write(chunk)
                unsynced += len(chunk)
                tally.received += len(chunk)
                if progress is not None:
                    progress(len(chunk))
                if unsynced >= SYNC_BYTES:
                    file.flush()
                    os.fsync(file.fileno())
                    unsynced = 0
                link.window.take(len(chunk))
    except OSError as error:
        raise DiskFailed(wanted.part, error) from error


def _begin_of(answer: httpx.Response) -> int:
    """The first byte that a 206 brings.

    Raises:
        httpx.RemoteProtocolError: it does not say.
    """
    match = re.match(r"bytes (\d+)-", answer.headers.get("content-range", ""))
    if match is None:
        raise httpx.RemoteProtocolError("a partial answer without Content-Range")
    return int(match[1])


def _put_in_place(wanted: Wanted) -> None:
    try:
        sync(wanted.part)
        wanted.part.rename(wanted.target)
        # The file's name, the name of the map's folder, and that of the folder of all maps.
        for folder in list(wanted.target.parents)[:3]:
            sync(folder)
    except OSError as error:
        raise DiskFailed(wanted.target, error) from error


def _remove_other_parts(wanted: Wanted) -> None:
    for path in wanted.target.parent.glob(f"{wanted.target.name}.*.part"):
        if path != wanted.part:
            path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
