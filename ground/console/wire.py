"""Requests to the satellite as the console makes them: bounded answers, and refusals in words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from ground.errors import AskedWrong
from ground.json_text import well_formed
from ground.text import visible

LONGEST_SNAPSHOT = 1 << 20


class Refused(Exception):
    """The satellite refused, or cannot be reached; ``status`` is what the page is answered."""

    def __init__(self, detail: str, status: int = 502) -> None:
        self.status = status
        super().__init__(detail)


def client_of(url: str, stall_s: float) -> httpx.AsyncClient:
    """A client of the service.

    Raises:
        AskedWrong: the address is none.
    """
    try:
        # As in ground.link: bodies are taken raw, so that their length is what came over the link.
        client = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=stall_s, headers={"Accept-Encoding": "identity"})
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
        raise AskedWrong(f"{url} is no address ({error})", "give one like http://satellite:8000") from None
    if client.base_url.scheme not in ("http", "https") or not client.base_url.host:
        raise AskedWrong(f"{url} is no address", "give one like http://satellite:8000")
    return client


def bearer(token: str | None) -> dict[str, str]:
    """Header fields of a token."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


async def accepted(answer: httpx.Response) -> None:
    """Passes a good answer.

    Raises:
        Refused: it is none; the detail is the satellite's, or ours where it is not the satellite that answers.
    """
    if 200 <= answer.status_code < 300:
        return
    try:
        detail = visible(str(json.loads(await whole(answer, 1 << 16))["detail"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        detail = "is it an onboard service, or a portal between?"
    # What says something of the request is the page's answer too; all else is a gateway's failure to it.
    status = answer.status_code if answer.status_code in (401, 403, 404, 409, 429) else 502
    raise Refused(f"the satellite answers {answer.status_code}: {detail}", status)


def parsed(data: bytes) -> Any:
    """JSON of the satellite, such that it can be written as JSON again.

    Raises:
        httpx.RemoteProtocolError: it is none.
    """
    try:
        # The page gets it as JSON again, which cannot hold half a character or NaN.
        return well_formed(json.loads(data))
    except (ValueError, RecursionError):
        raise httpx.RemoteProtocolError("what comes is no JSON: is a portal between?") from None


async def whole(answer: httpx.Response, longest: int) -> bytes:
    """The body.

    Raises:
        httpx.RemoteProtocolError: it has more than so many bytes.
    """
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > longest:
            raise httpx.RemoteProtocolError(f"the answer has more than {longest:,} bytes")
    return bytes(body)


async def events_of(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Data of server-sent events, a line of it each, as the service sends them."""
    waiting = b""
    async for chunk in answer.aiter_raw():
        waiting += chunk
        # The last piece is no line yet: chunks end anywhere.
        *lines, waiting = waiting.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        if len(waiting) > LONGEST_SNAPSHOT:
            raise httpx.RemoteProtocolError(f"a line of the stream has more than {LONGEST_SNAPSHOT:,} bytes")
