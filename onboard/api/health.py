"""Health: whether the API answers, and whether scenes are mapped now."""

from __future__ import annotations

import shutil

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from onboard.api.service import Service, TheService

router = APIRouter(tags=["telemetry"])


class Health(BaseModel):
    """Whether it can map, and if not, why."""

    status: str
    problems: list[str]


@router.get("/health/live")
def get_live() -> Health:
    """The API answers; no token needed."""
    return Health(status="live", problems=[])


@router.get("/health/ready", responses={503: {"model": Health}})
def get_ready(service: TheService) -> Response:
    """Whether scenes are mapped now; no token needed, nothing secret in it."""
    problems = _problems(service)
    status = "ready" if not problems else "starting" if service.heartbeats.last.engine == "starting" else "not ready"
    answer = Health(status=status, problems=problems)
    return JSONResponse(answer.model_dump(), 503 if problems else 200)


def _problems(service: Service) -> list[str]:
    beat, silent = service.heartbeats.last, service.heartbeats.silent_s
    if silent is None:
        return ["the worker has not been heard of yet"]
    problems = []
    if silent > service.settings.heartbeat_timeout_s:
        problems.append(f"the worker has been silent for {silent:.0f} s")
    if beat.engine != "ready":
        problems.append(f"the engine is {beat.engine}: scenes are taken and wait")
    # Mapping goes on below the reserve, which is kept for it; new scenes are refused.
    if shutil.disk_usage(service.settings.data_dir).free < service.settings.disk_reserve_bytes:
        problems.append("less room than the reserve is left: scenes are not taken")
    if aside := service.ledger.scenes.waiting_aside(limit=1000):
        skipped = "1 scene is" if len(aside) == 1 else f"{len(aside)} scenes are"
        first = f"{aside[0].id} first: {aside[0].waiting_reason}"
        problems.append(f"{skipped} skipped until there is space, {first}")
    return problems
