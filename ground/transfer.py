"""One file from the satellite to the disk: in ranges, resumable, verified, whole or not there.

The part file's name holds the digest of what is fetched, and the service's entity tags are digests: so a part fits
exactly one version of a file, and nothing else has to be remembered to resume.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from ground.errors import DiskFailed, MapDamaged
from ground.link import Link, TryLater, reason_of

SYNC_BYTES = 4 << 20
"""Bytes between two fsyncs of a part: what a power cut at the station may cost."""

_CHUNK = 1 << 20
MIN_PROGRESS = 1024
"""Bytes that a try must bring to count as one in which the link lived."""

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
        # 64 bits tell the versions of one file apart; before the rename the whole digest is compared.
        return self.target.with_name(f"{self.target.name}.{self.sha256[:16]}.part")

    @property
    def part_bytes(self) -> int:
        """How far it has grown; 0 where there is none."""
        return _size(self.part)


@dataclass
class Tally:
    """Bytes of a pass: those that came, and of them those that had come before."""

    received: int = 0
    repeated: int = 0


def fetch(
    link: Link,
    wanted: Wanted,
    tally: Tally,
    progress: Progress | None = None,
    is_damaged_aboard: Callable[[], bool] = lambda: False,
) -> None:
    """Fetches until it is there; the target appears by one rename, after its bytes were verified and synced.

    Of a leading part there is nothing to verify it by: it stays a part, and the rest continues it.

    Args:
        link: to the satellite.
        wanted: the file.
        tally: counts the bytes.
        progress: called with bytes that came.
        is_damaged_aboard: asked when the file arrived wrong: where it is, it is not fetched a second time.

    Raises:
        WindowClosed: the pass is over; the part stays and the next pass continues.
        LinkDown, AskedWrong: see :meth:`ground.link.Link.json`.
        MapDamaged: it arrived whole and wrong, twice or as it lies aboard, or ends too early aboard.
        Superseded: another version is there now.
        DiskFailed: the disk is full or failed; the part stays.
    """
    # First, since the next line counts the room that is free: nothing ever continues the parts of other versions.
    _remove_other_parts(wanted)
    _check_room(wanted)
    # Wrong once may be the link, or a part that a power cut at the station has torn. Wrong twice is the file aboard.
    for attempt in (1, 2):
        _fetch_bytes(link, wanted, tally, progress)
        if not wanted.is_whole:
            return
        digest = sha256_of(wanted.part)
        if digest == wanted.sha256:
            _put_in_place(wanted)
            return
        # Asked at once: a file larger than a pass never arrives twice in one. And while the part is here: where the
        # window closes in the question, the next pass asks it.
        is_lost = attempt == 2 or is_damaged_aboard()
        tally.repeated += wanted.bytes
        # Left in place it would count as complete, and the second try would fetch nothing.
        wanted.part.unlink()
        if is_lost:
            raise MapDamaged(wanted.target, f"SHA-256 {wanted.sha256}", f"SHA-256 {digest}")


def sha256_of(path: Path) -> str:
    """Hex digest of a plain file."""
    digest = hashlib.sha256()
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        while chunk := file.read(_CHUNK):
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
            if tally.received - before >= MIN_PROGRESS:
                link.answered()  # the link lives, if not for long
            link.pause(reason_of(error))
        except TryLater as error:
            link.pause(str(error), error.after_s)


def _fetch_once(link: Link, wanted: Wanted, at: int, tally: Tally, progress: Progress | None) -> None:
    """One request, from byte ``at`` on."""
    last = wanted.length - 1
    # No more is asked for than may come: what is on its way cannot be called back.
    if link.window.bytes_left is not None:
        last = min(last, at + link.window.bytes_left - 1)
    # If-Range: of another version the service sends the whole, never a piece that would be put behind this part.
    headers = {"Range": f"bytes={at}-{last}", "If-Range": f'"{wanted.sha256}"'}
    with link.stream(wanted.path, headers) as answer:
        if answer.status_code == 416:
            _check_end(answer, wanted, at)
        _check_version(answer, wanted)
        # A 200 brings the file from its first byte, as a proxy does that knows no ranges: Piece skips what is here.
        start = _begin_of(answer) if answer.status_code == 206 else 0
        if start > at:
            raise httpx.RemoteProtocolError(f"asked from byte {at} on, got {answer.headers.get('content-range')!r}")
        _write(link, wanted, answer, Piece(start, at, last + 1), tally, progress)


@dataclass(frozen=True)
class Piece:
    """What an answer brings, and what of it is wanted.

    Attributes:
        start: the first byte that comes.
        begin: the first that is not here yet; what lies before it is passed over: the good part stays as it is.
        end: behind the last one that was asked for; what comes from there on was not promised and is not written.
    """

    start: int
    begin: int
    end: int


def _check_end(answer: httpx.Response, wanted: Wanted, at: int) -> None:
    """A 416 of the service: by If-Range another version would have come whole, so it is this one, and ends here.

    Raises:
        MapDamaged: it says where it ends. The part stays: the next pass spends one request on it.
        httpx.RemoteProtocolError: it does not.
    """
    if re.fullmatch(r"bytes \*/\d{1,18}", answer.headers.get("content-range", "")):
        raise MapDamaged(wanted.target, f"{wanted.bytes:,} bytes", f"{at:,} bytes and an end")
    raise httpx.RemoteProtocolError("answers 416 without an end: is there a portal between?")


def _check_version(answer: httpx.Response, wanted: Wanted) -> None:
    """The service's entity tags are digests. What has none is not its answer, and says nothing of the part here.

    Raises:
        Superseded: it is another version's. The part is removed when that one is fetched, and not before.
        httpx.RemoteProtocolError: it is none of the service's.
    """
    tag = answer.headers.get("etag", "")
    if tag == f'"{wanted.sha256}"' and answer.status_code in (200, 206):
        return
    if re.fullmatch('"[0-9a-f]{64}"', tag):
        raise Superseded
    kind = answer.headers.get("content-type", "nothing")[:100]
    raise httpx.RemoteProtocolError(f"answers {answer.status_code} with {kind}, not the file: is a portal between?")


def _write(
    link: Link, wanted: Wanted, answer: httpx.Response, piece: Piece, tally: Tally, progress: Progress | None
) -> None:
    try:
        wanted.part.parent.mkdir(parents=True, exist_ok=True)
        # Not truncated: if the answer breaks off, the good part is as long as before.
        with os.fdopen(open_plain(wanted.part, os.O_RDWR | os.O_CREAT), "r+b") as file:
            file.seek(piece.begin)
            unsynced, at = 0, piece.start
            for chunk in link.chunks(answer, piece.end - piece.start):
                new_bytes = chunk[max(0, piece.begin - at) :]
                at += len(chunk)
                file.write(new_bytes)
                unsynced += len(new_bytes)
                tally.received += len(chunk)
                tally.repeated += len(chunk) - len(new_bytes)
                if progress is not None:
                    progress(len(new_bytes))
                if unsynced >= SYNC_BYTES:
                    file.flush()
                    os.fsync(file.fileno())
                    unsynced = 0
                # Last: it may end the pass, and the chunk is written by then.
                link.window.take(len(chunk))
    # The disk's: httpx.TransportError is no OSError, so failures of the link pass through.
    except OSError as error:
        raise DiskFailed(wanted.part, error) from error


def _begin_of(answer: httpx.Response) -> int:
    """The first byte that a 206 brings.

    Raises:
        httpx.RemoteProtocolError: it does not say.
    """
    text = answer.headers.get("content-range", "")
    match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(?:\d{1,18}|\*)", text)
    if match is None:
        raise httpx.RemoteProtocolError("a partial answer without Content-Range")
    return int(match[1])


def _check_room(wanted: Wanted) -> None:
    """Passes if what is to come fits on the disk.

    Raises:
        DiskFailed: it does not; nothing was fetched.
    """
    folder = next(path for path in wanted.target.parents if path.exists())
    missing = wanted.length - _size(wanted.part)
    if missing > shutil.disk_usage(folder).free:
        raise DiskFailed(wanted.target, OSError(errno.ENOSPC, f"it needs {missing:,} bytes, more than are free"))


def _put_in_place(wanted: Wanted) -> None:
    try:
        # The bytes before the name: else a power cut could leave a map.tif of the right length with holes in it.
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


def open_plain(path: Path, flags: int) -> int:
    """A descriptor of a plain file; a FIFO or a device of this name would be waited for without end.

    Raises:
        OSError: it is none, or as `os.open`.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file; remove it", str(path))
    return descriptor


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


def write_whole(path: Path, data: bytes) -> None:
    """A small file: there in one step with all its bytes, or as it was."""
    with _replacing(path) as file:
        file.write(data)


def write_beginning(path: Path, source: Path, length: int) -> None:
    """A file of the leading ``length`` bytes of another, in one step as :func:`write_whole`.

    Raises:
        OSError: it cannot be written, or the other is no plain file or shorter.
    """
    with os.fdopen(open_plain(source, os.O_RDONLY), "rb") as from_file, _replacing(path) as file:
        left = length
        while left > 0:
            chunk = from_file.read(min(left, _CHUNK))
            if not chunk:
                raise OSError(errno.EIO, f"it has fewer than {length:,} bytes", str(source))
            file.write(chunk)
            left -= len(chunk)


def is_beginning(path: Path, source: Path, least: int) -> bool:
    """Whether a file has at least ``least`` bytes and is how another one begins."""
    try:
        with (
            os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file,
            os.fdopen(open_plain(source, os.O_RDONLY), "rb") as other,
        ):
            size = 0
            while chunk := file.read(_CHUNK):
                if other.read(len(chunk)) != chunk:
                    return False
                size += len(chunk)
    except OSError:
        return False
    return size >= least


def new_name(path: Path) -> Path:
    """Where a file is written before it takes its place; a cut may leave it there."""
    return path.with_name(f"{path.name}.new")


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside the path, which takes its place, durable, when the block ends without an error."""
    new_path = new_name(path)
    # With O_EXCL below: what has this name, a link too, is removed and never written through.
    new_path.unlink(missing_ok=True)
    with os.fdopen(os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    # After the fsync of the bytes, before that of the folder: a cut leaves the old file or the new one.
    new_path.replace(path)
    sync(path.parent)


def write_changed(path: Path, data: bytes) -> None:
    """Like :func:`write_whole`, where the file has other bytes."""
    # A file that would not change keeps its time, and costs no fsync.
    with suppress(OSError):  # it is not there, or longer
        if read_small(path, len(data)) == data:
            return
    write_whole(path, data)


def last_lines(path: Path, longest: int) -> list[bytes]:
    """Lines in so many bytes at the end of a plain file.

    Raises:
        OSError: it is none, or cannot be read.
    """
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        # May begin in the middle of a line: callers pass over it like over damaged ones.
        file.seek(max(0, file.seek(0, os.SEEK_END) - longest))
        return file.read(longest).splitlines()


def read_small(path: Path, longest: int) -> bytes:
    """A plain file that has no reason to be longer than this.

    Raises:
        OSError: it is none, is longer, or cannot be read.
    """
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise OSError(errno.EFBIG, f"it has more than {longest:,} bytes", str(path))
    return data
