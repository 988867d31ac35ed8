"""The application: routes and errors around one service."""

from __future__ import annotations

from fastapi import FastAPI

from onboard.api import maps, problems, scenes, telemetry
from onboard.api.service import Service

DESCRIPTION = "Scenes in, land-cover maps out, nothing lost in between. Errors are application/problem+json (RFC 9457)."


def app_of(service: Service) -> FastAPI:
    """A new application of this service."""
    app = FastAPI(title="onboard", version="1", description=DESCRIPTION, redirect_slashes=False)
    app.state.service = service
    problems.install(app)
    for module in (scenes, maps, telemetry):
        app.include_router(module.router)
    return app
