"""The HTTP/1.1 protocol class for uvicorn, with limits that uvicorn and httptools lack.

Limits on a request's head, in time and in bytes: uvicorn bounds an idle connection's time, but waits for ever for a
head that comes byte by byte, and takes one that never ends into memory. A limit on a body that goes on after its
request was answered. A cap on connections (:mod:`onboard.api.connections`). Header fields in a chunked body's trailer
are dropped: httptools reports them as it reports those of the head, and whoever reads the body would have a token after
it that was not there before.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from onboard.api import problems
from onboard.api.connections import Connection, Connections

HEAD_BYTES = 1 << 16
"""Bytes of a head, of a trailer, or of anything else that is no body."""
LINGER_S = 30.0
"""How long the rest of a body is passed over after its request was answered, so that the client sees the answer."""
REFUSAL_S = 1.0
"""How long a refused connection may take to read its refusal."""


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections that take too long or too much."""

    head_s = 10.0
    linger_s = LINGER_S
    all_connections: Connections | None = None
    _timer: asyncio.TimerHandle | None = None
    _linger: asyncio.TimerHandle | None = None
    _is_in_head = False
    _unparsed = 0
    _is_over = False

    @property
    def is_working(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Its first head's time begins, unless there are too many connections."""
        super().connection_made(transport)
        connection: Connection | None = None
        if self.all_connections is not None:
            connection = self.all_connections.made(transport.get_extra_info("socket").fileno(), self)
        if connection is not None and connection.is_refused:
            self._end_with(503, "too many connections are open; try again in a moment")
        else:
            self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Bytes for the parser, which may be too many."""
        # What still comes is passed over: these were the last words.
        if self._is_over:
            return
        if data:
            self._unparsed += len(data)
            super().data_received(data)
            # After the parser: a head or a piece of body that these bytes completed has set the count to 0.
            if self._unparsed > HEAD_BYTES:
                self._end_with(431, f"a head has at most {HEAD_BYTES} bytes")
            elif not self.is_working and self._linger is None:
                self._start_timer()  # bytes between two requests are no reason to wait for ever either

    def on_message_begin(self) -> None:
        """The next head's time begins."""
        super().on_message_begin()
        self._is_in_head = True
        self._start_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; one of a trailer is dropped."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: its time ends."""
        self._stop_timer()
        self._is_in_head, self._unparsed = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of the body."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._unparsed = 0
        self._stop_lingering()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The request is answered; what is left of its body has an end, whatever comes of it."""
        super().on_response_complete()
        # A client that still sends would be reset if the connection were closed, and lose the answer that explains.
        unread = self.cycle.response_complete and self.cycle.more_body
        if unread and not self.transport.is_closing() and self._linger is None:
            self._linger = self.loop.call_later(self.linger_s, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_timer()
        self._stop_lingering()
        super().connection_lost(exc)

    def _end_with(self, status: int, detail: str) -> None:
        """A problem as the last words of a connection, which stays a moment: closed at once, it would be reset."""
        self._stop_timer()
        self._is_over = True
        if self.is_working or self.transport.is_closing():  # an answer is on its way: no words into its midst
            self.transport.abort()
            return
        answer = problems.problem(problems.kind_of_status(status), detail, {"Connection": "close", "Retry-After": "1"})
        head = b"".join(b"%b: %b\r\n" % field for field in answer.raw_headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + bytes(answer.body))
        if self.transport.can_write_eof():
            # Our side alone: a socket that is closed with unread bytes is reset, and the client loses these words.
            self.transport.write_eof()
        self._timer = self.loop.call_later(REFUSAL_S, self._give_up)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _give_up(self) -> None:
        self._timer = self._linger = None
        if not self.transport.is_closing():
            self.transport.close()


def bounded_protocol(
    head_s: float, connections: Connections | None = None, linger_s: float = LINGER_S
) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn's ``http`` setting.

    Args:
        head_s: seconds in which a request's head must be whole.
        connections: that the service's listener counts.
        linger_s: seconds that a body may go on after its request was answered.
    """
    settings = {"head_s": head_s, "all_connections": connections, "linger_s": linger_s}
    # uvicorn makes the protocols itself, by their class: limits can only be attributes of one.
    return type("BoundedProtocol", (BoundedProtocol,), settings)
