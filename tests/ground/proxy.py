"""A link for tests: a TCP proxy that drops, stalls, truncates and delays connections, by a seed."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit


class BadLink:
    """Forwards to a service, badly.

    Attributes:
        sent: bytes that went down to the client, heads included.
        connections: how many there were.
        harm: what became of them, by kind.
    """

    KINDS = ("reset", "close", "stall", "delay", "none")

    def __init__(self, url: str, *, seed: int, reach: int, stall_s: float, pace_s: float = 0.0) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "", parts.port or 0)
        self._reach, self._stall_s, self._pace_s = reach, stall_s, pace_s
        self._random = random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._lock = threading.Lock()
        self.sent = self.connections = 0
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
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
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
def slow_link(url: str, *, pace_s: float = 0.01) -> Iterator[BadLink]:
    """A link that harms nothing and takes its time: 4 KiB in ``pace_s``."""
    link = BadLink(url, seed=0, reach=1 << 60, stall_s=0.0, pace_s=pace_s)
    try:
        yield link
    finally:
        link.close()
