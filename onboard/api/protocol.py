"""HTTP/1.1 by uvicorn and httptools, with a limit on how long a client may take over a request's head.

uvicorn bounds an idle connection's time, but waits for ever for a head that comes byte by byte: a few hundred such
connections take all file descriptors.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def bounded_protocol(head_s: float) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn's ``http`` setting; a head must be whole after ``head_s`` seconds."""

    class BoundedProtocol(HttpToolsProtocol):
        """Closes a connection whose request's head takes too long."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start_timer()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._start_timer()

        def on_headers_complete(self) -> None:
            self._stop_timer()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _start_timer(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(head_s, self._give_up)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self.transport.close()

    return BoundedProtocol
