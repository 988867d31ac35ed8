"""Who asks is known before a byte of a body is read, on every endpoint; what a stranger sends costs nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from onboard.api.app import app_of
from onboard.api.service import Service
from onboard.settings import Settings
from tests.onboard.service import ROOT, Served, running
from tests.onboard.sockets import answer_of, connected, head, is_closed, problem_of, resident_mib

OPEN = {"/health/live", "/health/ready"}
HUGE = 1 << 30


def token(data: Path, role: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "onboard.cli", "token", "add", role, "--role", role],
        env=os.environ | {"ONBOARD_DATA_DIR": str(data)}, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("callers") / "data"


@pytest.fixture(scope="module")
def tokens(data: Path) -> dict[str, str]:
    return {role: f"Authorization: Bearer {token(data, role)}" for role in ("ground", "telemetry", "ingest")}


@pytest.fixture(scope="module")
def served(data: Path, tokens: dict[str, str]) -> Iterator[Served]:
    assert tokens
    with running(data, ONBOARD_BODY_TIMEOUT_S="1", ONBOARD_MAX_UPLOAD_BYTES="300000") as served:
        yield served


def endpoints() -> list[tuple[str, str]]:
    """Every method and path there is."""
    app = app_of(Service(Settings(), None))  # type: ignore[arg-type]  # no request is made
    found = set()
    for route in _routes(app.routes):
        path = route.path.replace("{asset}", "map.tif").replace("{map_id}", "x").replace("{scene_id}", "x")
        found |= {(method, path) for method in route.methods or ()}
    return sorted(found)


def _routes(routes: Any) -> Iterator[APIRoute]:
    """Newer FastAPI keeps included routers as they are."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            yield from _routes(getattr(getattr(route, "original_router", route), "routes", ()))


ENDPOINTS = endpoints()


def test_no_handler_has_fastapi_read_its_body() -> None:
    app = app_of(Service(Settings(), None))  # type: ignore[arg-type]  # no request is made
    routes = list(_routes(app.routes))
    assert len(routes) > 15
    assert [route.path for route in routes if route.body_field is not None] == []


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=[" ".join(one) for one in ENDPOINTS])
def test_a_stranger_is_answered_before_its_body_comes(served: Served, method: str, path: str) -> None:
    with connected(served.url) as link:
        link.sendall(head(method, path, f"Content-Length: {HUGE}", "Content-Type: application/json"))
        status, fields, _ = answer_of(link) if method != "HEAD" else (_status(link), {}, b"")
        if path in OPEN:
            assert status in (200, 503)
        else:
            assert status == 401
            assert method == "HEAD" or fields["content-type"] == "application/problem+json"
    if ("POST", path) in ENDPOINTS and method == "POST" and path != "/scenes":
        with connected(served.url) as link:
            link.sendall(head(method, path, "Transfer-Encoding: chunked", "Content-Type: application/json"))
            assert answer_of(link)[0] == 401


def _status(link: Any) -> int:
    return int(link.recv(4096).split()[1])


@pytest.mark.parametrize("path", ["/events/acknowledged", "/maps/x/receipt", "/maps/x/check", "/scenes"])
def test_a_role_that_does_not_reach_is_answered_before_its_body_comes(
    served: Served, tokens: dict[str, str], path: str
) -> None:
    with connected(served.url) as link:
        fields = (tokens["telemetry"], "Transfer-Encoding: chunked", "Content-Type: application/json")
        link.sendall(head("POST", path, *fields))
        assert problem_of(link)["status"] == 403


@pytest.mark.parametrize("path", ["/events/acknowledged", "/maps/x/receipt"])
def test_a_body_of_json_is_bounded_in_size_and_time(served: Served, tokens: dict[str, str], path: str) -> None:
    with connected(served.url) as link:
        link.sendall(head("POST", path, tokens["ground"], f"Content-Length: {HUGE}"))
        assert problem_of(link)["status"] == 413
    with connected(served.url) as link:
        link.sendall(head("POST", path, tokens["ground"], "Transfer-Encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            for _ in range(3):
                link.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert problem_of(link)["status"] == 413
    with connected(served.url) as link:
        link.sendall(head("POST", path, tokens["ground"], "Content-Length: 20") + b'{"un')
        told = problem_of(link)
        assert (told["status"], "bytes came in 1 s" in told["detail"]) == (400, True)


def test_what_a_stranger_sends_takes_no_memory(served: Served) -> None:
    api = served.children()["api"]
    before = resident_mib(api)
    for path in ("/events/acknowledged", "/maps/x/receipt", "/maps/x/check", "/scenes", "/nothing"):
        with connected(served.url) as link, contextlib.suppress(ConnectionError, TimeoutError):
            link.sendall(head("POST", path, "Transfer-Encoding: chunked", "Content-Type: application/json"))
            for _ in range(60):
                link.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
    with connected(served.url) as link, contextlib.suppress(ConnectionError, TimeoutError):
        link.sendall(b"GET /scenes HTTP/1.1\r\nHost: x\r\nX-Long: ")
        for _ in range(60):
            link.sendall(b"a" * (1 << 20))
    assert resident_mib(api) - before < 30


def test_a_head_without_end_is_refused(served: Served) -> None:
    with connected(served.url) as link:
        with contextlib.suppress(ConnectionError):
            link.sendall(b"GET /scenes HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 300_000)
        assert problem_of(link)["status"] == 431
        assert is_closed(link, 5)


def test_a_token_in_a_trailer_is_none(served: Served, tokens: dict[str, str]) -> None:
    chunk = b'b\r\n{"until":0}\r\n0\r\n'
    with connected(served.url) as link:
        fields = ("Transfer-Encoding: chunked", "Content-Type: application/json")
        link.sendall(head("POST", "/events/acknowledged", *fields))
        link.sendall(chunk + tokens["ground"].encode() + b"\r\n\r\n")
        assert answer_of(link)[0] == 401
        link.sendall(head("GET", "/events"))  # nor is it one for the next request
        assert answer_of(link)[0] == 401
    with connected(served.url) as link:  # a trailer of somebody known does no harm
        known = head("POST", "/events/acknowledged", tokens["ground"], *fields)
        link.sendall(known + chunk + b"Host: y\r\nX: y\r\n\r\n")
        assert answer_of(link)[0] == 200


@pytest.mark.parametrize(
    "lines",
    [b"", b"Host: a\r\nHost: a\r\n", b"Host: a\r\nhost: b\r\n", b"Host:\r\n", b"Host: a/b\r\n", b"Host: a b\r\n",
     b"Host: a\"><script>\r\n", b"Host: http://a\r\n"],
)  # fmt: skip
@pytest.mark.parametrize("path", [b"/health/live", b"/scenes", b"/nothing"])
def test_a_request_needs_one_proper_host(served: Served, lines: bytes, path: bytes) -> None:
    with connected(served.url) as link:
        link.sendall(b"GET " + path + b" HTTP/1.1\r\n" + lines + b"\r\n")
        told = problem_of(link)
        assert (told["status"], "Host" in told["detail"]) == (400, True)


@pytest.mark.parametrize("host", ["board", "board:8000", "10.0.0.1:8000", "[::1]:8000", "a-b.c_d", "x."])
def test_proper_hosts_pass(served: Served, host: str) -> None:
    with connected(served.url) as link:
        link.sendall(head("GET", "/health/live", host=host))
        assert answer_of(link)[0] == 200
        link.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert answer_of(link)[0] == 200


def test_a_form_may_not_fill_the_memory_by_its_headers(served: Served, tokens: dict[str, str]) -> None:
    def answer(body: bytes) -> dict[str, Any]:
        with connected(served.url) as link:
            fields = (tokens["ingest"], "Content-Type: multipart/form-data; boundary=x", f"Content-Length: {len(body)}")
            with contextlib.suppress(ConnectionError):
                link.sendall(head("POST", "/scenes", *fields) + body)
            return problem_of(link)

    long = answer(b'--x\r\nContent-Disposition: form-data; name="' + b"n" * 250_000 + b'"\r\n\r\nv\r\n--x--\r\n')
    many = answer(b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\nv\r\n' * 2000 + b"--x--\r\n")
    assert (long["status"], many["status"]) == (400, 400)
    assert "more than 32 parts" in many["detail"]
