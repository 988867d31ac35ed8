"""Limits the number of open connections, and closes those whose client does not read its answer.

A connection costs a descriptor from the moment the kernel hands it over, long before a request is known: during a TLS
handshake, while a head comes byte by byte, or when it is kept alive for nothing. So they are counted where they are
accepted. At the cap the oldest one without a request in work makes room for the new one, as nginx does when its
connections run out; where every one is at work, the new one is answered 503.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import resource
import socket
import struct
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

DESCRIPTORS_OUT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
RESERVED_DESCRIPTORS = 128
"""For what is no connection: 40 threads with two files of the ledger each, uploads, probes, files being sent."""
MOST_DESCRIPTORS = 4096
MIN_CONNECTIONS = 8
YOUNG_S = 1.0
"""A connection so young is not given up for another: its request may be on its way."""
SWEEP_S = 1.0
_REFUSALS = 16
"""Connections above the cap that are answered 503 at the same time; more are closed at once."""
_BYTES_ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked in struct tcp_info, linux/tcp.h, since Linux 4.1


class Served(Protocol):
    """The protocol of a connection, as far as it is needed here."""

    transport: asyncio.Transport

    @property
    def is_working(self) -> bool:
        """Whether a request is being answered."""


@dataclass
class Connection:
    """One accepted connection.

    Attributes:
        socket: as accepted; asyncio closes it.
        accepted: seconds, monotonic.
        is_refused: it is above the cap, to be answered 503.
        protocol: once the connection is made (after a TLS handshake).
    """

    socket: socket.socket
    accepted: float
    is_refused: bool = False
    protocol: Served | None = None
    _window_begin: float | None = field(default=None, init=False)
    _acked_then: int = field(default=0, init=False)

    @property
    def is_open(self) -> bool:
        """Whether its descriptor is still taken."""
        return self.socket.fileno() >= 0

    def is_read(self, now: float, window_s: float, needed: int) -> bool:
        """False if the client took fewer than ``needed`` bytes over a window through which bytes waited for it.

        What the client's kernel acknowledged is counted, not what ours took: its buffers alone hold megabytes.
        """
        # Bytes wait in two places: in the kernel's queue and, once that is full, in asyncio's buffer.
        queued, acked = _queue_of(self.socket)
        if self.protocol is not None:
            queued += self.protocol.transport.get_write_buffer_size()
        # Nothing waits for the client: if an answer comes slowly, that is our doing.
        if queued == 0:
            self._window_begin = None
        elif self._window_begin is None:
            self._window_begin, self._acked_then = now, acked
        elif now - self._window_begin >= window_s:
            if acked - self._acked_then < needed:
                return False
            self._window_begin, self._acked_then = now, acked
        return True


class Connections:
    """All of them; for the event loop's thread.

    Args:
        most: so many at once.
        read_timeout_s, read_bytes_per_s: a client that reads less over such a window is given up.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        max_connections: int,
        read_timeout_s: float = 30.0,
        read_bytes_per_s: float = 100.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = max_connections
        self._window_s = read_timeout_s
        self._needed = max(1, int(read_timeout_s * read_bytes_per_s))
        self._clock = clock
        self._by_descriptor: dict[int, Connection] = {}
        self._sweeping = False

    def __len__(self) -> int:
        # asyncio closes sockets without a word to us: those that are gone are found when they are counted.
        self._by_descriptor = {fd: connection for fd, connection in self._by_descriptor.items() if connection.is_open}
        return len(self._by_descriptor)

    def admit(self, accepted: socket.socket) -> bool:
        """Takes a new connection up; False if there is no room even to refuse it."""
        count = len(self)
        connection = Connection(accepted, self._clock())
        if count >= self.most and not self.make_room():
            if count >= self.most + _REFUSALS:
                return False
            connection.is_refused = True
        self._by_descriptor[accepted.fileno()] = connection
        return True

    def made(self, descriptor: int, protocol: Served) -> Connection | None:
        """The connection of a protocol that begins."""
        connection = self._by_descriptor.get(descriptor)
        if connection is not None:
            connection.protocol = protocol
            self._start_sweeping()
        return connection

    def make_room(self) -> bool:
        """Ends the oldest connection without a request in work; its descriptor is free a turn of the loop later."""
        for descriptor, connection in self._by_descriptor.items():  # oldest first
            # Those behind it are younger still.
            if self._clock() - connection.accepted < YOUNG_S:
                return False
            if connection.protocol is None or not connection.protocol.is_working:
                with suppress(OSError):
                    # Not close(): the descriptor is asyncio's, which may watch its number after it was given out again.
                    connection.socket.shutdown(socket.SHUT_RDWR)
                del self._by_descriptor[descriptor]
                return True
        return False

    def _start_sweeping(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        if len(self):
            self._start_sweeping()
        now = self._clock()
        for connection in self._by_descriptor.values():
            if connection.protocol is not None and not connection.is_read(now, self._window_s, self._needed):
                # Not close(), which waits until the client has taken what is left.
                connection.protocol.transport.abort()


class Listener(socket.socket):
    """A listening socket that counts what it accepts.

    asyncio's loop calls :meth:`accept`. Left to itself it logs a traceback for each place in the backlog when
    descriptors run out, up to 2,048 in a turn (CPython 3.11, `_accept_connection`).
    """

    connections: Connections

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            BlockingIOError: none that can be taken now.
        """
        try:
            accepted, address = super().accept()
        except OSError as error:
            if error.errno not in DESCRIPTORS_OUT:
                raise
            self._turn_away(error)
            # For asyncio this means that no connection waits: it asks again when the socket is readable.
            raise BlockingIOError from error
        if not self.connections.admit(accepted):
            accepted.close()
            raise BlockingIOError
        return accepted, address

    def hold_spare(self) -> None:
        """Keeps a descriptor for the day when they run out."""
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Closes it, and the spare descriptor."""
        if (spare := getattr(self, "_spare", -1)) >= 0:
            os.close(spare)
            self._spare = -1
        super().close()

    def _turn_away(self, error: OSError) -> None:
        """Takes one connection with the spare descriptor and closes it: a backlog that stays full spins the loop."""
        self.connections.make_room()
        if getattr(self, "_spare", -1) < 0:
            raise error
        os.close(self._spare)
        self._spare = -1
        with suppress(OSError):
            accepted, _ = super().accept()
            accepted.close()
        with suppress(OSError):
            self.hold_spare()


def connections_within(wanted: int) -> int:
    """Number of connections that the limit of open files allows, after it was raised as far as possible.

    A connection may cost two: its socket, and the file that is sent or received.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > MOST_DESCRIPTORS:
        # A soft limit that is higher already stays as it is.
        hard = max(soft, MOST_DESCRIPTORS)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(wanted, max(MIN_CONNECTIONS, (soft - RESERVED_DESCRIPTORS) // 2))


def descriptors_are_out(error: BaseException | None) -> bool:
    """Whether an error came of missing descriptors, however it was wrapped.

    SQLite only says that it cannot open its file, so one is asked for.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in DESCRIPTORS_OUT:
            return True
        error = error.__cause__ or error.__context__
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as refused:
        return refused.errno in DESCRIPTORS_OUT
    return False


def _queue_of(connection: socket.socket) -> tuple[int, int]:
    """Bytes that the client has not acknowledged, and those that it has since the connection began."""
    waiting = array.array("i", [0])
    try:
        # SIOCOUTQ of tcp(7), which has the same number: bytes that are not sent or not acknowledged.
        fcntl.ioctl(connection, termios.TIOCOUTQ, waiting)
        (acked,) = _BYTES_ACKED.unpack_from(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128))
    except (OSError, struct.error, ValueError):  # it has just ended, or is no TCP
        return 0, 0
    return waiting[0], acked
