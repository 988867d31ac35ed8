"""An application behind a real socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI


@contextmanager
def running(config: uvicorn.Config) -> Iterator[tuple[str, int]]:
    """A uvicorn server in a thread; gives its address."""
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    listening.listen()  # from here on connections wait for the server instead of being refused
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def served(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the application."""
    config = uvicorn.Config(app, port=0, log_level="error")
    with running(config) as (host, port), httpx.Client(base_url=f"http://{host}:{port}", timeout=30) as client:
        yield client


@pytest.fixture
def serve() -> Iterator[Callable[[FastAPI], httpx.Client]]:
    """Serves an application until the test ends; gives a client of it."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))


@pytest.fixture
def run_server() -> Iterator[Callable[[uvicorn.Config], tuple[str, int]]]:
    """Runs a server until the test ends; gives its address."""
    with ExitStack() as stack:
        yield lambda config: stack.enter_context(running(config))
