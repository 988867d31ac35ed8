"""The API process: `python -m onboard.api.serve --parent PID --heartbeat FD`, the others' lines on standard input."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable

import uvicorn

from onboard.api.app import app_of
from onboard.api.auth import check_binding
from onboard.api.connections import Connections, Listener, connections_within
from onboard.api.inbox import take_inbox
from onboard.api.listening import bound_socket
from onboard.api.log_limit import RepeatLimit
from onboard.api.protocol import bounded_protocol
from onboard.api.service import Service
from onboard.downlink.map_scrub import MapScrub
from onboard.downlink.retention import tend
from onboard.errors import LedgerDamaged
from onboard.jobs.inbox import give_back_claims
from onboard.models.verification import Verification
from onboard.processes.child import DAMAGED, STDIN, lines_of, run_child, write_line
from onboard.settings import Settings, read_settings

log = logging.getLogger(__name__)
HOUSEKEEPING_S = 2.0
HEARTBEAT_S = 0.5
EMPTY_LOG_S = 30.0
"""Between two emptyings of the ledger's write-ahead log: what stands in it can be lost by one flipped bit."""


def config_of(service: Service, connections: Connections) -> uvicorn.Config:
    """The configuration of uvicorn for this service."""
    settings = service.settings
    return uvicorn.Config(
        app_of(service),
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(settings.header_timeout_s, connections),
        loop="asyncio",  # connections are counted in its accept
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,  # through the root's handler, and its limit
        log_level="warning",
        server_header=False,
        date_header=False,  # aboard the clock may say 1970
        timeout_graceful_shutdown=10,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=None if settings.tls_client_ca is None else str(settings.tls_client_ca),
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca else ssl.CERT_NONE,
    )


def serve_api(settings: Settings, heartbeat: int | None = None) -> None:
    """Serves until SIGTERM; prints where. Says that it answers through the descriptor ``heartbeat``.

    Raises:
        OptionsRefused: it would be open to strangers, or the tokens cannot be read.
        EngineError: there is no such model.
    """
    service = Service.of(settings)
    check_binding(settings.host, service.tokens)
    service.settings.scenes_dir.mkdir(parents=True, exist_ok=True)
    # Before anything is taken from the inbox: a claim that stands now is that of a process which was killed.
    give_back_claims(settings.inbox)
    # In the background: the process that looks at scenes loads GDAL while the API begins to answer.
    threading.Thread(target=service.probes.start, name="probe", daemon=True).start()
    housekeeping = threading.Thread(target=_tend, args=(service,), name="retention", daemon=True)
    housekeeping.start()
    _verify_models(service)
    # Daemon: it waits at a pipe that may never close.
    threading.Thread(target=service.listen, args=(lines_of(STDIN),), name="beats", daemon=True).start()
    connections = Connections(
        connections_within(settings.max_connections), settings.read_timeout_s, settings.min_read_bytes_per_s
    )
    if connections.most < settings.max_connections:
        log.warning("%d connections at once: the system's limit of open files allows no more", connections.most)
    config = config_of(service, connections)
    listening = bound_socket(settings.host, settings.port, Listener)
    listening.connections = connections
    listening.hold_spare()
    host, port = listening.getsockname()[:2]
    scheme = "https" if config.is_ssl else "http"
    print(f"onboard: serving on {scheme}://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201
    if heartbeat is not None:
        os.set_blocking(heartbeat, False)
    try:
        _Server(config, heartbeat, handshake_s=settings.header_timeout_s).run(sockets=[listening])
    finally:
        service.wake.set()
        # It uses its ledger until its turn ends; all ledgers are closed next.
        housekeeping.join(HOUSEKEEPING_S)
        service.close()


class _Server(uvicorn.Server):
    """Says to the supervisor that its event loop turns, and limits how long a TLS handshake takes.

    Heartbeats not by uvicorn's `callback_notify`: that goes by the wall clock, which aboard may be set back by years.
    asyncio's own limit of a handshake is a minute, and uvicorn has no setting for it.
    """

    def __init__(self, config: uvicorn.Config, heartbeat: int | None, *, handshake_s: float) -> None:
        super().__init__(config)
        self._heartbeat = heartbeat
        self._handshake_s = handshake_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        if self.config.is_ssl:
            loop = asyncio.get_running_loop()
            limited = functools.partial(loop.create_server, ssl_handshake_timeout=self._handshake_s)
            loop.create_server = limited  # type: ignore[method-assign]
        await super().startup(sockets)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with heartbeats from when it listens."""
        beating = asyncio.ensure_future(self._beat())
        try:
            await super().serve(sockets)
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while self._heartbeat is not None:
            # Not before it listens: the supervisor says "ready" to systemd when every child has spoken.
            if self.started:
                write_line(self._heartbeat)
            await asyncio.sleep(HEARTBEAT_S)


def _verify_models(service: Service) -> None:
    """A thread that verifies models as they come, none where no root of trust is set."""
    if service.settings.trust_root is None:
        return
    _, problem = service.uplink.delivery_or_problem()
    if problem is not None:
        log.warning("no models are taken: %s", problem)
    threading.Thread(target=_verify, args=(service,), name="models", daemon=True).start()


def _verify(service: Service) -> None:
    """Verifies models until the service ends, from when they are taken: the root of trust may come aboard later."""
    service.uplink.is_open.wait()
    delivery = service.uplink.delivery
    check = Verification(service.settings, lambda: service.ledger, delivery.files, delivery.erase)
    check.run(delivery.wake, lambda: service.is_damaged)


def _chores(service: Service) -> dict[str, Callable[[], object]]:
    """Housekeeping by name; one turn does each of them."""
    scrub = MapScrub(service.settings)
    emptied = time.monotonic()

    def empty_log() -> None:
        nonlocal emptied
        if time.monotonic() - emptied >= EMPTY_LOG_S and service.ledger.checkpoint():
            emptied = time.monotonic()

    return {
        "making room": lambda: tend(service.settings, service.ledger, service.mapping_config),
        "reading maps again": lambda: scrub.step(service.ledger),
        "taking the inbox": lambda: take_inbox(service),
        "ending passes": service.passes.end_quiet,
        "emptying the ledger's log": empty_log,
    }


def _tend(service: Service) -> None:
    """Housekeeping until the service ends; ends the process where the ledger is damaged."""
    chores = _chores(service)
    while not service.is_damaged:
        for name, chore in chores.items():
            try:
                chore()
            except LedgerDamaged:  # noqa: PERF203 -- of this chore alone: the others are done all the same
                service.is_damaged = True
                break
            # Whatever it was: without this thread no map makes room, and the write-ahead log is never emptied.
            except Exception:
                log.exception("housekeeping failed (%s); it is tried again", name)
        if service.wake.wait(HOUSEKEEPING_S) and not service.is_damaged:
            return
    log.error("the ledger is damaged: the supervisor rebuilds it")
    # Not sys.exit, which ends this thread alone. The exit code tells the supervisor.
    os._exit(DAMAGED)


def _serve(heartbeat: int | None) -> None:
    for handler in logging.getLogger().handlers:
        handler.addFilter(RepeatLimit())
    # uvicorn raises the signal that stopped it once more when it has shut down. By the default action the process would
    # end there, its ledgers not closed; an exception passes through what closes them, also before uvicorn serves.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    serve_api(read_settings(), heartbeat)


def main() -> None:
    """Started by the supervisor."""
    run_child("api", "--heartbeat", _serve)


if __name__ == "__main__":
    main()
