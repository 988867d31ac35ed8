"""What every request handler works with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from onboard.api.auth import Caller, Tokens, read_tokens
from onboard.api.limits import RateLimit, Slots
from onboard.downlink.retention import make_room
from onboard.jobs.heartbeat import Heartbeat, heartbeat_of
from onboard.jobs.kind import MapKind
from onboard.jobs.ledger import Ledger
from onboard.jobs.measured import Hearing
from onboard.scene.probe import Probes
from onboard.settings import Settings


class Beats:
    """The worker's last heartbeat, as the supervisor hands it on; any thread may ask."""

    def __init__(self) -> None:
        self._last = Heartbeat()
        self._heard: float | None = None

    def take(self, line: bytes) -> None:
        """Takes a line if it is a heartbeat."""
        beat = heartbeat_of(line)
        if beat is not None:
            self._last, self._heard = beat, time.monotonic()

    @property
    def last(self) -> Heartbeat:
        """The last one; that of a worker not yet started before the first."""
        return self._last

    @property
    def silent_s(self) -> float | None:
        """Seconds since it came, None before the first."""
        return None if self._heard is None else time.monotonic() - self._heard


@dataclass
class Service:
    """One API process.

    Attributes:
        settings: of the service.
        kind: model and options that scenes are accepted for.
        tokens: read at the start; `onboard token` and a restart change them.
        beats: the worker's heartbeats.
        hearing: what the sampling process measures.
        is_damaged: the ledger was found damaged: the process is to end, and the supervisor builds it again.
    """

    settings: Settings
    kind: MapKind
    tokens: Tokens = field(default_factory=Tokens)
    beats: Beats = field(default_factory=Beats)
    hearing: Hearing = field(default_factory=Hearing)
    is_damaged: bool = False

    def __post_init__(self) -> None:
        self.rate = RateLimit(self.settings.requests_per_s, self.settings.requests_burst)
        self.uploads = Slots(self.settings.uploads_at_once)
        self.probes = Probes()
        self.streams = Slots(self.settings.streams_at_once, "live streams")
        self.started = time.monotonic()
        self.inbox_seen: dict[Path, tuple[int, int]] = {}
        self.inbox_waits: dict[Path, float] = {}
        self.wake = threading.Event()
        self._local = threading.local()
        self._ledgers: list[Ledger] = []

    @classmethod
    def of(cls, settings: Settings) -> Service:
        """Of the settings, with their tokens and model.

        Raises:
            OptionsRefused: the tokens cannot be read.
            EngineError: there is no such model.
        """
        return cls(settings, MapKind.of(settings), read_tokens(settings.tokens_path))

    def listen(self, lines: Iterable[bytes]) -> None:
        """Takes what worker and sampling say until it ends: the supervisor's pipe, in a thread of its own."""
        for line in lines:
            if not self.hearing.take(line):
                self.beats.take(line)

    @property
    def ledger(self) -> Ledger:
        """This thread's connection."""
        ledger: Ledger | None = getattr(self._local, "ledger", None)
        if ledger is None:
            ledger = self._local.ledger = Ledger(self.settings.ledger_path)
            self._ledgers.append(ledger)
        return ledger

    def make_room(self, wanted: int) -> None:
        """Erases maps that the ground holds, if that leaves so many bytes beside the reserve."""
        make_room(self.settings, self.ledger, wanted)

    def close(self) -> None:
        """Ends the probe and closes every thread's ledger: the last connection takes the write-ahead log along."""
        self.probes.close()
        while self._ledgers:
            self._ledgers.pop().close()


def service_of(request: Request) -> Service:
    """The service that this request came to."""
    service: Service = request.app.state.service
    return service


def caller_of(request: Request) -> Caller:
    """Who asks; counts the request.

    Raises:
        NotAuthenticated: nobody we know.
        TooMany: too fast.
    """
    return caller_with(request, request.headers.get("authorization"))


def caller_with(request: Request, authorization: str | None) -> Caller:
    """Whose Authorization field this is; counts the request.

    Raises:
        NotAuthenticated, TooMany: see :func:`caller_of`.
    """
    service = service_of(request)
    caller = service.tokens.caller_of(authorization)
    service.rate.take(caller.name)
    return caller


TheService = Annotated[Service, Depends(service_of)]
TheCaller = Annotated[Caller, Depends(caller_of)]
