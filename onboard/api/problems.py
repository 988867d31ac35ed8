"""Every error as application/problem+json (RFC 9457), by one table from exception to status."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from onboard.api import errors
from onboard.api.connections import descriptors_are_out
from onboard.api.head_requests import methods_at
from onboard.api.paths import without_paths
from onboard.errors import LedgerBusy, LedgerDamaged, OnboardError, OptionsRefused, SceneRefused, StorageError
from onboard.models.delivery import NotWanted, Taken, WrongDigest, WrongStart
from onboard.models.errors import ListRefused, UplinkOff

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """One kind of problem: its status, the last part of its stable ``type`` and its title."""

    status: int
    slug: str
    title: str

    @property
    def type(self) -> str:
        """Identifier for clients to compare with; it never changes and is no address."""
        return f"urn:onboard:problem:{self.slug}"


# The nearest class in an exception's ancestry decides.
KINDS: dict[type[Exception], Kind] = {
    errors.DigestMismatch: Kind(400, "digest-mismatch", "The bytes are not those promised"),
    errors.BadRequest: Kind(400, "bad-request", "The request cannot be understood"),
    errors.NotAuthenticated: Kind(401, "not-authenticated", "A token is needed"),
    errors.NotAllowed: Kind(403, "not-allowed", "The token does not reach this far"),
    errors.OtherOrigin: Kind(403, "other-origin", "A page of another origin may not change anything"),
    errors.NotFound: Kind(404, "not-found", "Nothing is kept under this name"),
    errors.Conflict: Kind(409, "conflict", "It contradicts what is kept here"),
    errors.TooLarge: Kind(413, "too-large", "More bytes than are taken"),
    errors.NotATiff: Kind(415, "not-a-tiff", "Scenes are GeoTIFFs"),
    errors.RangeBeyond: Kind(416, "range-not-satisfiable", "The file ends before the range"),
    errors.TooMany: Kind(429, "too-many", "Too much at once"),
    errors.Overloaded: Kind(503, "overloaded", "Too much at once for this machine"),
    ListRefused: Kind(422, "metadata-refused", "The signed metadata is not taken"),
    UplinkOff: Kind(409, "no-uplink", "No models are taken here"),
    NotWanted: Kind(404, "not-wanted", "No signed list asks for this file"),
    WrongStart: Kind(409, "wrong-start", "The bytes do not continue those that are here"),
    Taken: Kind(409, "under-way", "Another upload of this file is under way"),
    WrongDigest: Kind(400, "digest-mismatch", "The bytes are not those promised"),
    SceneRefused: Kind(422, "scene-refused", "The scene cannot be mapped"),
    OptionsRefused: Kind(422, "options-refused", "The options cannot be met"),
    StorageError: Kind(507, "no-room", "There is no room"),
    LedgerBusy: Kind(503, "busy", "The ledger is busy"),
    LedgerDamaged: Kind(503, "ledger-damaged", "The ledger is being built again"),
}
OTHERS = {
    404: Kind(404, "not-found", "Nothing is kept under this name"),
    405: Kind(405, "method-not-allowed", "Not by this method"),
    431: Kind(431, "head-too-large", "The request's head has too many bytes"),
    503: Kind(503, "overloaded", "Too much at once for this machine"),
    422: Kind(422, "invalid", "The request is not of the form described in /openapi.json"),
}
INTERNAL = Kind(500, "internal", "The service failed; its log says why")


class ProblemAnswer(BaseModel):
    """RFC 9457."""

    type: str = Field(description="urn:onboard:problem:..., stable: compare with this")
    title: str
    status: int
    detail: str = Field(description="what was given, and what to do")
    errors: list[dict[str, str]] | None = None


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of these answers for the OpenAPI document."""
    kinds = [*KINDS.values(), *OTHERS.values()]
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        titles = dict.fromkeys(kind.title for kind in kinds if kind.status == status)
        schema = {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}
        responses[status] = {"description": "; ".join(titles), "content": {MEDIA_TYPE: schema}}
    return responses


def problem(kind: Kind, detail: str, headers: dict[str, str] | None = None, **members: Any) -> JSONResponse:
    """The answer for one problem; ``members`` are more fields of its JSON."""
    body = {"type": kind.type, "title": kind.title, "status": kind.status, "detail": detail, **members}
    return JSONResponse(body, kind.status, headers, MEDIA_TYPE)


def kind_of(error: Exception) -> Kind:
    """By the table; an error that is not in it is ours."""
    return next((KINDS[cls] for cls in type(error).__mro__ if cls in KINDS), INTERNAL)


def kind_of_status(status: int) -> Kind:
    """Of what is refused before there is a request."""
    return OTHERS.get(status, Kind(status, f"http-{status}", "The request cannot be served"))


def install(app: FastAPI) -> None:
    """Has the application answer every error as a problem."""
    for cls in KINDS:
        app.add_exception_handler(cls, _refused)
    # Starlette looks along an exception's classes too, so the nearest handler is called.
    app.add_exception_handler(OSError, _failed)
    app.add_exception_handler(sqlite3.Error, _failed)
    app.add_exception_handler(HTTPException, _routing)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _internal)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """An operating-system or database failure: a refusal where descriptors are out, ours otherwise."""
    if descriptors_are_out(error):
        log.warning("%s %s refused: no file descriptor is left", request.method, request.url.path)
        return await _refused(request, errors.Overloaded())
    # On to `_internal`: what a handler raises goes to the handler of Exception.
    raise error


async def _refused(request: Request, error: Exception) -> JSONResponse:
    # SQLite calls a ledger that cannot be opened a failure of the disk, whatever the reason.
    if isinstance(error, StorageError) and descriptors_are_out(error):
        log.warning("%s %s refused: no file descriptor is left", request.method, request.url.path)
        error = errors.Overloaded()
    kind = kind_of(error)
    headers = {}
    if isinstance(error, errors.TooMany):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, (LedgerBusy, LedgerDamaged)):
        headers["Retry-After"] = "5"
    if isinstance(error, LedgerDamaged):
        # Housekeeping wakes up, ends this process (onboard/api/serve.py), and the supervisor builds the ledger again.
        service = request.app.state.service
        service.is_damaged = True
        service.wake.set()
    if isinstance(error, errors.RangeBeyond):
        headers["Content-Range"] = f"bytes */{error.size}"
    if isinstance(error, errors.NotAuthenticated):
        headers["WWW-Authenticate"] = error.challenge
    if isinstance(error, Taken):
        headers["Retry-After"] = "5"
    members = {"held": error.held} if isinstance(error, WrongStart) else {}
    # `advice` has no path of this machine; other texts may have some.
    detail = error.advice if isinstance(error, OnboardError) else str(error)
    return problem(kind, without_paths(detail), headers, **members)


async def _routing(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    kind = kind_of_status(status)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if status == 405:
        # The router names the methods of the first route at this path alone.
        headers["Allow"] = ", ".join(methods_at(request.scope)) or headers.get("Allow", "")
    return problem(kind, f"{request.method} {request.url.path}: see /openapi.json for what there is", headers)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    rows = error.errors() if isinstance(error, RequestValidationError) else []
    problems = [{"where": ".".join(str(part) for part in row["loc"]), "problem": row["msg"]} for row in rows]
    detail = "; ".join(f"{row['where']}: {row['problem']}" for row in problems)
    return problem(OTHERS[422], detail or "the request is not valid", errors=problems)


async def _internal(request: Request, error: Exception) -> JSONResponse:
    # What went wrong is for the log aboard: a stranger learns nothing of our insides.
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(INTERNAL, "the request was not carried out; the same request may be sent again")
