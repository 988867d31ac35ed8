"""The API process: `python -m onboard.api.serve --parent PID`, heartbeats on standard input."""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import socket
import ssl
import threading
import time

import uvicorn

from onboard.api.app import app_of
from onboard.api.auth import check_binding
from onboard.api.connections import Connections, Listener, connections_within
from onboard.api.inbox import take_inbox
from onboard.api.log_limit import RepeatLimit
from onboard.api.protocol import bounded_protocol
from onboard.api.service import Service
from onboard.downlink.retention import tend
from onboard.errors import OptionsRefused
from onboard.jobs.claim import give_back_claims
from onboard.jobs.lines import STDIN, lines_of
from onboard.jobs.parent import end_with_parent
from onboard.settings import Settings, read_settings

log = logging.getLogger(__name__)
HOUSEKEEPING_S = 2.0


def config_of(service: Service, connections: Connections) -> uvicorn.Config:
    """How uvicorn serves it."""
    settings = service.settings
    return uvicorn.Config(
        app_of(service),
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(settings.head_timeout_s, connections),
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


def serve_api(settings: Settings) -> None:
    """Serves until SIGTERM; prints where.

    Raises:
        OptionsRefused: it would be open to strangers, or the tokens cannot be read.
        EngineError: there is no such model.
    """
    service = Service.of(settings)
    check_binding(settings.host, service.tokens)
    service.settings.scenes_dir.mkdir(parents=True, exist_ok=True)
    give_back_claims(settings.inbox)
    threading.Thread(target=service.probes.start, name="probe", daemon=True).start()
    threading.Thread(target=_tend, args=(service,), name="retention", daemon=True).start()
    threading.Thread(target=service.listen, args=(lines_of(STDIN),), name="beats", daemon=True).start()
    connections = Connections(
        connections_within(settings.connections_at_once), settings.read_timeout_s, settings.read_bytes_per_s
    )
    if connections.most < settings.connections_at_once:
        log.warning("%d connections at once: the system's limit of open files allows no more", connections.most)
    config = config_of(service, connections)
    listening = bound_socket(settings.host, settings.port, connections)
    host, port = listening.getsockname()[:2]
    scheme = "https" if config.is_ssl else "http"
    print(f"onboard: serving on {scheme}://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201
    Server(config, handshake_s=settings.head_timeout_s).run(sockets=[listening])


class Server(uvicorn.Server):
    """Uvicorn's, with a time limit for TLS handshakes: asyncio's own is a minute, and uvicorn has no setting for it."""

    def __init__(self, config: uvicorn.Config, *, handshake_s: float) -> None:
        super().__init__(config)
        self._handshake_s = handshake_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        if self.config.is_ssl:
            loop = asyncio.get_running_loop()
            limited = functools.partial(loop.create_server, ssl_handshake_timeout=self._handshake_s)
            loop.create_server = limited  # type: ignore[method-assign]
        await super().startup(sockets)


def bound_socket(host: str, port: int, connections: Connections) -> socket.socket:
    """A listening socket that counts its connections.

    Not uvicorn's: that one is made without a protocol number, for which asyncio leaves Nagle's algorithm on, and every
    answer waits 40 ms for the client's delayed acknowledgement of its head.

    Raises:
        OptionsRefused: the address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.connections = connections
    listening.hold_spare()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        reason = (error.strerror or str(error)).lower()
        remedy = "set ONBOARD_HOST and ONBOARD_PORT to a free address of this machine"
        raise OptionsRefused(f"{host}:{port} cannot be listened on: {reason}", remedy) from error
    return listening


def _tend(service: Service) -> None:
    while True:
        try:
            tend(service.settings, service.ledger)
            take_inbox(service)
        except Exception:
            log.exception("housekeeping failed; it is tried again")
        time.sleep(HOUSEKEEPING_S)


def main() -> None:
    """Started by the supervisor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    if arguments.parent is not None:
        end_with_parent(arguments.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(RepeatLimit())
    serve_api(read_settings())


if __name__ == "__main__":
    main()
