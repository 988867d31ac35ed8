from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvicorn
from fastapi import FastAPI

from onboard.api.protocol import bounded_protocol

HEAD = b"GET /slow HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def address(run_server: Callable[[uvicorn.Config], tuple[str, int]]) -> tuple[str, int]:
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(1.0)
        return "done"

    return run_server(
        uvicorn.Config(app, port=0, log_level="error", http=bounded_protocol(0.4), timeout_keep_alive=30)
    )


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
