"""The application: routes and errors around one service."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from onboard.api import (
    areas,
    docs,
    downlink,
    events,
    health,
    history,
    home,
    maps,
    metrics,
    models,
    problems,
    scenes,
    stac,
    telemetry,
)
from onboard.api.cross_origin import CrossOrigin
from onboard.api.head_requests import HeadAsGet
from onboard.api.host import CheckedHost
from onboard.api.same_origin import SameOrigin
from onboard.api.service import Service

DESCRIPTION = "Scenes in, land-cover maps out, nothing lost in between. Errors are application/problem+json (RFC 9457)."

_ROUTERS = tuple(
    module.router
    for module in (
        scenes, maps, models, stac, downlink, telemetry, history, metrics, events, areas, health, docs, home,
    )
)  # fmt: skip


def app_of(service: Service) -> FastAPI:
    """A new application of this service."""
    app = FastAPI(
        # No redirects: a ground station takes one for the answer of somebody else on the link (docs/service.md).
        title="onboard", version="1", description=DESCRIPTION, redirect_slashes=False,
        # FastAPI's own pages take no token, and their scripts from the internet: onboard.api.docs has ours.
        docs_url=None, redoc_url=None, openapi_url=None,
        responses=problems.documented(401, 403, 422, 429),
    )  # fmt: skip
    app.state.service = service
    problems.install(app)
    for router in _ROUTERS:
        app.include_router(router)
    app.state.routes = [route for router in _ROUTERS for route in router.routes]
    # The one added last is asked first: Host is checked before an origin is compared with it.
    app.add_middleware(HeadAsGet)
    app.add_middleware(SameOrigin)
    app.add_middleware(CheckedHost)
    if service.settings.cors_origins:
        app.add_middleware(CrossOrigin, origins=service.settings.cors_origins.split(","))
    _document_problems(app)
    return app


def _document_problems(app: FastAPI) -> None:
    """Puts tokens and the form of problems into the OpenAPI document; FastAPI knows only its own form of a 422."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = document.setdefault("components", {})
            schema = problems.ProblemAnswer.model_json_schema()
            components.setdefault("schemas", {})["ProblemAnswer"] = schema
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}, {}]  # none is needed where the service has none
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
