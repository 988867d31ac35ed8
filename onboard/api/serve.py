"""The API process: `python -m onboard.api.serve --parent PID`, heartbeats on standard input."""

from __future__ import annotations

import argparse
import logging
import socket
import ssl
import threading
import time

import uvicorn

from onboard.api.app import app_of
from onboard.api.auth import check_binding
from onboard.api.inbox import take_inbox
from onboard.api.protocol import bounded_protocol
from onboard.api.service import Service
from onboard.downlink.map_scrub import MapScrub
from onboard.downlink.retention import tend
from onboard.errors import OptionsRefused
from onboard.jobs.claim import give_back_claims
from onboard.jobs.lines import STDIN, lines_of
from onboard.jobs.parent import end_with_parent
from onboard.settings import Settings, read_settings

log = logging.getLogger(__name__)
HOUSEKEEPING_S = 2.0


def config_of(service: Service) -> uvicorn.Config:
    """How uvicorn serves it."""
    settings = service.settings
    return uvicorn.Config(
        app_of(service),
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(settings.head_timeout_s),
        ws="none",
        lifespan="off",
        access_log=False,
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
    config = config_of(service)
    listening = bound_socket(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    scheme = "https" if config.is_ssl else "http"
    print(f"onboard: serving on {scheme}://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201
    uvicorn.Server(config).run(sockets=[listening])


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Not uvicorn's: that one is made without a protocol number, for which asyncio leaves Nagle's algorithm on, and every
    answer waits 40 ms for the client's delayed acknowledgement of its head.

    Raises:
        OptionsRefused: the address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
    scrub = MapScrub(service.settings)
    while True:
        try:
            tend(service.settings, service.ledger)
            scrub.step(service.ledger)
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
    serve_api(read_settings())


if __name__ == "__main__":
    main()
