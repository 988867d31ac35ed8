"""HTTP/1.1 by uvicorn, with a limit on how long a client may take over a request's head.

uvicorn bounds a head's length and an idle connection's time, but waits for ever for a head that comes byte by byte: a
few hundred such connections take all file descriptors.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def bounded_protocol(head_s: float) -> type[H11Protocol]:
    """The protocol class for uvicorn's ``http`` setting; a head must be whole after ``head_s`` seconds."""

    class BoundedProtocol(H11Protocol):
        """Closes a connection whose request's head takes too long."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._timer = self.loop.call_later(head_s, self._give_up)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waiting = self.conn.their_state is h11.IDLE
            if not waiting:
                self._stop_timer()
            elif self._timer is None:
                self._timer = self.loop.call_later(head_s, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _give_up(self) -> None:
            self._timer = None
            if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
                self.transport.close()

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return BoundedProtocol
