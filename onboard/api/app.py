"""The application: routes and errors around one service."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from onboard.api import downlink, events, health, history, maps, metrics, problems, scenes, telemetry
from onboard.api.service import Service

DESCRIPTION = "Scenes in, land-cover maps out, nothing lost in between. Errors are application/problem+json (RFC 9457)."


def app_of(service: Service) -> FastAPI:
    """A new application of this service."""
    app = FastAPI(
        title="onboard", version="1", description=DESCRIPTION, redirect_slashes=False,
        responses=problems.documented(401, 403, 422, 429),
    )  # fmt: skip
    app.state.service = service
    problems.install(app)
    for module in (scenes, maps, downlink, telemetry, history, metrics, events, health):
        app.include_router(module.router)
    _document_problems(app)
    return app


def _document_problems(app: FastAPI) -> None:
    """Puts the form of problems into the OpenAPI document; FastAPI knows only its own form of a 422."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = told.setdefault("components", {}).setdefault("schemas", {})
            schemas["ProblemAnswer"] = problems.ProblemAnswer.model_json_schema()
            app.openapi_schema = told
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
