"""One line of the log when a station begins a pass, and one when it has ended: what it took."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engines.command_line import bytes_text

log = logging.getLogger(__name__)
QUIET_S = 60.0
"""Without a file under way or a receipt for so long, a pass has ended: stations pause for less between tries."""


@dataclass
class _Pass:
    begun: float
    active: float
    under_way: int = 0
    maps: int = 0
    bytes: int = 0


class PassLog:
    """Follows passes by the files that are fetched and the receipts that are given, each station by its token's name.

    A plan alone is no pass: a console asks for it every few seconds.

    Args:
        quiet_s: silence after which a pass has ended.
    """

    def __init__(self, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s
        self._lock = threading.Lock()
        self._passes: dict[str, _Pass] = {}

    @contextmanager
    def transfer(self, station: str) -> Iterator[None]:
        """While a file is sent to a station."""
        self._active(station, under_way=1)
        try:
            yield
        finally:
            self._active(station, under_way=-1)

    def received(self, station: str, size: int) -> None:
        """A station gave the receipt of a map of ``size`` bytes."""
        self._active(station, maps=1, size=size)

    def end_quiet(self) -> None:
        """Ends passes that are silent for long enough; called every few seconds."""
        # Files are sent by the event loop, receipts come in its threads, and housekeeping ends passes.
        with self._lock:
            now = time.monotonic()
            for station, one in list(self._passes.items()):
                if one.under_way == 0 and now - one.active >= self._quiet_s:
                    self._end(station)

    def close(self) -> None:
        """The service ends, and so do passes that go on."""
        with self._lock:
            for station in list(self._passes):
                self._end(station)

    def _active(self, station: str, *, under_way: int = 0, maps: int = 0, size: int = 0) -> None:
        with self._lock:
            now = time.monotonic()
            current = self._passes.get(station)
            if current is None:
                log.info("pass begins: %s", station)
                current = self._passes[station] = _Pass(now, now)
            current.active = now
            current.under_way += under_way
            current.maps += maps
            current.bytes += size

    def _end(self, station: str) -> None:
        ended = self._passes.pop(station)
        # To the last byte, not to now: the minute of silence that ends a pass is no part of it.
        seconds = ended.active - ended.begun
        log.info(
            "pass ended: %s, maps acknowledged: %d (%s), in %s",
            station, ended.maps, bytes_text(ended.bytes), f"{seconds:.0f} s" if seconds >= 1 else "under 1 s",
        )  # fmt: skip


class Transfer(Response):
    """A file's answer that counts as activity of a pass until its last byte is sent, or the station is gone.

    Args:
        answer: what is sent.
        passes: that follow it.
        station: to whom.
    """

    def __init__(self, answer: Response, passes: PassLog, station: str) -> None:
        # Without Response's own constructor, which would make a body: everything is the answer's that is wrapped.
        self._answer, self._passes, self._station = answer, passes, station
        self.background = answer.background
        self.status_code, self.raw_headers = answer.status_code, answer.raw_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        with self._passes.transfer(self._station):
            await self._answer(scope, receive, send)
