"""POST /scenes: the bytes of a scene, or the path of a file in the inbox, to the disk and into the ledger."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.concurrency import run_in_threadpool

from engines.command_line import names_of
from onboard.api.bodies import Body, body_of, pace_of, read_json
from onboard.api.deliveries import FormFiles, may_begin_a_scene
from onboard.api.digest import promised_sha256
from onboard.api.errors import BadRequest, DigestMismatch, NotATiff
from onboard.api.service import Service
from onboard.jobs.bundle import bundle_of
from onboard.jobs.heads import check_heads
from onboard.jobs.inbox import accept_inbox_file
from onboard.jobs.intake import Accepted, Delivery, IncomingFile, accept
from onboard.jobs.scene_states import Priority
from onboard.mapping.stac import rfc3339

LONGEST_NAME = 200
WRITE_BYTES = 1 << 20
"""Bytes gathered before a thread writes them."""
# Only behind a time: between a date and a time a blank stands for the T.
_OFFSET_AFTER_BLANK = re.compile(r"([Tt ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?) (\d\d:?\d\d)$")


class FromInbox(BaseModel):
    """Body that names a file of the inbox."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, max_length=4096, description="below the inbox, or absolute inside it")


class DeliveryQuery(BaseModel):
    """The deliverer's words about a scene."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority = "routine"
    name: str | None = Field(
        None, min_length=1, max_length=LONGEST_NAME, description="for people; else the name of a form's file"
    )
    acquired: AwareDatetime | None = None
    heads: str = Field(
        "", max_length=1200, description="of a model with heads, those whose maps are wanted, like landcover,deepglobe"
    )

    @field_validator("acquired", mode="before")
    @classmethod
    def _with_plus(cls, given: object) -> object:
        # A `+` that a URL does not escape comes as a blank.
        return _OFFSET_AFTER_BLANK.sub(r"\1+\2", given) if isinstance(given, str) else given

    @field_validator("acquired")
    @classmethod
    def _in_utc(cls, given: datetime | None) -> datetime | None:
        # STAC wants UTC, and times are sorted as texts: of several offsets these have no order.
        try:
            return None if given is None else given.astimezone(timezone.utc)
        except OverflowError as error:
            raise ValueError("in UTC this time lies outside of the years 1 to 9999") from error

    def delivery(self, usual_name: str) -> Delivery:
        """As the intake takes it, the time in UTC."""
        acquired = None if self.acquired is None else rfc3339(self.acquired, "auto")
        return Delivery(
            self.name or usual_name, self.priority, acquired, names_of(self.heads), is_named=self.name is not None
        )


async def receive_scene(request: Request, service: Service, query: DeliveryQuery) -> Accepted:
    """Takes the scene of a request in; it is durable, and in the ledger, when this returns.

    Raises:
        BadRequest, NotATiff, TooLarge, DigestMismatch: the body is no scene that can be taken.
        SceneRefused: the scene cannot be mapped.
        OptionsRefused: the model lacks a head that is asked for.
        StorageError: the disk is full or failed.
    """
    check_heads(service.mapping_config.manifest, names_of(query.heads), "heads")  # before any body
    if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        return await _from_inbox(request, service, query)
    return await _from_body(request, service, query)


async def _from_body(request: Request, service: Service, query: DeliveryQuery) -> Accepted:
    settings = service.settings
    pace, beside = pace_of(service), FormFiles(settings)
    body = body_of(request, limit=settings.max_upload_bytes, pace=pace, beside=beside)
    promised = promised_sha256(request.headers.get("content-digest")) if not body.is_form else None
    length = request.headers.get("content-length", "")
    file = await run_in_threadpool(_incoming, service, int(length) if length.isdecimal() else None)
    try:
        await _write_all(file, body)
        if body.is_form:
            # In a form the digest is a field: the header would be of the form, not of the scene in it.
            promised = promised_sha256(body.fields.get("content-digest"))
            query = _with_fields(query, body.fields)
        if promised is not None and promised != file.sha256:
            raise DigestMismatch(promised, file.sha256)
        delivery = query.delivery(_file_name(body.file_name) or f"scene {file.sha256[:8]}")
        return await run_in_threadpool(_finish, service, file, delivery, body.file_name, beside)
    finally:
        # Nothing is there any more where the scene was accepted: its files were moved.
        await run_in_threadpool(file.remove)
        await run_in_threadpool(beside.remove)


def _file_name(sent: str) -> str:
    """The name of a form's file without folders, as the inbox names a scene; empty where it has none."""
    return re.split(r"[/\\]", sent)[-1].strip()[:LONGEST_NAME]


def _incoming(service: Service, declared: int | None) -> IncomingFile:
    """Opens a file for it; maps that the ground holds make room."""
    service.make_room(declared or 0)
    return IncomingFile(service.settings, declared)


async def _write_all(file: IncomingFile, body: Body) -> None:
    """Hashes and writes in a thread what has come, while more comes."""
    gathered, first = bytearray(), True
    writing: asyncio.Task[None] | None = None
    try:
        async for chunk in body.chunks:
            gathered += chunk
            # Four bytes are enough to refuse a wrong file before the rest of it has crossed the link.
            if first and len(gathered) >= 4:
                first = False
                _check_start(bytes(gathered[:4]), body.media_type, body.file_name)
            # One write at a time, while the next megabyte comes: two at once would be in no order.
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


def _check_start(start: bytes, media_type: bytes, name: str) -> None:
    if not may_begin_a_scene(start, media_type, name):
        raise NotATiff("the body does not begin as a TIFF does; send a GeoTIFF")


def _finish(service: Service, file: IncomingFile, delivery: Delivery, name: str, beside: FormFiles) -> Accepted:
    file.finish()
    beside.finish()
    scene = bundle_of(service.settings, file, name=name, beside=beside.files)
    return accept(
        service.settings, service.ledger, service.mapping_config, service.probes, scene, delivery, service.make_room
    )


def _with_fields(query: DeliveryQuery, fields: Mapping[str, str]) -> DeliveryQuery:
    """Form fields stand in for what the query leaves out."""
    delivery = {name: fields[name] for name in ("priority", "name", "acquired", "heads") if name in fields}
    try:
        return DeliveryQuery.model_validate(delivery | query.model_dump(exclude_unset=True))
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
            service.settings, service.ledger, service.mapping_config, service.probes, path, delivery, service.make_room
        )

    return await run_in_threadpool(taken)
