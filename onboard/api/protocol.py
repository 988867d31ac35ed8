"""HTTP/1.1 by uvicorn and httptools, with two things they lack.

A limit on how long a client may take over a request's head: uvicorn bounds an idle connection's time, but waits for
ever for a head that comes byte by byte, and a few hundred such connections take all file descriptors.

And large plain bodies straight from the socket: who handles such a request may take the connection's descriptor and
read the body in a thread (see :class:`OpenBody`).
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import httptools
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

EXTENSION = "onboard.body"
OPEN_BODY_BYTES = 1 << 16
"""Bodies at least so long can be taken; below that a thread costs more than it brings."""
DRAIN_S = 8.0
"""How long a body may go on once the service is told to stop; uvicorn cuts what is left at ten seconds."""


class OpenBody:
    """A request's body of declared length that still lies in the socket, on a plain connection."""

    def __init__(self, protocol: BoundedProtocol, cycle: RequestResponseCycle, length: int) -> None:
        self._protocol, self._cycle = protocol, cycle
        self.length = length

    def take(self) -> tuple[bytes, socket.socket] | None:
        """What came of it with the head, and the connection, from which the caller reads the rest and which it closes.

        Nothing else reads the socket until :meth:`give_back`. None if the whole body is here already.
        """
        cycle, protocol = self._cycle, self._protocol
        if not cycle.more_body or cycle.disconnected or protocol.transport.is_closing():
            return None
        cycle.flow.pause_reading()
        begun = bytes(cycle.body)
        cycle.body.clear()
        # The parser will not see the rest: as far as it is told, the message ends here.
        cycle.more_body = False
        protocol.parser = httptools.HttpRequestParser(protocol)
        if cycle.waiting_for_100_continue:
            protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        protocol.taken = True
        return begun, socket.socket(fileno=os.dup(protocol.transport.get_extra_info("socket").fileno()))

    def give_back(self, left: int) -> None:
        """The connection is the protocol's again; so many bytes of the body are still to come and are passed over."""
        self._protocol.taken = False
        self._protocol.skip = left


def open_body_of(request: Request) -> OpenBody | None:
    """The request's, where it has one."""
    body: OpenBody | None = request.scope.get("extensions", {}).get(EXTENSION)
    return body


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request's head takes too long; offers large bodies."""

    head_s = 10.0
    skip = 0
    taken = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Its first head's time begins."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Bytes for the parser, less those of a body that was given back unread."""
        if self.skip:
            passed = min(self.skip, len(data))
            self.skip -= passed
            data = data[passed:]
        if data:
            super().data_received(data)

    def on_message_begin(self) -> None:
        """The next head's time begins."""
        super().on_message_begin()
        self._start_timer()

    def on_headers_complete(self) -> None:
        """The head is whole: its time ends, and its body may be taken."""
        self._stop_timer()
        is_first = self.cycle is None or self.cycle.response_complete
        super().on_headers_complete()
        length = self._open_length()
        if is_first and length >= OPEN_BODY_BYTES:
            scope: dict[str, Any] = self.scope  # type: ignore[assignment]
            scope["extensions"] = {EXTENSION: OpenBody(self, self.cycle, length)}

    def shutdown(self) -> None:
        """The service stops: a body that is being taken has a while to end."""
        super().shutdown()
        if self.taken:
            self.loop.call_later(DRAIN_S, self._end_taken)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def _open_length(self) -> int:
        """Declared length of the body if it comes as it is on a plain connection; 0 otherwise."""
        told = dict(self.headers)
        length = told.get(b"content-length", b"")
        if self.scheme != "http" or b"transfer-encoding" in told or not length.isdigit():
            return 0
        return int(length)

    def _end_taken(self) -> None:
        if self.taken and not self.transport.is_closing():
            self.transport.get_extra_info("socket").shutdown(socket.SHUT_RD)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


def bounded_protocol(head_s: float) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn's ``http`` setting; a head must be whole after ``head_s`` seconds."""
    return type("BoundedProtocol", (BoundedProtocol,), {"head_s": head_s})
