"""Requests byte by byte, for tests of what a client may do to the service."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx


def connected(url: str, *, receive_buffer: int | None = None, timeout_s: float = 20.0) -> socket.socket:
    """A connection to a service; a small receive buffer makes a client that does not read felt at once."""
    address = httpx.URL(url)
    link = socket.socket()
    if receive_buffer is not None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    link.settimeout(timeout_s)
    link.connect((address.host, address.port))
    return link


def head(method: str, path: str, *fields: str, host: str | None = "x") -> bytes:
    """A request's head."""
    lines = [f"{method} {path} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def answer_of(link: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of the next answer with a declared length."""
    data = b""
    while b"\r\n\r\n" not in data:
        some = link.recv(65536)
        assert some, f"the connection ended: {data!r}"
        data += some
    top, _, body = data.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(fields.get("content-length", 0)):
        some = link.recv(65536)
        assert some, f"the connection ended within an answer: {data!r}"
        body += some
    return int(first.split()[1]), fields, body


def problem_of(link: socket.socket) -> dict[str, Any]:
    """The next answer, which is a problem."""
    _, fields, body = answer_of(link)
    assert fields["content-type"] == "application/problem+json"
    told: dict[str, Any] = json.loads(body)
    return told


def is_closed(link: socket.socket, within_s: float) -> bool:
    """Whether the other side ends the connection in time; what it sends before is passed over."""
    end = time.monotonic() + within_s
    while (left := end - time.monotonic()) > 0:
        link.settimeout(left)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, TimeoutError):
            if link.recv(65536):
                continue
            return True
        return left > 0.05 and time.monotonic() < end
    return False


def resident_mib(process: int) -> float:
    """Memory of a process, MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
