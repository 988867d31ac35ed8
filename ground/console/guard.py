"""Who may drive the console: pages of its own origin, and nothing that another page makes a browser send.

A page of elsewhere can send requests to this machine's loopback, and by a name that it points here (DNS rebinding)
read the answers. So a Host must be one of the console's own, a request from another site is refused, and what changes
something needs the console's own Origin. There is no CORS.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Text of a satellite is shown on the page: should any of it become markup, no script of it runs, none is loaded.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_READING = ("GET", "HEAD")


class Guard:
    """Checks Host and Origin, and says to browsers what a page may do.

    Args:
        app: behind it.
        hosts: values of Host that are the console's own, like 127.0.0.1:8050.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(f"http://{host}" for host in self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        # No web sockets: CORS does not hold for them, so any page may open one.
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        problem = self._problem(scope)
        if problem:
            await JSONResponse({"detail": problem}, 403)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _problem(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        # Exactly one (RFC 9112, 3.2). This is what stops DNS rebinding, where the browser thinks it asks another site.
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return "this Host is not the console's; open it by the address that `ground console` printed"
        # Browsers set this field and pages cannot change it. A link elsewhere may open the page itself, nothing more.
        site = headers.get("sec-fetch-site", "none")
        is_page = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not is_page:
            return "a page of another site asks; the console answers its own page only"
        origins = headers.getlist("origin")
        # Browsers send an Origin with each such request.
        if scope["method"] not in _READING and not origins:
            return "a request that changes something needs the console's own Origin"
        if any(origin.lower() not in self._origins for origin in origins):
            return "a page of another origin asks; the console answers its own page only"
        return ""
