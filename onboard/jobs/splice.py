"""A body's bytes from the client's socket into a file without passing through the program.

The kernel moves them (splice); two threads follow behind what has been written, one that hashes it and one that syncs
it, so that at the end of the body little is left to do of either. A loop of recv and write pays a copy more, and the
event loop's turn for every few kilobytes; docs/decisions/0005-service.md has the figures.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from onboard.errors import StorageError
from onboard.jobs.pace import Pace
from onboard.mapping.files import storage_error, write_all

PIPE_BYTES = 1 << 20
"""What a pipe holds at most where nobody raised the system's limit (/proc/sys/fs/pipe-max-size)."""
LUMP = 1 << 18
HASH_EVERY, SYNC_EVERY = 1 << 19, 32 << 20
_PIECE = 1 << 18  # read back from the page cache into one buffer that stays in the processor's cache


class Digest(Protocol):
    """As hashlib makes them."""

    def update(self, data: memoryview, /) -> None:
        """Takes more bytes."""


class SocketSource:
    """The rest of a body on a socket that nobody else reads; one thread.

    Args:
        connection: open, blocking or not. The caller closes it.
        left: bytes of the body still to come.
        pace: how fast they have to come.
    """

    def __init__(self, connection: socket.socket, left: int, pace: Pace) -> None:
        self.left, self.pace = left, pace
        self._connection = connection
        self._lump = 1
        self._waited = 0.0

    def read(self, count: int) -> bytes:
        """So many bytes, fewer only at the end of the body.

        Raises:
            TooSlow: bytes come too slowly.
            ConnectionError: the connection ended before the body.
        """
        found = b""
        while len(found) < count and self.left:
            self._wait()
            some = os.read(self._connection.fileno(), min(count - len(found), self.left))
            self._count(len(some))
            found += some
        return found

    def move(self, pipe: int) -> int:
        """Moves what is there into an empty pipe, and says how many bytes.

        Raises:
            TooSlow, ConnectionError: as above.
        """
        self._wait()
        moved = os.splice(self._connection.fileno(), pipe, min(self.left, PIPE_BYTES))
        self._count(moved)
        return moved

    @contextlib.contextmanager
    def in_lumps(self) -> Iterator[None]:
        """Within it a wait ends when LUMP bytes are there, or the wait's time is over: fewer, larger moves."""
        self._wake_at(LUMP)
        try:
            yield
        finally:
            self._wake_at(1)

    def _wake_at(self, count: int) -> None:
        self._lump = count
        with contextlib.suppress(OSError):  # the connection may have ended
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def _wait(self) -> None:
        """Until there are bytes: a lump of them, or what has come when the pace's window is over."""
        if self.left < self._lump:
            self._wake_at(1)
        ready = select.poll()
        ready.register(self._connection, select.POLLIN)
        begun = time.monotonic()
        while not ready.poll(1e3 * self.pace.left_s + 1) and not self._bytes_there():
            now = time.monotonic()
            self.pace.add(now - begun, 0)
            begun = now
        self._waited = time.monotonic() - begun

    def _bytes_there(self) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self._connection, termios.FIONREAD, count)
        return count[0]

    def _count(self, came: int) -> None:
        if not came:
            raise ConnectionError
        self.left -= came
        self.pace.add(self._waited, came)


class Follower:
    """A thread that comes behind a file being written. A context manager: leaving it waits until all is taken.

    Args:
        take: does its work on the bytes from one offset to another.
        at: bytes the file holds already.
        every: bytes that must be new before the thread is woken; a wake-up costs the writer its turn.
        path: of the file, for errors.
    """

    def __init__(self, take: Callable[[int, int], None], *, at: int, every: int, path: Path) -> None:
        self._take, self._every, self._path = take, every, path
        self._written = self._told = at
        self._over = False
        self._wake = threading.Semaphore(0)
        self._error: StorageError | None = None
        self._thread = threading.Thread(target=self._follow, args=(at,), name="follower")

    def wrote(self, size: int) -> None:
        """The file holds so many bytes now.

        Raises:
            StorageError: the work failed.
        """
        self._written = size
        if size - self._told >= self._every:
            self._told = size
            self._wake.release()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over = True
        self._wake.release()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _follow(self, at: int) -> None:
        try:
            over = False
            while not over:
                self._wake.acquire()
                over, written = self._over, self._written  # in this order: after the end nothing is written
                if at < written:
                    self._take(at, written)
                    at = written
        except OSError as error:
            self._error = storage_error(error, self._path)


def hash_behind(file: int, digest: Digest, *, at: int, path: Path) -> Follower:
    """A follower that brings a digest of the first ``at`` bytes of an open file up to its end."""
    buffer = memoryview(bytearray(_PIECE))

    def take(begin: int, end: int) -> None:
        while begin < end:
            count = os.preadv(file, [buffer[: min(_PIECE, end - begin)]], begin)
            if not count:
                raise OSError(errno.EIO, "the file is shorter than what was written")
            digest.update(buffer[:count])
            begin += count

    return Follower(take, at=at, every=HASH_EVERY, path=path)


def sync_behind(file: int, *, at: int, path: Path) -> Follower:
    """A follower that has the disk take an open file's bytes while more come."""
    return Follower(lambda _begin, _end: os.fdatasync(file), at=at, every=SYNC_EVERY, path=path)


class Pipe:
    """A pipe as large as may be; a context manager."""

    def __enter__(self) -> Pipe:
        self.out, self.into = os.pipe()
        with contextlib.suppress(OSError):  # a system may allow less
            fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.out)
        os.close(self.into)

    def drain(self, file: int, count: int, path: Path) -> None:
        """Moves so many bytes to the file's position.

        Raises:
            StorageError: the disk is full or failed.
        """
        while count:
            count -= self._drain_some(file, count, path)

    def _drain_some(self, file: int, count: int, path: Path) -> int:
        try:
            return os.splice(self.out, file, count)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise storage_error(error, path) from error
        # A file system that cannot take pages.
        data = os.read(self.out, count)
        write_all(file, data, path)
        return len(data)
