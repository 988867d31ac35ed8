from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Callable

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from onboard.api.protocol import bounded_protocol

HEAD = b"GET /slow HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def address(run_server: Callable[[uvicorn.Config], tuple[str, int]]) -> tuple[str, int]:
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(1.0)
        return "done"

    return run_server(uvicorn.Config(app, port=0, log_level="error", http=bounded_protocol(0.4), timeout_keep_alive=30))


def connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=10)


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"X-A: b"])
def test_a_head_that_never_ends_is_given_up(address: tuple[str, int], sent: bytes) -> None:
    with connected(address) as link:
        link.sendall(sent)
        assert link.recv(100) == b""


def test_an_answer_may_take_longer_than_the_head(address: tuple[str, int]) -> None:
    with connected(address) as link:
        link.sendall(HEAD + b"\r\n")
        assert link.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_a_second_head_on_the_same_connection_is_bounded_too(address: tuple[str, int]) -> None:
    with connected(address) as link:
        link.sendall(HEAD + b"\r\n")
        while not link.recv(1000).endswith(b'"done"'):
            pass
        link.sendall(HEAD)
        assert link.recv(100) == b""


BODY = os.urandom(2_000_000)


@pytest.fixture
def uploads(run_server: Callable[[uvicorn.Config], tuple[str, int]]) -> tuple[str, int]:
    """A server that reads as many bytes of a body as the query says, and answers with their digest."""
    app = FastAPI()

    @app.post("/{count}")
    async def post(request: Request, count: int) -> str:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) >= count:
                break
        return hashlib.sha256(content[:count]).hexdigest()

    return run_server(uvicorn.Config(app, port=0, log_level="error", http=bounded_protocol(5)))


def test_requests_follow_each_other_whether_their_bodies_were_read_or_not(uploads: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{uploads[0]}:{uploads[1]}") as client:
        for count in (len(BODY), 10, 1_000_000, len(BODY)):
            answer = client.post(f"/{count}", content=BODY)
            assert answer.json() == hashlib.sha256(BODY[:count]).hexdigest()
        for short in (BODY[:1000], iter([BODY])):  # the second one is chunked
            assert client.post("/10", content=short).json() == hashlib.sha256(BODY[:10]).hexdigest()


def test_the_next_request_may_be_on_its_way_already(uploads: tuple[str, int]) -> None:
    one = b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(BODY), len(BODY)) + BODY
    with connected(uploads) as link:
        sending = threading.Thread(target=link.sendall, args=(one * 3,))
        sending.start()
        found = b""
        while found.count(hashlib.sha256(BODY).hexdigest().encode()) < 3:
            found += (some := link.recv(65536))
            assert some, found
        sending.join()
    assert found.count(b"HTTP/1.1 200 OK") == 3


def test_a_client_that_waits_to_be_asked_is_asked(uploads: tuple[str, int]) -> None:
    head = b"POST /%d HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with connected(uploads) as link:
        link.sendall(head % (len(BODY), len(BODY)))
        assert link.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(BODY)
        found = b""
        while not found.endswith(b'"'):
            found += (some := link.recv(1000))
            assert some, found
        assert hashlib.sha256(BODY).hexdigest().encode() in found
