"""Request bodies as streams: raw, or the scene of a multipart form and its further files; nothing stays in memory."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from onboard.api.deliveries import ARCHIVE_TYPES, SIDECAR_FIELD, FormFiles
from onboard.api.errors import BadRequest, NotATiff, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE_FIELD = "scene"
_FIELD_BYTES = 4096
"""Longest value of a form field that is no file."""


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


def body_of(request: Request, *, limit: int, chunk_timeout_s: float, beside: FormFiles | None = None) -> Body:
    """The scene in a request, raw or multipart, no longer than ``limit`` bytes, no chunk slower than the timeout.

    Args:
        request: whose body is meant.
        limit: bytes of the whole body.
        chunk_timeout_s: longest wait for the next bytes.
        beside: takes the further files of a form.

    Raises:
        TooLarge: it declares more; while reading, it has more.
        NotATiff: another media type.
        BadRequest: while reading: too slow, or no proper form.
    """
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdecimal() and int(declared) > limit:
        raise TooLarge(limit, int(declared))
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    stream = _limited(request, limit, chunk_timeout_s)
    if kind == b"multipart/form-data":
        return _form(stream, options.get(b"boundary", b""), beside)
    if kind not in {b"image/tiff", b"application/octet-stream"} | ARCHIVE_TYPES:
        said = kind.decode("latin-1") or "nothing"
        raise NotATiff(
            f"Content-Type says {said}; send the GeoTIFF as image/tiff, or as form field {FILE_FIELD!r}, or with its "
            "files as application/zip or application/x-tar"
        )
    return Body(stream, media_type=kind)


async def _limited(request: Request, limit: int, chunk_timeout_s: float) -> AsyncIterator[bytes]:
    stream, taken = request.stream(), 0
    with _StallAlarm(chunk_timeout_s) as alarm:
        while True:
            try:
                with alarm.waiting():
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except ClientDisconnect:
                raise BadRequest("the connection broke before the whole scene came; send it again") from None
            taken += len(chunk)
            if taken > limit:
                raise TooLarge(limit, None)
            if chunk:
                yield chunk


class _StallAlarm:
    """Ends a wait that takes too long, at the cost of one timer a body.

    asyncio.wait_for would make a task for every wait, and a body is waited for every 64 KiB.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._since: float | None = None
        self._rang = False

    def __enter__(self) -> _StallAlarm:
        self._timer = self._loop.call_later(self._timeout_s, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The wait that is watched."""
        self._since = self._loop.time()
        try:
            yield
        except asyncio.CancelledError:
            if not self._rang:
                raise
            if self._task is not None and sys.version_info >= (3, 11):
                self._task.uncancel()
            raise BadRequest(f"no byte came for {self._timeout_s:g} s; send the scene again") from None
        finally:
            self._since = None

    def _look(self) -> None:
        waited = 0.0 if self._since is None else self._loop.time() - self._since
        if waited >= self._timeout_s and self._task is not None:
            self._rang = True
            self._task.cancel()
            return
        self._timer = self._loop.call_later(self._timeout_s - waited, self._look)


class _Form:
    """Callbacks of the parser: takes one form apart as its bytes come."""

    def __init__(self, beside: FormFiles | None = None) -> None:
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self.files = 0
        self._beside = beside
        self._is_beside = False
        self.ready: list[bytes] = []
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

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._header = [bytearray(), bytearray()]
        if name.lower() == b"content-disposition":
            _, options = parse_options_header(value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._is_file = self._name == FILE_FIELD
            file_name = options.get(b"filename", b"").decode("utf-8", "replace")
            if self._name == SIDECAR_FIELD and self._beside is not None:
                self._is_beside = True
                self._beside.begin(file_name)
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
            self._beside.write(data[start:end])
        elif len(self._value) + end - start > _FIELD_BYTES:
            raise BadRequest(f"form field {self._name!r} is longer than {_FIELD_BYTES} bytes")
        else:
            self._value += data[start:end]

    def end(self) -> None:
        if self._is_beside and self._beside is not None:
            self._beside.end()
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
            parser.finalize()
        except MultipartParseError as error:
            raise BadRequest(f"the form cannot be taken apart: {error}") from error
        if not form.files:
            raise BadRequest(f"the form has no field {FILE_FIELD!r}; put the GeoTIFF there")

    return Body(chunks(), is_form=True, fields=form.fields, form=form)
