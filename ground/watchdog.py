"""An end to a connection whose other side takes too long, whatever it is busy with.

httpx bounds the wait for the next bytes, not their sum: a head that comes byte by byte is waited for as long as it
comes. So the socket is shut down when the time is up, from a timer's thread, and whoever reads it sees it end.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any


class Watchdog:
    """Ends the connection in use when its time is up; one request at a time.

    :meth:`trace` is httpx's request extension ``trace``: it tells which socket is in use.
    Source: https://www.encode.io/httpcore/extensions/ (trace, network_stream).
    """

    def __init__(self) -> None:
        # The timer's thread reads the socket that this thread sets.
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Takes the socket of a new connection."""
        # TLS puts another socket object around the first, so it comes later and replaces that.
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            stream = info.get("return_value")
            with self._lock:
                self._socket = None if stream is None else stream.get_extra_info("socket")

    def arm(self, seconds: float) -> None:
        """From now on the connection has so long; replaces what was said before. Infinity takes the end away."""
        self.disarm()
        # A timer of infinity raises OverflowError in its thread.
        if seconds == float("inf"):
            return
        timer = threading.Timer(max(0.0, seconds), self._end)
        # A command that ends does not wait for it.
        timer.daemon = True
        self._timer = timer
        timer.start()

    def disarm(self) -> None:
        """It has for ever."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):
                    # Not close(): shutdown wakes the thread that waits in recv, and the descriptor's
                    # number is not given to another file while httpx still uses it.
                    self._socket.shutdown(socket.SHUT_RDWR)
