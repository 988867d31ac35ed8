"""Requests that change something are refused where the page of another origin makes a browser send them.

A browser sends simple requests across origins without asking; CORS only keeps the answer from the page. On a service
without tokens such a request would otherwise deliver a scene or give a receipt. Programs send no Origin.
Source: Fetch Standard, 3.2 ("Origin" header); OWASP, Cross-Site Request Forgery Prevention, "Verifying Origin".
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from onboard.api import problems
from onboard.api.errors import OtherOrigin

READING: Final = ("GET", "HEAD", "OPTIONS")
SEARCH: Final = "/stac/search"
"""Its POST changes nothing."""


class SameOrigin:
    """Answers 403 to what another origin's page sends, except readings.

    Args:
        app: what is served; the Host was checked before.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and scope["method"] not in READING and scope["path"] != SEARCH:
            headers = dict(scope["headers"])
            origin = headers.get(b"origin")
            # Host has no scheme, so that of the origin is left out of the comparison.
            if origin is not None and origin.lower().partition(b"://")[2] != headers.get(b"host", b"").lower():
                error = OtherOrigin()
                answer = problems.problem(problems.kind_of(error), error.detail)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)
