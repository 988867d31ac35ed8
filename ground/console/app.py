"""The console's application: its page, and what the page asks for."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from ground.console import live_routes, map_routes, record_routes
from ground.console.guard import Guard
from ground.console.state import Console
from ground.console.tiles import without_warnings
from ground.console.wire import Refused
from ground.text import visible

STATIC = Path(__file__).parent / "static"
_LONG_CACHE = "public, max-age=31536000, immutable"


def app_of(console: Console, hosts: list[str]) -> FastAPI:
    """A new application of this console, which answers to these Hosts."""
    without_warnings()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await console.satellite.close()

    # No /docs: its page loads scripts from a server on the internet, which the policy of Guard forbids.
    app = FastAPI(title="ground console", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.console = console
    for module in (map_routes, record_routes, live_routes):
        app.include_router(module.router)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _misasked)
    version = static_version()
    # A browser that has opened the page before asks for none of its files again: their path changes with them.
    html = (STATIC / "index.html").read_text(encoding="utf-8").replace('"static/', f'"static/{version}/')

    def page() -> Response:
        # Asked for anew each time, since the paths in it change with the files.
        return HTMLResponse(html, headers={"Cache-Control": "no-cache"})

    app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
    app.mount(f"/static/{version}", _CachedFiles(directory=STATIC), name="static")
    app.mount("/static", StaticFiles(directory=STATIC), name="static of any version")
    # The middleware that is added last sees a request first: nothing is routed before Guard has passed it.
    app.add_middleware(Guard, hosts=hosts)
    return app


async def _refused(_: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, Refused) else 500
    return JSONResponse({"detail": str(error)}, status)


async def _misasked(_: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request, without the value: it may be what JSON cannot hold."""
    rows = error.errors() if isinstance(error, RequestValidationError) else []
    lines = [f"{'.'.join(str(part) for part in row['loc'])}: {row['msg']}" for row in rows]
    return JSONResponse({"detail": visible("; ".join(lines))}, 422)


def static_version() -> str:
    """A digest of the page's files."""
    # Of the contents: the version of the package does not change with each file in a checkout.
    digest = hashlib.sha256()
    for path in sorted(path for path in STATIC.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(STATIC)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class _CachedFiles(StaticFiles):
    def file_response(self, *args: Any, **options: Any) -> Response:
        answer = super().file_response(*args, **options)
        answer.headers["Cache-Control"] = _LONG_CACHE
        return answer
