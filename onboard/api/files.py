"""Files by HTTP: single ranges, strong entity tags, conditional requests; the rest is Starlette's."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, Response
from starlette.datastructures import MutableHeaders


def file_answer(request: Request, path: Path, *, sha256: str, media_type: str) -> Response:
    """The file or the range asked for; 304 where the client has it.

    The entity tag is the file's SHA-256: the same bytes have the same tag after any restart, copy or rebuild, so a
    transfer begun before a reboot continues after it. Starlette's own is made of time and size.

    Args:
        request: GET or HEAD.
        path: must be there.
        sha256: of the file, hex.
        media_type: as published.
    """
    tag = f'"{sha256}"'
    headers = {"ETag": tag, "Cache-Control": "private, immutable, max-age=31536000", "Accept-Ranges": "bytes"}
    if _matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    if "," in request.headers.get("range", ""):
        # RFC 9110 14.2 lets a server ignore a Range: several at once are of no use to a ground station.
        del MutableHeaders(scope=request.scope)["range"]
    return FileResponse(path, headers=headers, media_type=media_type)


def _matches(condition: str | None, tag: str) -> bool:
    """If-None-Match, by weak comparison (RFC 9110 13.1.2)."""
    if condition is None:
        return False
    tags = [part.strip().removeprefix("W/") for part in condition.split(",")]
    return "*" in tags or tag in tags
