"""Models: listed, sent up by signed list and files, activated, retired."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from onboard.api.bodies import pace_of, plain_body
from onboard.api.errors import BadRequest, Conflict, NotFound
from onboard.api.problems import documented
from onboard.api.service import Service, TheCaller, TheService
from onboard.jobs.model_states import ModelState, Origin
from onboard.jobs.model_store import ModelRow
from onboard.models.activation import activate
from onboard.models.delivery import ModelDelivery
from onboard.models.errors import ModelRefused
from onboard.models.signed_list import LARGEST_FILE
from onboard.models.trust import MOST_METADATA_BYTES

router = APIRouter(tags=["models"])
WRITE_BYTES = 256 << 10
"""Bytes gathered before a thread writes and syncs them."""
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hex")]
_BYTES = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}
_JSON = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}


class ModelFileAnswer(BaseModel):
    """A file of a model."""

    name: str
    sha256: str
    bytes: int
    held: int = Field(description="bytes of it that are here")
    differences: dict[str, int] = Field(description="bytes that are here of differences on their way, by their digest")


class HeadAnswer(BaseModel):
    """A head of a model."""

    name: str
    classes: int = Field(description="number of its classes")


class ModelAnswer(BaseModel):
    """A model and what became of it."""

    digest: str = Field(description="SHA-256 of its manifest.json")
    name: str
    version: str
    origin: Origin
    state: ModelState
    reason: str = Field(description="why it is in this state")
    heads: list[HeadAnswer] = Field(
        description="in the manifest's order; empty for a model of one graph, and until the manifest is here"
    )
    files: list[ModelFileAnswer]
    figures: dict[str, Any] = Field(description="measured at its verification")
    failures: int = Field(description="in service, in a row")
    in_service: bool = Field(description="the engine that is open is of this model")
    received: dict[str, Any] = Field(description="when it was first named, by every clock there is")


class AboardAnswer(BaseModel):
    """A whole file that is aboard, for differences."""

    sha256: str
    bytes: int
    name: str


class ModelsAnswer(BaseModel):
    """All models."""

    takes_models: bool
    problem: str | None = Field(description="why no models are taken; null where they are")
    root_version: int | None = Field(description="of the root of trust that counts")
    list_version: int | None = Field(description="of the signed list that was taken last; 0: none yet")
    models: list[ModelAnswer]
    aboard: list[AboardAnswer] = Field(description="whole files of any model, to send differences against")


class MetadataAnswer(BaseModel):
    """Signed metadata that was taken."""

    version: int


class DifferenceQuery(BaseModel):
    """What a difference is."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["planes", "bsdiff4", "xz"]
    base: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="SHA-256 of the file aboard that it is against")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the difference")
    bytes: int = Field(ge=1, le=LARGEST_FILE, description="of the difference")


class FileAnswer(BaseModel):
    """How far a file is."""

    sha256: str
    bytes: int
    held: int
    whole: bool


@router.get("/models")
def get_models(service: TheService, caller: TheCaller) -> ModelsAnswer:
    """Models in the order they were first named, and the files that are aboard."""
    caller.must_be("uplink", "ground", "telemetry")
    rows = service.ledger.models.all()
    delivery, problem = service.uplink.delivery_or_problem()
    aboard = {file.sha256: AboardAnswer(sha256=file.sha256, bytes=file.bytes, name=file.name)
              for file in service.uplink.shipped_files().values()}  # fmt: skip
    for row in rows:
        for name, facts in row.files.items():
            if service.uplink.files.holds(facts["sha256"]):
                aboard[facts["sha256"]] = AboardAnswer(name=name, **facts)
    return ModelsAnswer(
        takes_models=delivery is not None, problem=problem,
        root_version=None if delivery is None else delivery.trust.root_version,
        list_version=None if delivery is None else delivery.trust.list_version(),
        models=[model_answer(service, row) for row in rows], aboard=list(aboard.values()),
    )  # fmt: skip


@router.put("/models/metadata/root", responses=documented(400, 409, 413, 507), openapi_extra=_JSON)
async def put_root(request: Request, service: TheService, caller: TheCaller) -> MetadataAnswer:
    """Takes the next version of the root of trust, signed by the keys of the one before and by its own."""
    return await _metadata(request, service, caller, lambda delivery: delivery.take_root)


@router.put("/models/metadata/list", responses=documented(400, 409, 413, 507), openapi_extra=_JSON)
async def put_list(request: Request, service: TheService, caller: TheCaller) -> MetadataAnswer:
    """Takes a signed list of models (TUF targets metadata); their files are awaited from then on."""
    return await _metadata(request, service, caller, lambda delivery: delivery.take_list)


@router.put(
    "/models/files/{sha256}", responses=documented(400, 404, 409, 413, 507),
    openapi_extra=_BYTES,
)  # fmt: skip
async def put_file(sha256: Digest, request: Request, service: TheService, caller: TheCaller) -> FileAnswer:
    """Takes bytes of a file that a signed list names, from where those that are here end.

    `Content-Range: bytes FIRST-LAST/ALL` says which; without it the whole file comes. What came before the connection
    broke stays: `GET /models` says how much (`held`), and so does a 409.
    """
    caller.must_be("uplink")
    delivery = service.uplink.delivery
    # In a thread: ledger and disk may have to be waited for, and the event loop must not.
    size = await run_in_threadpool(delivery.wanted_size, sha256)
    start, end = _range_of(request, size)
    with service.uploads.hold():
        held = await _receive(request, service, delivery, sha256, start, end)
    if held == size:
        await run_in_threadpool(delivery.finish, sha256)
    return FileAnswer(sha256=sha256, bytes=size, held=held, whole=held == size)


@router.put("/models/files/{sha256}/difference", responses=documented(400, 404, 409, 413, 507), openapi_extra=_BYTES)
async def put_difference(
    sha256: Digest,
    request: Request,
    service: TheService,
    caller: TheCaller,
    query: Annotated[DifferenceQuery, Query()],
) -> FileAnswer:
    """Takes bytes of a difference, which makes a file of one that is aboard; in ranges, as the file itself.

    The file counts once its digest is the signed one, however it was made.
    """
    caller.must_be("uplink")
    delivery = service.uplink.delivery
    size = await run_in_threadpool(delivery.wanted_size, sha256)
    base = await run_in_threadpool(delivery.base_of, query.method, query.base)
    start, end = _range_of(request, query.bytes)
    name = delivery.files.difference_part(sha256, query.digest)
    # Before bytes of it come: where too many differences of a file are under way, the others are dropped.
    await run_in_threadpool(delivery.begin_difference, sha256, query.digest)
    with service.uploads.hold():
        held = await _receive(request, service, delivery, name, start, end)
    if held == query.bytes:
        finish = delivery.finish_difference
        await run_in_threadpool(finish, sha256, size, query.digest, query.method, base)
    return FileAnswer(sha256=sha256, bytes=query.bytes, held=held, whole=held == query.bytes)


@router.post("/models/{digest}/activate", responses=documented(404, 409))
def post_activate(digest: Digest, service: TheService, caller: TheCaller) -> ModelAnswer:
    """Makes a verified model the one that maps, from the next scene on; the one of before stands by.

    A scene under way ends with the model that began it.
    """
    caller.must_be()
    row = _known(service, digest)
    if row.state != "active":
        # A retired model may come back, where its files were not erased.
        if not service.uplink.is_whole(row):
            raise Conflict(f"files of {row.title} are not here: push it again")
        try:
            is_activated = activate(service.settings, service.ledger, row, f"activated by {caller.name}")
        except ModelRefused as error:
            raise Conflict(f"{row.title} is not activated: {error.advice}") from error
        if not is_activated:
            raise Conflict(f"{row.title} is {row.state}: {row.reason}; only a verified one can be activated")
        service.ledger.events.log("info", "model-activated", f"{row.title}, by {caller.name}")
    return model_answer(service, _known(service, digest))


@router.post("/models/{digest}/retire", responses=documented(404, 409))
def post_retire(digest: Digest, service: TheService, caller: TheCaller) -> ModelAnswer:
    """Takes a model out and erases its files; not the active one, and not the shipped one."""
    caller.must_be()
    row = _known(service, digest)
    # Something must be left that maps, and something behind it.
    if row.state == "active" or row.origin == "shipped":
        raise Conflict(f"{row.title} is {'active: activate another first' if row.state == 'active' else 'shipped'}")
    if service.ledger.models.retire(row.id, f"retired by {caller.name}"):
        service.ledger.events.log("info", "model-retired", f"{row.title}, by {caller.name}")
    service.uplink.erase(row)
    return model_answer(service, _known(service, digest))


def model_answer(service: Service, row: ModelRow) -> ModelAnswer:
    """The row, with how much of its files is here."""
    files = service.uplink.files
    shipped = row.origin == "shipped"
    return ModelAnswer(
        digest=row.id, name=row.name, version=row.version, origin=row.origin, state=row.state, reason=row.reason,
        heads=[HeadAnswer(name=name, classes=count) for name, count in service.uplink.heads_of(row).items()],
        files=[
            ModelFileAnswer(
                name=name, **facts, differences=files.differences(facts["sha256"]),
                # Files of the shipped model lie in the software's folder, not among those that came up.
                held=facts["bytes"] if shipped or files.holds(facts["sha256"]) else files.held_bytes(facts["sha256"]),
            )
            for name, facts in row.files.items()
        ],
        figures=dict(row.figures), failures=row.failures, in_service=service.heartbeats.last.model_id == row.id,
        received=dict(row.received),
    )  # fmt: skip


async def _metadata(
    request: Request, service: Service, caller: Any, method: Callable[[ModelDelivery], Callable[[bytes], int]]
) -> MetadataAnswer:
    caller.must_be("uplink")
    delivery = service.uplink.delivery
    raw = bytearray()
    async for chunk in plain_body(request, limit=MOST_METADATA_BYTES, pace=pace_of(service)):
        raw += chunk
    return MetadataAnswer(version=await run_in_threadpool(method(delivery), bytes(raw)))


def _range_of(request: Request, size: int) -> tuple[int, int]:
    """First byte, and the one behind the last, that a request brings.

    Raises:
        BadRequest: they contradict each other, or the signed size.
    """
    header = request.headers.get("content-range")
    if header is None:
        return 0, size
    match = _RANGE.fullmatch(header.strip())
    if match is None:
        raise BadRequest(f"Content-Range {header[:100]!r} is none; send bytes FIRST-LAST/ALL")
    first, last, whole = (int(part) for part in match.groups())
    if whole != size or not first <= last < size:
        raise BadRequest(f"Content-Range {header[:100]!r} does not fit: the signed file has {size:,} bytes")
    return first, last + 1


async def _receive(  # the name's part grows; see ModelDelivery.upload
    request: Request, service: Service, delivery: ModelDelivery, name: str, start: int, end: int
) -> int:
    """Bytes of a body to a part; what came stays, however the body ends. Returns the part's length."""
    with delivery.upload(name, start) as append:
        held, gathered = start, bytearray()
        try:
            async for chunk in plain_body(request, limit=end - start, pace=pace_of(service)):
                gathered += chunk
                if len(gathered) >= WRITE_BYTES:
                    # Emptied first: where writing fails, the same bytes must not be written once more below.
                    part, gathered = gathered, bytearray()
                    held = await run_in_threadpool(append, part)
        finally:
            if gathered:
                # Shielded: a client that goes cancels this task, and what came from it is kept all the same.
                held = await asyncio.shield(run_in_threadpool(append, gathered))
    # What came stays: the next request goes on there, and the number says where.
    if held < end:
        raise BadRequest(f"the body ends {end - held:,} bytes early; send the rest from byte {held} on")
    return held


def _known(service: Service, digest: str) -> ModelRow:
    row = service.ledger.models.get(digest)
    if row is None:
        raise NotFound("model", digest)
    return row
