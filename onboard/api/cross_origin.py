"""Scripts of web pages from other origins (CORS): off, unless the setting names those origins.

What reads maps is opened to them, nothing else: no page of another origin delivers scenes or gives receipts.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_READING = ("GET", "HEAD")
METHODS = {"/stac": (*_READING, "POST"), "/maps": _READING, "/catalog.json": _READING}
"""Methods by path, and by what lies below it; POST is the search of /stac, which changes nothing."""
_ASKED = ("Authorization", "Content-Type", "If-Match", "If-None-Match", "If-Range", "Range")
_SHOWN = ("Accept-Ranges", "Content-Length", "Content-Range", "ETag", "Retry-After", "WWW-Authenticate")


class CrossOrigin:
    """Answers preflights and adds the headers of CORS below the paths of METHODS.

    Args:
        app: what is served.
        origins: like https://maps.example.org; ``*`` for all.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._below = {
            path: CORSMiddleware(
                app, allow_origins=origins, allow_methods=methods, allow_headers=_ASKED, expose_headers=_SHOWN
            )
            for path, methods in METHODS.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http":
            for path, app in self._below.items():
                if scope["path"] == path or scope["path"].startswith(f"{path}/"):
                    await app(scope, receive, send)
                    return
        await self._app(scope, receive, send)
