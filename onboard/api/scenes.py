"""Scenes: delivered, listed, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from onboard.api.bodies import body_of, pace_of, read_json
from onboard.api.digest import promised_sha256
from onboard.api.errors import BadRequest, DigestMismatch, NotATiff, NotFound
from onboard.api.paths import without_paths
from onboard.api.problems import documented
from onboard.api.protocol import OpenBody, open_body_of
from onboard.api.service import Service, TheCaller, TheService
from onboard.jobs.claim import accept_inbox_file
from onboard.jobs.erase import erase_scene
from onboard.jobs.intake import Accepted, Delivery, IncomingFile, accept
from onboard.jobs.ledger import SceneRow
from onboard.jobs.pace import Pace, TooSlow
from onboard.jobs.splice import SocketSource

router = APIRouter(tags=["scenes"])
WRITE_BYTES = 1 << 20
"""Bytes gathered before they are written: one hop to a thread each."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

Priority = Literal["urgent", "high", "routine"]
State = Literal["queued", "running", "mapped", "failed", "quarantined", "cancelled"]


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
    deaths: int = Field(description="how often it ended the worker")
    tiles_done: int | None = Field(description="while it runs; null otherwise")
    tiles: int | None = Field(description="all tiles, once known")
    figures: dict[str, Any] = Field(description="timings of the finished mapping")
    energy_j: float | None = Field(description="null: nothing measured it")
    problem: str | None = Field(description="why it failed and what to do")
    waiting_reason: str | None = Field(description="why it is passed over in the queue and what to do; null otherwise")
    map: str | None = Field(description="where its map is; null before, and once it is erased")


class ScenesAnswer(BaseModel):
    """A page of scenes."""

    scenes: list[SceneAnswer]
    next: int | None = Field(description="cursor of the next page, null at the end")


class FromInbox(BaseModel):
    """Body that names a file of the inbox."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, max_length=4096, description="below the inbox, or absolute inside it")


class DeliveryQuery(BaseModel):
    """What the deliverer says of a scene."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority = "routine"
    name: str | None = Field(None, min_length=1, max_length=200)
    acquired: AwareDatetime | None = None

    def delivery(self, usual_name: str) -> Delivery:
        """As the intake takes it."""
        acquired = None if self.acquired is None else self.acquired.isoformat()
        return Delivery(self.name or usual_name, self.priority, acquired)


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
                            "content-digest": {"type": "string"},
                        },
                    }
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
    """Takes a GeoTIFF in: raw, as form field `scene`, or by the path of a file in the inbox.

    Answers 202 once file and ledger row are on the disk; 200 if the same bytes are known for the same model.
    """
    caller.must_be("ingest")
    with service.uploads.one():
        if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
            accepted = await _from_inbox(request, service, query)
        else:
            accepted = await _from_body(request, service, query)
    row = accepted.row
    answer = scene_answer(service, row).model_dump(mode="json")
    return JSONResponse(answer, 202 if accepted.is_new else 200, {"Location": f"/scenes/{row.id}"})


@router.get("/scenes")
def get_scenes(
    service: TheService,
    caller: TheCaller,
    status: State | None = None,
    cursor: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ScenesAnswer:
    """Scenes in the order they came."""
    caller.must_be("ingest", "ground", "telemetry")
    rows = service.ledger.scenes(state=status, after=cursor, limit=limit)
    more = rows[-1].sequence if len(rows) == limit else None
    return ScenesAnswer(scenes=[scene_answer(service, row) for row in rows], next=more)


@router.get("/scenes/{scene_id}", responses=documented(404))
def get_scene(scene_id: str, service: TheService, caller: TheCaller) -> SceneAnswer:
    """One scene."""
    caller.must_be("ingest", "ground", "telemetry")
    return scene_answer(service, _known(service, scene_id))


@router.delete(
    "/scenes/{scene_id}",
    status_code=204,
    responses={202: {"description": "it ends with the batch"}, **documented(404)},
)
def delete_scene(scene_id: str, service: TheService, caller: TheCaller) -> Response:
    """Cancels a scene and erases its file, its canvas and its map."""
    caller.must_be("ingest")
    row = _known(service, scene_id)
    if service.ledger.cancel(row.id) == "running":
        return Response(status_code=202)  # the worker has the files: it erases them before its next scene
    erase_scene(service.settings, service.ledger, row.id)
    return Response(status_code=204)


def scene_answer(service: Service, row: SceneRow) -> SceneAnswer:
    """The row, with progress where it is the one being mapped."""
    beat = service.beats.last
    runs = row.state == "running" and beat.scene == row.id
    return SceneAnswer(
        id=row.id, sequence=row.sequence, name=row.name, state=row.state, priority=row.priority,
        bytes=row.bytes, sha256=row.sha256, acquired=row.acquired, received=dict(row.received),
        attempts=row.attempts, deaths=row.deaths, tiles_done=beat.tiles_done if runs else None,
        tiles=beat.tiles_all or None if runs else row.figures.get("tiles"), figures=dict(row.figures),
        energy_j=row.figures.get("energy_j"), problem=None if row.problem is None else without_paths(row.problem),
        waiting_reason=row.waiting_reason,
        map=f"/maps/{row.id}" if row.state == "mapped" and service.ledger.holds_map(row.id) else None,
    )  # fmt: skip


def _known(service: Service, scene_id: str) -> SceneRow:
    row = service.ledger.scene(scene_id)
    if row is None:
        raise NotFound("scene", scene_id)
    return row


async def _from_body(request: Request, service: Service, query: DeliveryQuery) -> Accepted:
    settings = service.settings
    pace = pace_of(service)
    body = body_of(request, limit=settings.upload_limit, pace=pace)
    promised = promised_sha256(request.headers.get("content-digest")) if not body.is_form else None
    length = request.headers.get("content-length", "")
    file = await run_in_threadpool(_incoming, service, int(length) if length.isdecimal() else None)
    try:
        straight = None if body.is_form else open_body_of(request)
        if straight is None or not await _receive_all(file, straight, pace):
            await _write_all(file, body.chunks)
        if body.is_form:
            promised = promised_sha256(body.fields.get("content-digest"))
            query = _with_fields(query, body.fields)
        if promised is not None and promised != file.sha256:
            raise DigestMismatch(promised, file.sha256)
        return await run_in_threadpool(_finish, service, file, query.delivery(f"scene {file.sha256[:8]}"))
    finally:
        await run_in_threadpool(file.remove)


def _incoming(service: Service, declared: int | None) -> IncomingFile:
    """Opens a file for it; maps that the ground holds make room."""
    service.make_room(declared or 0)
    return IncomingFile(service.settings, declared)


async def _write_all(file: IncomingFile, chunks: Any) -> None:
    """Hashes and writes in a thread what has come, while more comes."""
    gathered, first = bytearray(), True
    writing: asyncio.Task[None] | None = None
    try:
        async for chunk in chunks:
            gathered += chunk
            if first and len(gathered) >= 4:
                first = False
                if bytes(gathered[:4]) not in TIFF_STARTS:
                    raise NotATiff("the body does not begin as a TIFF does; send a GeoTIFF")
            if len(gathered) >= WRITE_BYTES:
                if writing is not None:
                    await writing
                writing = asyncio.create_task(run_in_threadpool(file.write, gathered))
                gathered = bytearray()
    finally:
        # Whatever happened: nobody may close the file under a write.
        if writing is not None:
            await writing
    if first:
        raise NotATiff(f"the body has {len(gathered)} bytes; send a GeoTIFF")
    await run_in_threadpool(file.write, gathered)


async def _receive_all(file: IncomingFile, body: OpenBody, pace: Pace) -> bool:
    """Has a thread take the body from the socket, if it is still to be had there."""
    taken = body.take()
    if taken is None:
        return False
    begun, connection = taken
    source = SocketSource(connection, body.length - len(begun), pace)
    try:
        await run_in_threadpool(_receive, file, begun, source)
    except TooSlow as error:
        raise BadRequest(f"{error}; send the scene again") from None
    except ConnectionError:
        raise BadRequest("the connection broke before the whole scene came; send it again") from None
    finally:
        connection.close()
        body.give_back(source.left)
    return True


def _receive(file: IncomingFile, begun: bytes, source: SocketSource) -> None:
    begun += source.read(4 - len(begun))
    if begun[:4] not in TIFF_STARTS:
        raise NotATiff("the body does not begin as a TIFF does; send a GeoTIFF")
    file.write(begun)
    file.receive(source)


def _finish(service: Service, file: IncomingFile, delivery: Delivery) -> Accepted:
    file.finish()
    return accept(
        service.settings, service.ledger, service.kind, service.probes, file, delivery, service.make_room
    )


def _with_fields(query: DeliveryQuery, fields: Mapping[str, str]) -> DeliveryQuery:
    """Form fields stand in for what the query leaves out."""
    told = {name: fields[name] for name in ("priority", "name", "acquired") if name in fields}
    try:
        return DeliveryQuery.model_validate(told | query.model_dump(exclude_unset=True))
    except ValidationError as error:
        row = error.errors()[0]
        raise BadRequest(f"form field {row['loc'][0]!r}: {row['msg']}") from None


async def _from_inbox(request: Request, service: Service, query: DeliveryQuery) -> Accepted:
    try:
        named = await read_json(request, FromInbox)
    except RequestValidationError as error:
        raise BadRequest(f'the body is no {{"path": ...}}: {error.errors()[0]["msg"]}') from None
    path = Path(named.path)
    if not path.is_absolute() and service.settings.inbox is not None:
        path = service.settings.inbox / path

    def taken() -> Accepted:
        with suppress(OSError, ValueError):  # what is wrong with the path is told below
            service.make_room(path.stat().st_size)
        delivery = query.delivery(path.name[:200])
        return accept_inbox_file(
            service.settings, service.ledger, service.kind, service.probes, path, delivery, service.make_room
        )

    return await run_in_threadpool(taken)
