"""How many connections there are, and how long those stay that do not send or do not read."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from onboard.api import problems
from onboard.api.connections import Connections, Listener, connections_within, descriptors_are_out
from onboard.api.protocol import bounded_protocol
from onboard.errors import StorageError
from tests.onboard.service import Served, running, until, write_scene
from tests.onboard.sockets import answer_of, connected, head, is_closed, problem_of

TIFF = {"Content-Type": "image/tiff"}


@contextlib.contextmanager
def silent(url: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connected(url)) for _ in range(count)]


def is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_at_the_cap_the_oldest_idle_connection_makes_room_for_a_request(tmp_path: Path) -> None:
    with running(tmp_path / "data", ONBOARD_MAX_CONNECTIONS="20") as served, silent(served.url, 20) as links:
        time.sleep(1.5)  # older than those that are left their time
        assert all(is_live(served.url) for _ in range(5))
        assert is_closed(links[0], 5)
        assert not is_closed(links[-1], 0.2)


def test_at_the_cap_of_young_connections_one_more_is_refused_in_words(tmp_path: Path) -> None:
    with running(tmp_path / "data", ONBOARD_MAX_CONNECTIONS="20") as served:
        # A round may be slow on a busy machine, so that the first are no longer young.
        for _ in range(10):
            begun = time.monotonic()
            with silent(served.url, 20), connected(served.url) as one_more:
                one_more.sendall(head("GET", "/health/live"))
                status, fields, body = answer_of(one_more)
                if time.monotonic() - begun < 0.8:
                    break
            time.sleep(0.2)
        assert (status, fields["content-type"], fields["connection"]) == (503, "application/problem+json", "close")
        assert b"too many connections" in body
        assert is_live(served.url)


def test_requests_in_work_are_not_given_up_for_new_ones(tmp_path: Path) -> None:
    with (
        running(tmp_path / "data", ONBOARD_MAX_CONNECTIONS="8", ONBOARD_MAX_STREAMS="3") as served,
        httpx.stream("GET", f"{served.url}/telemetry/stream?every_s=0.2") as stream,
        silent(served.url, 7),
    ):
        lines = stream.iter_lines()
        next(lines)
        time.sleep(1.2)
        with silent(served.url, 10):
            time.sleep(1.2)
            assert is_live(served.url)
        assert sum(1 for _ in zip(range(20), lines, strict=False)) == 20


def test_with_few_descriptors_silent_connections_keep_no_upload_out(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", 60)
    patient = {"ONBOARD_HEADER_TIMEOUT_S": "3600", "ONBOARD_BODY_TIMEOUT_S": "3600"}  # silence itself cuts nobody off
    with running(tmp_path / "data", "tests.onboard.few_descriptors", **patient) as served:

        def is_taken() -> bool:
            try:
                return bool(served.post(scene, name="in the midst"))
            except (AssertionError, httpx.HTTPError):  # 503 where all others are younger than a second
                return False

        with contextlib.ExitStack() as stack:
            for number in range(300):
                with contextlib.suppress(OSError):
                    link = stack.enter_context(connected(served.url))
                    if number % 2:
                        link.sendall(head("POST", "/events/acknowledged", "Content-Length: 20"))
            until(is_taken, "no upload got in beside the silent connections")
            until(lambda: is_live(served.url), "no answer beside the silent connections")
        until(lambda: is_live(served.url), "no answer after the silent connections")
        text = served.log.read_text()
    assert "connections at once: the system's limit of open files allows no more" in text
    assert "Traceback" not in text
    assert len(text.splitlines()) < 60


def test_without_a_descriptor_the_answer_is_503_and_the_log_stays_short(
    serve: Callable[[FastAPI], httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FastAPI()
    problems.install(app)
    raised: dict[str, Exception] = {
        "os": OSError(errno.EMFILE, "too many open files"),
        "storage": StorageError(Path("/x"), "cannot write", "mend the disk"),
        "sqlite": sqlite3.OperationalError("unable to open database file"),
        "disk": OSError(errno.EIO, "bad disk"),
    }
    raised["storage"].__cause__ = OSError(errno.ENFILE, "file table overflow")

    @app.get("/{kind}")
    def get(kind: str) -> None:
        raise raised[kind]

    base = serve(app).base_url

    def answer_to(kind: str) -> httpx.Response:
        return httpx.get(base.join(kind))  # a connection each: an error of ours ends it

    for kind in ("os", "storage"):
        answer = answer_to(kind)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["type"] == "urn:onboard:problem:overloaded"
    assert answer_to("sqlite").status_code == 500
    assert answer_to("disk").status_code == 500
    monkeypatch.setattr(problems, "descriptors_are_out", lambda _: True)
    assert answer_to("sqlite").status_code == 503


def test_missing_descriptors_are_known_however_they_are_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not descriptors_are_out(ValueError())
    assert not descriptors_are_out(OSError(errno.ENOSPC, "full"))
    assert descriptors_are_out(OSError(errno.EMFILE, "out"))

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "out")

    monkeypatch.setattr(os, "open", refuse)
    assert descriptors_are_out(sqlite3.OperationalError("unable to open database file"))


def test_a_listener_without_descriptors_turns_connections_away_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.connections = Connections(4)
        listening.hold_spare()
        accept, calls = socket.socket.accept, []

        def fails_first(self: socket.socket) -> tuple[socket.socket, object]:
            calls.append(1)
            if len(calls) == 1:
                raise OSError(errno.EMFILE, "too many open files")
            return accept(self)

        monkeypatch.setattr(socket.socket, "accept", fails_first)
        with socket.create_connection(listening.getsockname(), timeout=5) as link:
            with pytest.raises(BlockingIOError):
                listening.accept()
            assert is_closed(link, 5)
        with socket.create_connection(listening.getsockname(), timeout=5):
            taken, _ = listening.accept()
            assert len(listening.connections) == 1
            taken.close()
            assert len(listening.connections) == 0


def test_the_cap_keeps_within_the_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = [256, 256]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limit))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limit.__setitem__(slice(None), new))
    assert connections_within(500) == 64
    limit[:] = [1024, 1 << 20]
    assert connections_within(500) == 500
    assert limit == [4096, 1 << 20]
    limit[:] = [100, 100]
    assert connections_within(500) == 8


@pytest.mark.parametrize("way", ["declared", "chunked", "large"])
def test_uploads_of_few_bytes_a_second_do_not_keep_the_others_out(tmp_path: Path, way: str) -> None:
    settings = {"ONBOARD_BODY_TIMEOUT_S": "6", "ONBOARD_MIN_UPLOAD_BYTES_PER_S": "5000"}
    with running(tmp_path / "data", **settings) as served:
        scene = write_scene(tmp_path / "scene.tif", 60)
        length = {"declared": "Content-Length: 9000", "chunked": "Transfer-Encoding: chunked",
                  "large": "Content-Length: 900000"}[way]  # fmt: skip
        drip = b"1\r\n\0\r\n" if way == "chunked" else b"\0"
        first = b"4\r\nII*\0\r\n" if way == "chunked" else b"II*\0"
        with connected(served.url) as one, connected(served.url) as other:
            over = threading.Event()

            def send() -> None:
                with contextlib.suppress(OSError):
                    while not over.wait(0.1):
                        for link in (one, other):
                            link.sendall(drip)

            # Both run before anyone else asks: a third upload would take the place of one of them.
            for link in (one, other):
                link.sendall(head("POST", "/scenes", length, "Content-Type: image/tiff") + first)
            time.sleep(1)
            sending = threading.Thread(target=send)
            sending.start()
            try:
                with served.client() as client:
                    options: dict[str, object] = {"content": scene.read_bytes(), "headers": TIFF}
                    busy = until(lambda: _post_status(client, options) == 429, "two uploads never ran", 60)
                    assert busy
                    told = problem_of(one)
                    assert told["status"] == 400
                    assert "are needed" in told["detail"]
                    assert until(lambda: _post_status(client, options) in (200, 202), "no upload passes", 60)
            finally:
                over.set()
                sending.join()


def _post_status(client: httpx.Client, options: dict[str, object]) -> int:
    return client.post("/scenes", **options).status_code  # type: ignore[arg-type]


def test_streams_that_are_not_read_do_not_keep_the_others_out(tmp_path: Path) -> None:
    settings = {"ONBOARD_READ_TIMEOUT_S": "2", "ONBOARD_MIN_READ_BYTES_PER_S": "1000"}
    with running(tmp_path / "data", **settings) as served, contextlib.ExitStack() as stack:
        for _ in range(4):
            link = stack.enter_context(connected(served.url, receive_buffer=4096))
            link.sendall(head("GET", "/telemetry/stream?every_s=0.2"))
            assert link.recv(15) == b"HTTP/1.1 200 OK"
        with served.client() as client:
            assert client.get("/telemetry/stream?count=1").status_code == 429
            until(lambda: client.get("/telemetry/stream?count=1").status_code == 200, "no stream is given up", 30)


def test_a_stream_that_is_read_stays(tmp_path: Path) -> None:
    with running(tmp_path / "data", ONBOARD_READ_TIMEOUT_S="1", ONBOARD_MIN_READ_BYTES_PER_S="1000") as served:
        url = f"{served.url}/telemetry/stream?every_s=0.3&count=15"
        with httpx.stream("GET", url, timeout=20) as stream:
            assert sum(line.startswith("data: ") for line in stream.iter_lines()) == 15


def test_an_answer_that_is_not_read_is_given_up_whatever_it_is(
    run_server: Callable[[uvicorn.Config], tuple[str, int]],
) -> None:
    app = FastAPI()

    @app.get("/long")
    def get() -> str:
        return "x" * 30_000_000

    known = Connections(10, read_timeout_s=1.0, read_bytes_per_s=1000)
    config = uvicorn.Config(app, port=0, log_level="error", loop="asyncio", http=bounded_protocol(5, known))
    listening = Listener(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.connections = known
    listening.bind(("127.0.0.1", 0))
    config.bind_socket = lambda: listening  # type: ignore[method-assign]
    host, port = run_server(config)
    with connected(f"http://{host}:{port}", receive_buffer=4096) as link:
        link.sendall(head("GET", "/long"))
        until(lambda: len(known) == 1, "never accepted", 10)
        until(lambda: len(known) == 0, "never given up", 30)


@pytest.fixture
def lingering(run_server: Callable[[uvicorn.Config], tuple[str, int]]) -> str:
    app = FastAPI()

    @app.post("/")
    async def post() -> str:
        return "done"

    protocol = bounded_protocol(1.0, linger_s=1.0)
    host, port = run_server(uvicorn.Config(app, port=0, log_level="error", http=protocol, timeout_keep_alive=60))
    return f"http://{host}:{port}"


def test_a_body_that_goes_on_after_its_answer_has_an_end(lingering: str) -> None:
    with connected(lingering) as link:
        link.sendall(head("POST", "/", "Content-Length: 1000000"))
        assert answer_of(link)[0] == 200
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - begun < 15:
                link.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - begun < 15
    with connected(lingering) as link:  # one that ends in time keeps its connection
        for _ in range(2):
            link.sendall(head("POST", "/", "Content-Length: 10"))
            assert answer_of(link)[0] == 200
            link.sendall(b"0123456789")


def test_line_ends_between_requests_do_not_keep_a_connection(lingering: str) -> None:
    with connected(lingering) as link:
        link.sendall(head("POST", "/", "Content-Length: 0"))
        assert answer_of(link)[0] == 200
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - begun < 15:
                link.sendall(b"\r\n")
                time.sleep(0.2)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a server's own certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("keys")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=board"]
    subprocess.run([*command, "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True)
    return {"ONBOARD_TLS_CERTIFICATE": str(folder / "cert.pem"), "ONBOARD_TLS_KEY": str(folder / "key.pem")}


def is_live_over_tls(served: Served) -> bool:
    try:
        return httpx.get(f"{served.url}/health/live", verify=False, timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_a_tls_handshake_has_a_time_limit_and_counts(tmp_path: Path, certificate: dict[str, str]) -> None:
    settings = certificate | {"ONBOARD_HEADER_TIMEOUT_S": "3", "ONBOARD_MAX_CONNECTIONS": "10"}
    with running(tmp_path / "data", **settings) as served:
        with connected(served.url) as link:
            assert is_closed(link, 20)
        with silent(served.url, 10) as links:
            time.sleep(1.2)
            assert is_live_over_tls(served)
            assert is_closed(links[0], 5)
