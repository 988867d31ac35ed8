"""Files by HTTP: single ranges, strong entity tags, conditional requests; the rest is Starlette's."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, Response
from starlette.datastructures import MutableHeaders

from onboard.api.errors import RangeBeyond, Vanished

# Longer numbers than these are of no file; int() refuses very long ones.
_RANGE = re.compile(r"bytes=(?:(?P<first>[0-9]{1,18})-(?P<last>[0-9]{0,18})|-(?P<suffix>[0-9]{1,18}))", re.IGNORECASE)


def file_answer(request: Request, path: Path, *, sha256: str, media_type: str) -> Response:
    """The file or the range asked for; 304 where the client has it.

    The entity tag is the file's SHA-256: the same bytes have the same tag after any restart, copy or rebuild, so a
    transfer begun before a reboot continues after it. Starlette's own is made of time and size.

    Args:
        request: GET or HEAD.
        path: of the ledger's own names; the file may have gone meanwhile.
        sha256: of the file, hex.
        media_type: as published.

    Raises:
        Vanished: it is not there.
        RangeBeyond: it ends before the range asked for.
    """
    tag = f'"{sha256}"'
    headers = {"ETag": tag, "Cache-Control": "private, immutable, max-age=31536000", "Accept-Ranges": "bytes"}
    if _matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    try:
        facts = _facts_of(path)
    except FileNotFoundError:
        raise Vanished(path.name) from None
    if not stat.S_ISREG(facts.st_mode):
        raise Vanished(path.name)
    answer = FileResponse(path, headers=headers, media_type=media_type, stat_result=facts)
    begin = _begin(request.headers.get("range", ""), facts.st_size)
    if begin is None or request.method != "GET":
        # RFC 9110 14.2: ranges are for GET; what is no range is ignored, and a server may ignore others: several at
        # once are of no use to a ground station. Starlette would answer 206 or 400.
        del MutableHeaders(scope=request.scope)["range"]
    elif begin >= facts.st_size and request.headers.get("if-range") in (None, tag, answer.headers["last-modified"]):
        raise RangeBeyond(facts.st_size)
    return answer


def _facts_of(path: Path) -> os.stat_result:
    """Opens it once: where no descriptor is left, that is said before the answer begins, not in its midst."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _begin(text: str, size: int) -> int | None:
    """Where a single range begins in a file of this size; None if it is none."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    if match["suffix"]:
        return size - min(size, int(match["suffix"]))
    first, last = int(match["first"]), match["last"]
    return None if last and int(last) < first else first


def _matches(condition: str | None, tag: str) -> bool:
    """If-None-Match, by weak comparison (RFC 9110 13.1.2)."""
    if condition is None:
        return False
    tags = [part.strip().removeprefix("W/") for part in condition.split(",")]
    return "*" in tags or tag in tags
