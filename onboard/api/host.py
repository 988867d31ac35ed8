"""Checks the Host header of a request: one field with a valid host name or address."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from onboard.api import problems
from onboard.api.errors import BadRequest

# A name or IPv4 address, or an IPv6 address in brackets; a port. Items and pages are made of it: no other characters.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")


class CheckedHost:
    """Answers 400 to a request whose Host is missing, doubled or none, before anything else sees it.

    Source: RFC 9112, 3.2. A request of HTTP/1.0 may lack it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and (problem := _problem(scope)):
            answer = problems.problem(problems.kind_of(BadRequest("")), problem)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _problem(scope: Scope) -> str:
    """The problem with the header; empty if there is none."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) > 1:
        return "the request has more than one Host; send one"
    if not hosts:
        return "" if scope["http_version"] == "1.0" else "the request has no Host; send one, as HTTP/1.1 asks for"
    return "" if _HOST.fullmatch(hosts[0]) else "the Host is no name or address; send one like board:8000"
