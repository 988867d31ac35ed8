"""A link for tests: a TCP proxy that drops, stalls, truncates and delays connections, by a seed."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

_READ_S = 0.1
"""For the service to read what came before a connection is cut."""


class BadLink:
    """Forwards to a service, badly.

    Attributes:
        sent: bytes that went down to the client, heads included; sent_up: that went up to the service.
        cut_up: connections that were cut while bytes went up.
        connections: how many there were.
        harm: what became of them, by kind.
    """

    KINDS = ("reset", "close", "stall", "delay", "none")

    def __init__(
        self, url: str, *, seed: int, reach: int, stall_s: float, pace_s: float = 0.0, reach_up: int | None = None
    ) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "", parts.port or 0)
        self._reach, self._stall_s, self._pace_s, self._reach_up = reach, stall_s, pace_s, reach_up
        self._random = random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._lock = threading.Lock()
        self.sent = self.sent_up = self.connections = self.cut_up = 0
        self.harm: dict[str, int] = dict.fromkeys(self.KINDS, 0)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        """Takes no more connections."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                kind = self.KINDS[self.connections % len(self.KINDS)] if self._stall_s else "none"
                self.connections += 1
                after = self._random.randrange(self._reach)
                self.harm[kind] += 1
            threading.Thread(target=self._serve, args=(client, kind, after), daemon=True).start()

    def _serve(self, client: socket.socket, kind: str, after: int) -> None:
        if kind == "delay":  # connections overtake each other
            time.sleep(0.05)
        try:
            server = socket.create_connection(self._to)
        except OSError:
            client.close()
            return
        with client, server, contextlib.suppress(OSError):
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            # No connection lives for ever; those of no harm end at their reach.
            left = after if kind in ("reset", "close", "stall") else self._reach
            while data := server.recv(max(1, min(4096, left))):
                client.sendall(data)
                time.sleep(self._pace_s)
                with self._lock:
                    self.sent += len(data)
                left -= len(data)
                if left <= 0:
                    self._harm(client, kind)
                    return

    def _harm(self, client: socket.socket, kind: str) -> None:
        if kind == "stall":
            time.sleep(self._stall_s)
        if kind == "reset":
            # What the client has not read yet is lost as well.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            left = self._random.randrange(self._reach_up) if self._reach_up else 1 << 60
        with contextlib.suppress(OSError):
            while data := client.recv(max(1, min(65536, left))):
                server.sendall(data)
                left -= len(data)
                with self._lock:
                    self.sent_up += len(data)
                    self.cut_up += left <= 0
                if left <= 0:
                    # uvicorn forgets what came with the end of a connection and was not read yet; on a slow link it is.
                    time.sleep(_READ_S)
                    for side in (client, server):
                        side.shutdown(socket.SHUT_RDWR)
                    return
            server.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def bad_link(url: str, *, seed: int, reach: int = 400_000, stall_s: float = 1.0) -> Iterator[BadLink]:
    """A bad link for the length of the block: harm comes within ``reach`` bytes of a connection's begin."""
    link = BadLink(url, seed=seed, reach=reach, stall_s=stall_s)
    try:
        yield link
    finally:
        link.close()


@contextlib.contextmanager
def cutting_link(url: str, *, seed: int, reach_up: int) -> Iterator[BadLink]:
    """A link that cuts each connection once it brought a number of bytes up, below ``reach_up``."""
    link = BadLink(url, seed=seed, reach=1 << 60, stall_s=0.0, reach_up=reach_up)
    try:
        yield link
    finally:
        link.close()


@contextlib.contextmanager
def slow_link(url: str, *, pace_s: float = 0.01) -> Iterator[BadLink]:
    """A link that harms nothing and takes its time: 4 KiB in ``pace_s``."""
    link = BadLink(url, seed=0, reach=1 << 60, stall_s=0.0, pace_s=pace_s)
    try:
        yield link
    finally:
        link.close()
