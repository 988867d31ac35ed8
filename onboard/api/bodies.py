"""Request bodies: scenes as streams, raw or in a multipart form; small JSON, bounded in size and time.

FastAPI reads a body that a handler declares before it looks at the caller, whole and for as long as it lasts. So no
handler declares one: each body is read here, after the caller and its role are known.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from onboard.api.deliveries import ARCHIVE_TYPES, SIDECAR_FIELD, FormFiles
from onboard.api.errors import BadRequest, NotATiff, TooLarge
from onboard.api.minimum_rate import MinimumRate, TooSlow
from onboard.api.service import Service, TheCaller, service_of

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE_FIELD = "scene"
_FIELD_BYTES = 4096
"""Longest value of a form field that is no file, and longest header of a part."""
_MOST_PARTS = 32
LONGEST_JSON = 1 << 16

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass
class Body:
    """A body under way.

    Attributes:
        chunks: the scene's bytes, to be read once.
        is_form: it came as multipart/form-data.
        media_type: of a raw body; empty for a form.
        fields: of a form, those that came before the file; all of them once ``chunks`` is read to its end.
    """

    chunks: AsyncIterator[bytes]
    is_form: bool = False
    media_type: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)
    form: _Form | None = None

    @property
    def file_name(self) -> str:
        """Of the scene in a form, once its bytes come; empty for a raw body."""
        return "" if self.form is None else self.form.file_name


def body_of(request: Request, *, limit: int, pace: MinimumRate, beside: FormFiles | None = None) -> Body:
    """The scene in a request, raw or multipart, no longer than ``limit`` bytes, no slower than the pace.

    Args:
        request: whose body is meant.
        limit: bytes of the whole body.
        pace: how fast it must come.
        beside: takes the further files of a form.

    Raises:
        TooLarge: it declares more; while reading, it has more.
        NotATiff: another media type.
        BadRequest: while reading: too slow, or no proper form.
    """
    # A declared length is a promise: `_limited` counts what really comes.
    _check_declared(request, limit)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    stream = _limited(request, limit, pace)
    if kind == b"multipart/form-data":
        return _form(stream, options.get(b"boundary", b""), beside)
    if kind not in {b"image/tiff", b"application/octet-stream"} | ARCHIVE_TYPES:
        declared = kind.decode("latin-1") or "nothing"
        raise NotATiff(
            f"Content-Type says {declared}; send the GeoTIFF as image/tiff, or as form field {FILE_FIELD!r}, or with "
            "its files as application/zip or application/x-tar"
        )
    return Body(stream, media_type=kind)


def plain_body(request: Request, *, limit: int, pace: MinimumRate) -> AsyncIterator[bytes]:
    """The bytes of a body of any media type, no more than ``limit``, no slower than the pace.

    Raises:
        TooLarge: it declares more; while reading, it has more.
        BadRequest: while reading: too slow, or the connection broke.
    """
    _check_declared(request, limit)
    return _limited(request, limit, pace)


def pace_of(service: Service) -> MinimumRate:
    """The lowest rate of bodies by the service's settings."""
    return MinimumRate(service.settings.body_timeout_s, service.settings.min_upload_bytes_per_s)


def json_body(model: type[_Model], *roles: str) -> Callable[..., Awaitable[_Model]]:
    """A dependency: the request's JSON body, read once the caller is known to have one of these roles.

    Raises:
        NotAllowed: the caller has none of them; nothing was read.
    """

    async def read(request: Request, caller: TheCaller) -> _Model:
        caller.must_be(*roles)
        return await read_json(request, model)

    return read


async def read_json(request: Request, model: type[_Model]) -> _Model:
    """A small JSON body.

    Raises:
        TooLarge: it has more than LONGEST_JSON bytes.
        BadRequest: it comes too slowly, or breaks off.
        RequestValidationError: it is no such JSON.
    """
    _check_declared(request, LONGEST_JSON)
    raw = bytearray()
    async for chunk in _limited(request, LONGEST_JSON, pace_of(service_of(request))):
        raw += chunk
    try:
        return model.model_validate_json(bytes(raw))
    except ValidationError as error:
        # The form of FastAPI's own refusals, which would begin with "body" as well.
        rows = [{**row, "loc": ("body", *row["loc"])} for row in error.errors(include_url=False, include_input=False)]
        raise RequestValidationError(rows) from None


def documented_json(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body for the OpenAPI document, which knows only what FastAPI reads itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


def _check_declared(request: Request, limit: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge(limit, int(declared))


async def _limited(request: Request, limit: int, pace: MinimumRate) -> AsyncIterator[bytes]:
    stream, received = request.stream(), 0
    with _PaceAlarm(pace) as alarm:
        while True:
            try:
                # This wait alone is counted. What the disk takes between two chunks is not the client's fault.
                with alarm.waiting() as wait:
                    wait.chunk = chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except ClientDisconnect:
                raise BadRequest("the connection broke before the whole body came; send it again") from None
            except TooSlow as error:
                raise BadRequest(f"{error}; send it again") from None
            received += len(chunk)
            if received > limit:
                raise TooLarge(limit, None)
            if chunk:
                yield chunk


class _PaceAlarm:
    """Ends a wait for a peer that is too slow, at the cost of one timer a body.

    asyncio.wait_for would make a task for every wait, and a body is waited for every 64 KiB.
    """

    def __init__(self, pace: MinimumRate) -> None:
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._since: float | None = None
        self._too_slow: TooSlow | None = None
        self.chunk = b""

    def __enter__(self) -> _PaceAlarm:
        self._timer = self._loop.call_later(self._pace.window_s, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @contextmanager
    def waiting(self) -> Iterator[_PaceAlarm]:
        """The wait that is watched; what it brought is left in ``chunk``.

        Raises:
            TooSlow: the peer is too slow.
        """
        self._since, self.chunk = self._loop.time(), b""
        try:
            yield self
            self._count(len(self.chunk))
        except asyncio.CancelledError:
            # A cancellation by somebody else, like the end of the server: it goes on.
            if self._too_slow is None:
                raise
            if self._task is not None and sys.version_info >= (3, 11):
                # It was ours. Without this, Python from 3.11 on takes the task for one that is still being cancelled.
                self._task.uncancel()
            raise self._too_slow from None
        finally:
            self._since = None

    def _count(self, came: int) -> None:
        now = self._loop.time()
        waited = 0.0 if self._since is None else now - self._since
        self._since = now
        self._pace.add(waited, came)

    def _look(self) -> None:
        """The window may be over in the midst of a wait."""
        if self._since is not None:
            try:
                self._count(0)
            except TooSlow as error:
                self._too_slow = error
                if self._task is not None:
                    self._task.cancel()
                return
        # Never at once: between two waits nothing is waited for, and the window does not move.
        self._timer = self._loop.call_later(max(self._pace.left_s, 0.01), self._look)


# Not Starlette's form parser: that writes every file into the system's temporary folder before a handler sees a byte.
class _Form:
    """Callbacks of the parser: takes one form apart as its bytes come.

    Attributes:
        ready: bytes of the scene that came since they were last taken.
        steps: what is to be done for the files beside it, in this order; each may write to the disk.
    """

    def __init__(self, beside: FormFiles | None = None) -> None:
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self.files = self._parts = 0
        self._beside = beside
        self._is_beside = False
        self.ready: list[bytes] = []
        self.steps: list[Callable[[], None]] = []
        self._header = [bytearray(), bytearray()]
        self._name = ""
        self._is_file = False
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self.begin, "on_part_data": self.data, "on_part_end": self.end,
            "on_header_field": self.header_name, "on_header_value": self.header_value, "on_header_end": self.header_end,
        }  # fmt: skip

    def begin(self) -> None:
        self._name, self._is_file, self._is_beside = "", False, False
        self._value.clear()
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise BadRequest(f"the form has more than {_MOST_PARTS} parts; send one scene and its fields")

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._add_to_header(0, data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._add_to_header(1, data[start:end])

    def _add_to_header(self, side: int, data: bytes) -> None:
        # The parser hands headers on in pieces and sets no bound to them.
        if len(self._header[side]) + len(data) > _FIELD_BYTES:
            raise BadRequest(f"a part of the form has a header of more than {_FIELD_BYTES} bytes")
        self._header[side] += data

    def header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._header = [bytearray(), bytearray()]
        if name.lower() == b"content-disposition":
            _, options = parse_options_header(value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._is_file = self._name == FILE_FIELD
            file_name = options.get(b"filename", b"").decode("utf-8", "replace")
            # Files have their name and their number checked before a byte of them is written.
            if self._name == SIDECAR_FIELD and self._beside is not None and not self._is_beside:
                self._is_beside = True
                self._parts -= 1  # it has a bound of its own
                self.steps.append(partial(self._beside.begin, file_name))
            elif b"filename" in options and not self._is_file:
                raise BadRequest(f"the form has its file in field {self._name!r}; it belongs in {FILE_FIELD!r}")
            if self._is_file:
                self.file_name = file_name
            self.files += self._is_file
            if self.files > 1:
                raise BadRequest(f"the form has field {FILE_FIELD!r} twice; send one scene a request")

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.ready.append(data[start:end])
        elif self._is_beside and self._beside is not None:
            self.steps.append(partial(self._beside.write, data[start:end]))
        elif len(self._value) + end - start > _FIELD_BYTES:
            raise BadRequest(f"form field {self._name!r} is longer than {_FIELD_BYTES} bytes")
        else:
            self._value += data[start:end]

    def take_steps(self) -> None:
        """Does what is to be done for the files beside the scene."""
        steps, self.steps = self.steps, []
        for step in steps:
            step()

    def end(self) -> None:
        if self._is_beside and self._beside is not None:
            self.steps.append(self._beside.end)
        elif not self._is_file and self._name:
            self.fields[self._name] = self._value.decode("utf-8", "replace")


def _form(stream: AsyncIterator[bytes], boundary: bytes, beside: FormFiles | None) -> Body:
    if not boundary:
        raise BadRequest("multipart/form-data without a boundary; let your HTTP client make the form")
    form = _Form(beside)
    parser = MultipartParser(boundary, form.callbacks())

    async def chunks() -> AsyncIterator[bytes]:
        try:
            async for data in stream:
                parser.write(data)
                for part in form.ready:
                    yield part
                form.ready.clear()
                # In a thread: a slow disk must not hold up the event loop. After each piece of the body: one at most
                # is in memory, and the sender waits for the disk.
                if form.steps:
                    await run_in_threadpool(form.take_steps)
            parser.finalize()
        except MultipartParseError as error:
            raise BadRequest(f"the form cannot be taken apart: {error}") from error
        # Known only now: the fields of a form come in any order.
        if not form.files:
            raise BadRequest(f"the form has no field {FILE_FIELD!r}; put the GeoTIFF there")

    return Body(chunks(), is_form=True, fields=form.fields, form=form)
