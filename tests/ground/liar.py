"""A satellite that lies: a server on loopback whose every answer a test may replace, byte by byte."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

Answer = Callable[[socket.socket, str], None]
"""Called with the connection and the request's head; what it returns from, the connection is closed after."""
PROBLEM = "application/problem+json"


def respond(body: bytes | str | object, *, status: int = 200, kind: str = "application/json", **fields: str) -> Answer:
    """One whole answer; underscores in names of fields are dashes."""
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Any", f"Content-Type: {kind}", f"Content-Length: {len(raw)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]

    def answer(link: socket.socket, _: str) -> None:
        link.sendall("\r\n".join([*lines, "", ""]).encode() + raw)

    return answer


def endless(fields: str, data: bytes) -> Answer:
    """Status and fields, then the data again and again."""

    def answer(link: socket.socket, _: str) -> None:
        link.sendall(f"HTTP/1.1 {fields}\r\n\r\n".encode())
        while True:
            link.sendall(data)

    return answer


class Liar:
    """Holds maps and says so; ``answers`` by method and path replace what it would say.

    Attributes:
        maps: content of map.tif by id.
        requests: method and path of each request so far.
    """

    def __init__(self, maps: dict[str, bytes] | None = None) -> None:
        self.maps = dict(maps or {})
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.received: set[str] = set()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        self._over.set()
        self._listening.close()

    def drip(self, link: socket.socket, data: bytes, every_s: float) -> None:
        """Sends so, a byte at a time, again and again, until the other side or the test ends."""
        while not self._over.is_set():
            for number in data:
                link.sendall(bytes([number]))
                if self._over.wait(every_s):
                    return

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                some = link.recv(65536)
                if not some:
                    return
                head += some
            text = head.decode(errors="replace")  # part of the body may have come along, cut anywhere
            method, target, _ = text.split(" ", 2)
            request = f"{method} {target.partition('?')[0]}"
            self.requests.append(request)
            self.answers.get(request, self._honest)(link, text)
            # Closed with unread bytes, the connection would be reset, and the answer lost.
            link.shutdown(socket.SHUT_WR)
            link.settimeout(2)
            while link.recv(65536):
                pass

    def _honest(self, link: socket.socket, head: str) -> None:
        path = head.split(" ", 2)[1].partition("?")[0]
        name = path.split("/")[2] if path.startswith("/maps/") else ""
        if path == "/downlink/plan":
            items = [self.planned(name) for name in self.maps if name not in self.received]
            respond({"items": items, "left_out": 0})(link, head)
        elif path.endswith("/receipt"):
            self.received.add(name)
            respond({"map": name, "received": True, "known_before": False})(link, head)
        elif path.endswith("/check"):
            respond({"map": name, "damaged": [], "erased": False})(link, head)
        elif name in self.maps and path.endswith("/map.tif"):
            self.send_file(link, head, self.maps[name])
        else:
            respond({"detail": "there is no such thing"}, status=404, kind=PROBLEM)(link, head)

    def planned(self, name: str, **changed: Any) -> dict[str, Any]:
        """An entry of a plan."""
        data = self.maps[name]
        row = {"map": name, "asset": "map.tif", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
               "length": len(data), "reason": "rare"}  # fmt: skip
        return row | changed

    @staticmethod
    def send_file(link: socket.socket, head: str, data: bytes) -> None:
        """A range of it, as the service does."""
        match = re.search(r"(?i)range: bytes=(\d+)-(\d+)", head)
        begin, end = (int(match[1]), int(match[2]) + 1) if match else (0, len(data))
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        said = f"bytes {begin}-{min(end, len(data)) - 1}/{len(data)}"
        respond(data[begin:end], status=206, kind="image/tiff", ETag=tag, Content_Range=said)(link, head)


@contextlib.contextmanager
def lying(maps: dict[str, bytes] | None = None) -> Iterator[Liar]:
    """A lying satellite for the length of the block."""
    liar = Liar(maps)
    try:
        yield liar
    finally:
        liar.close()
