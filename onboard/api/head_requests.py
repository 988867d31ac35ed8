"""HEAD wherever there is GET: the head of its answer (RFC 9110, 9.3.2), which monitors and load balancers ask for.

The request is routed as GET, and uvicorn sends no body, for it knows the method that came. Files answer HEAD by
themselves, without reading. A stream has no end, so HEAD of it stays 405.
"""

from __future__ import annotations

from typing import Final

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

STREAM: Final = "/telemetry/stream"


class HeadAsGet:
    """Routes HEAD as GET where no route has HEAD itself.

    Args:
        app: what is served.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and scope["method"] == "HEAD" and scope["path"] != STREAM:
            methods = _methods(scope)
            if "HEAD" not in methods and "GET" in methods:
                # A copy: the server looks at its own scope when it leaves out the body.
                scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def methods_at(scope: Scope) -> list[str]:
    """Methods that a request's path can be asked by, in alphabetical order; none where nothing is there."""
    methods = _methods(scope)
    if "GET" in methods and scope["path"] != STREAM:
        methods.add("HEAD")
    return sorted(methods)


def _methods(scope: Scope) -> set[str]:
    """Of all routes at this path; a router names those of the first alone."""
    # Kept by onboard.api.app: what `app.routes` holds differs between versions of FastAPI.
    routes: list[BaseRoute] = getattr(scope["app"].state, "routes", [])
    found = [route for route in routes if route.matches(scope)[0] != Match.NONE]
    return {method for route in found for method in getattr(route, "methods", None) or ()}
