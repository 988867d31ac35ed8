"""The state of one API process, which every request handler gets as a dependency."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from engines.errors import EngineError
from onboard.api.auth import Caller, Tokens, read_tokens
from onboard.api.limits import RateLimit, Slots
from onboard.api.pass_log import PassLog
from onboard.downlink.retention import make_room
from onboard.jobs.ledger import Ledger
from onboard.jobs.mapping_config import MappingConfig
from onboard.models.active import active_model
from onboard.models.uplink import Uplink
from onboard.power.receiver import TelemetryReceiver
from onboard.processes.heartbeat import HeartbeatReceiver
from onboard.scene.probe import Probes
from onboard.settings import Settings


@dataclass
class Service:
    """One API process.

    Attributes:
        settings: of the service.
        shipped_config: model of the settings and options that scenes are accepted for where no other model is active.
        tokens: read at the start; `onboard token` and a restart change them.
        heartbeats: the worker's heartbeats.
        telemetry: what the sampling process measures.
        is_damaged: the ledger was found damaged: the process is to end, and the supervisor builds it again.
    """

    settings: Settings
    shipped_config: MappingConfig
    tokens: Tokens = field(default_factory=Tokens)
    heartbeats: HeartbeatReceiver = field(default_factory=HeartbeatReceiver)
    telemetry: TelemetryReceiver = field(default_factory=TelemetryReceiver)
    is_damaged: bool = False

    def __post_init__(self) -> None:
        self.rate = RateLimit(self.settings.max_requests_per_s, self.settings.requests_burst)
        self.uploads = Slots(self.settings.max_uploads)
        self.probes = Probes()
        self.streams = Slots(self.settings.max_streams, "live streams")
        self.passes = PassLog()
        self.started = time.monotonic()
        self.inbox_seen: dict[Path, tuple[int, ...]] = {}
        self.inbox_waits: dict[Path, float] = {}
        self.inbox_failed: dict[Path, tuple[int, ...] | None] = {}
        self.wake = threading.Event()
        self.uplink = Uplink(self.settings, lambda: self.ledger)
        self._configs: dict[str, MappingConfig] = {}
        # A connection a thread: in a shared one the transactions of two requests would be one.
        self._local = threading.local()
        self._ledgers: list[Ledger] = []

    @classmethod
    def of(cls, settings: Settings) -> Service:
        """Of the settings, with their tokens and model.

        Raises:
            OptionsRefused: the tokens cannot be read.
            EngineError: there is no such model.
        """
        return cls(settings, MappingConfig.of(settings), read_tokens(settings.tokens_path))

    @property
    def mapping_config(self) -> MappingConfig:
        """The active model and options that scenes are accepted for now."""
        model = active_model(self.settings, self.ledger)
        if model.folder is None:
            return self.shipped_config
        if model.id not in self._configs:
            try:
                # Kept, since each delivery asks; the id is the manifest's digest, so it cannot be out of date.
                self._configs = {model.id: MappingConfig.of(self.settings, model.folder)}
            except EngineError:  # its files are damaged: the worker finds that out, and what it maps with instead
                return self.shipped_config
        return self._configs[model.id]

    def listen(self, lines: Iterable[bytes]) -> None:
        """Takes what worker and sampling say until it ends: the supervisor's pipe, in a thread of its own."""
        for line in lines:
            # The supervisor's one pipe carries both kinds; a line is whose form it has.
            if not self.telemetry.take(line):
                self.heartbeats.take(line)

    @property
    def ledger(self) -> Ledger:
        """This thread's connection."""
        ledger: Ledger | None = getattr(self._local, "ledger", None)
        if ledger is None:
            ledger = self._local.ledger = Ledger(self.settings.ledger_path)
            # For `close`: a thread of the pool does not close its own when it ends.
            self._ledgers.append(ledger)
        return ledger

    def make_room(self, wanted: int) -> None:
        """Erases maps that the ground holds, if that leaves so many bytes beside the reserve."""
        make_room(self.settings, self.ledger, wanted)

    def close(self) -> None:
        """Ends the probe and closes every thread's ledger: the last connection takes the write-ahead log along."""
        self.passes.close()
        self.probes.close()
        while self._ledgers:
            self._ledgers.pop().close()


def service_of(request: Request) -> Service:
    """The service that this request came to."""
    service: Service = request.app.state.service
    return service


def caller_of(request: Request) -> Caller:
    """The caller of a request; counts the request against its limit.

    Raises:
        NotAuthenticated: nobody we know.
        TooMany: too fast.
    """
    return caller_with(request, request.headers.get("authorization"))


def caller_with(request: Request, authorization: str | None) -> Caller:
    """The caller with this Authorization header; counts the request against its limit.

    Raises:
        NotAuthenticated, TooMany: see :func:`caller_of`.
    """
    service = service_of(request)
    caller = service.tokens.caller_of(authorization)
    # By a known name: guesses of tokens make no entry that would have to be kept.
    service.rate.take(caller.name)
    return caller


TheService = Annotated[Service, Depends(service_of)]
TheCaller = Annotated[Caller, Depends(caller_of)]
