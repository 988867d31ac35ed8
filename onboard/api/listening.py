"""The address that the service listens on. Standard library only: the supervisor asks too, before it starts."""

from __future__ import annotations

import socket
from typing import TypeVar

from onboard.errors import OptionsRefused
from onboard.settings import Settings

AnySocket = TypeVar("AnySocket", bound=socket.socket)


def bound_socket(host: str, port: int, kind: type[AnySocket]) -> AnySocket:
    """A listening socket of class ``kind``.

    Not uvicorn's: that one is made without a protocol number, for which asyncio leaves Nagle's algorithm on, and every
    answer waits 40 ms for the client's delayed acknowledgement of its head.

    Raises:
        OptionsRefused: the address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = kind(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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


def check_address(settings: Settings) -> None:
    """Passes if the service could listen now.

    Raises:
        OptionsRefused: the address is taken, or is none of this machine's.
    """
    bound_socket(settings.host, settings.port, socket.socket).close()
