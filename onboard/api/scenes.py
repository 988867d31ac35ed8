"""Scenes: delivered, listed, cancelled."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from onboard.api.bodies import documented_json, json_body
from onboard.api.errors import Conflict, NotFound
from onboard.api.page import page_of
from onboard.api.paths import without_paths
from onboard.api.problems import documented
from onboard.api.service import Service, TheCaller, TheService
from onboard.api.uploads import DeliveryQuery, FromInbox, receive_scene
from onboard.jobs.erase import erase_scene
from onboard.jobs.intake import change_priority
from onboard.jobs.scene_states import Priority, State
from onboard.jobs.scene_store import SceneRow

router = APIRouter(tags=["scenes"])


class SceneAnswer(BaseModel):
    """A scene and what became of it."""

    id: str
    sequence: int
    name: str
    state: State
    priority: Priority
    bytes: int
    sha256: str
    acquired: str | None
    received: dict[str, Any] = Field(description="when it came, by every clock there is")
    attempts: int
    crashes: int = Field(description="how often it ended the worker")
    tiles_done: int | None = Field(description="while it runs; null otherwise")
    tiles: int | None = Field(description="all tiles, once known")
    statistics: dict[str, Any] = Field(description="of the finished mapping: tiles, seconds, energy")
    energy_j: float | None = Field(description="null: nothing measured it")
    heads: list[str] = Field(description="heads of the model that were asked for; empty: those of the settings")
    problem: str | None = Field(description="why it failed and what to do")
    waiting_reason: str | None = Field(description="why it is passed over in the queue and what to do; null otherwise")
    map_href: str | None = Field(description="path of its map; null before, and once it is erased")


class SceneChange(BaseModel):
    """What may be changed of a scene that waits."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority


class ScenesAnswer(BaseModel):
    """A page of scenes."""

    scenes: list[SceneAnswer]
    next: int | None = Field(description="cursor of the next page, null at the end")


@router.post(
    "/scenes",
    status_code=202,
    response_model=SceneAnswer,
    responses={
        200: {"model": SceneAnswer, "description": "known already: no second job"},
        **documented(400, 413, 415, 507),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "image/tiff": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["scene"],
                        "properties": {
                            "scene": {"type": "string", "format": "binary"},
                            "sidecar": {
                                "type": "array",
                                "items": {"type": "string", "format": "binary"},
                                "description": "files that belong to the scene, by the names they have beside it",
                            },
                            "content-digest": {"type": "string"},
                        },
                    }
                },
                **{
                    name: {"schema": {"type": "string", "format": "binary", "description": "all files of one scene"}}
                    for name in ("application/zip", "application/x-tar")
                },
                "application/json": {"schema": FromInbox.model_json_schema()},
            },
        }
    },
)
async def post_scene(
    request: Request,
    service: TheService,
    caller: TheCaller,
    query: Annotated[DeliveryQuery, Query()],
) -> Response:
    """Takes a scene in: a GeoTIFF, raw, as form field `scene`, or by the path of a file in the inbox.

    A scene of several files (sidecars, a DIMAP or TIL product with its tiles) comes as zip or tar, or as form field
    `scene` with a form field `sidecar` for each of the others; in the inbox its files lie beside it.

    Answers 202 once file and ledger row are on the disk; 200 if the same bytes are known for the same model.
    """
    caller.must_be("ingest")
    # After the role: a stranger takes no slot.
    with service.uploads.hold():
        accepted = await receive_scene(request, service, query)
    row = accepted.row
    answer = scene_answer(service, row).model_dump(mode="json")
    return JSONResponse(answer, 202 if accepted.is_new else 200, {"Location": f"/scenes/{row.id}"})


@router.get("/scenes")
def get_scenes(
    service: TheService,
    caller: TheCaller,
    # Not `state` and `since`: an older satellite would ignore those and answer with every scene (decision 0013).
    status: State | None = None,
    cursor: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ScenesAnswer:
    """Scenes in the order they came."""
    caller.must_be("ingest", "ground", "telemetry")
    rows, following = page_of(service.ledger.scenes.page(state=status, after=cursor, limit=limit + 1), limit)
    return ScenesAnswer(scenes=[scene_answer(service, row) for row in rows], next=following)


@router.get("/scenes/{scene_id}", responses=documented(404))
def get_scene(scene_id: str, service: TheService, caller: TheCaller) -> SceneAnswer:
    """One scene."""
    caller.must_be("ingest", "ground", "telemetry")
    return scene_answer(service, _known(service, scene_id))


@router.patch(
    "/scenes/{scene_id}", responses=documented(400, 404, 409, 413), openapi_extra=documented_json(SceneChange)
)
def patch_scene(
    scene_id: str,
    change: Annotated[SceneChange, Depends(json_body(SceneChange, "operator"))],
    service: TheService,
) -> SceneAnswer:
    """Changes the priority of a scene that waits: it is mapped, and its map fetched, in another turn."""
    row = _known(service, scene_id)
    changed = change_priority(service.settings, service.ledger, row, change.priority)
    if changed is None:
        state = service.ledger.scenes.state_of(scene_id)
        raise Conflict(f"the scene is {state}, and only one that is queued has a turn to be changed")
    if changed.priority != row.priority:
        text = f"{row.name} waits as {changed.priority}, it was {row.priority}"
        service.ledger.events.log("info", "priority-changed", text, row.id)
    return scene_answer(service, changed)


@router.delete(
    "/scenes/{scene_id}",
    status_code=204,
    responses={202: {"description": "it ends with the batch"}, **documented(404)},
)
def delete_scene(scene_id: str, service: TheService, caller: TheCaller) -> Response:
    """Cancels a scene and erases its file, its canvas and its map."""
    caller.must_be("ingest")
    row = _known(service, scene_id)
    if service.ledger.scenes.cancel(row.id) == "running":
        return Response(status_code=202)  # the worker has the files: it erases them before its next scene
    erase_scene(service.settings, service.ledger, row.id)
    return Response(status_code=204)


def scene_answer(service: Service, row: SceneRow) -> SceneAnswer:
    """The row, with progress where it is the one being mapped."""
    beat = service.heartbeats.last
    # The last heartbeat may still be of the scene before.
    runs = row.state == "running" and beat.scene == row.id
    return SceneAnswer(
        id=row.id, sequence=row.sequence, name=row.name, state=row.state, priority=row.priority,
        bytes=row.bytes, sha256=row.sha256, acquired=row.acquired, received=dict(row.received),
        attempts=row.attempts, crashes=row.crashes, tiles_done=beat.tiles_done if runs else None,
        tiles=beat.tiles_all or None if runs else row.figures.get("tiles"), statistics=dict(row.figures),
        energy_j=row.figures.get("energy_j"), heads=list(row.heads),
        problem=None if row.problem is None else without_paths(row.problem),
        waiting_reason=row.waiting_reason,
        # A scene stays "mapped" when its map is erased after the receipt.
        map_href=f"/maps/{row.id}" if row.state == "mapped" and service.ledger.maps.holds(row.id) else None,
    )  # fmt: skip


def _known(service: Service, scene_id: str) -> SceneRow:
    row = service.ledger.scenes.get(scene_id)
    if row is None:
        raise NotFound("scene", scene_id)
    return row
