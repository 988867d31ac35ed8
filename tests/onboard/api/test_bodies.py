from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from onboard.api import problems
from onboard.api.bodies import body_of
from onboard.api.deliveries import FormFiles
from onboard.api.minimum_rate import MinimumRate
from onboard.settings import read_settings
from tests.onboard.service import until

LIMIT = 100_000
DATA = bytes(range(256)) * 300


@pytest.fixture
def client(serve: Callable[[FastAPI], httpx.Client]) -> httpx.Client:
    app = FastAPI()
    problems.install(app)

    @app.post("/")
    async def post(request: Request) -> dict[str, Any]:
        body = body_of(request, limit=LIMIT, pace=MinimumRate(2.0, 0))
        digest, count = hashlib.sha256(), 0
        async for chunk in body.chunks:
            digest.update(chunk)
            count += len(chunk)
        return {"sha256": digest.hexdigest(), "bytes": count, "fields": body.fields}

    return serve(app)


def test_files_beside_a_scene_are_written_while_others_are_answered(
    serve: Callable[[FastAPI], httpx.Client], tmp_path: Path
) -> None:
    """A disk that does nothing until another request is answered: on the event loop both would wait for ever."""
    answered, most = threading.Event(), 0

    class Slow(FormFiles):
        def write(self, data: bytes) -> None:
            nonlocal most
            assert answered.wait(30)
            most = max(most, len(data))
            super().write(data)

    (tmp_path / "data" / "scenes").mkdir(parents=True)
    beside = Slow(read_settings(data_dir=tmp_path / "data", disk_reserve_bytes=0))
    app = FastAPI()

    @app.post("/")
    async def post(request: Request) -> dict[str, int]:
        count = 0
        async for chunk in body_of(request, limit=1 << 24, pace=MinimumRate(60.0, 0), beside=beside).chunks:
            count += len(chunk)
        return {"bytes": count}

    @app.get("/other")
    async def other() -> None:
        answered.set()

    client = serve(app)
    sidecar, files = DATA * 30, [("sidecar", ("x.ovr", DATA * 30)), ("scene", ("x.tif", DATA))]
    with ThreadPoolExecutor(1) as pool:
        posted = pool.submit(client.post, "/", files=files)
        until(lambda: beside.files, "the sidecar does not begin")
        with httpx.Client(base_url=client.base_url, timeout=20) as second:
            assert second.get("/other").status_code == 200
        assert posted.result().json() == {"bytes": len(DATA)}
    assert beside.files["x.ovr"].read_bytes() == sidecar
    assert most <= 1 << 20  # a piece of the body at a time: uvicorn's have 256 KiB at most
    beside.remove()


def whole(answer: httpx.Response) -> bool:
    return bool(answer.json()["sha256"] == hashlib.sha256(DATA).hexdigest())


def in_parts(size: int) -> Iterator[bytes]:
    for begin in range(0, len(DATA), size):
        yield DATA[begin : begin + size]


def test_raw_bytes_arrive_as_sent(client: httpx.Client) -> None:
    assert whole(client.post("/", content=DATA, headers={"Content-Type": "image/tiff"}))
    assert whole(client.post("/", content=in_parts(999), headers={"Content-Type": "image/tiff; profile=cog"}))


def test_a_form_gives_its_file_and_its_fields(client: httpx.Client) -> None:
    answer = client.post("/", files={"scene": ("../../etc/x.tif", DATA)}, data={"priority": "urgent", "name": "é"})
    assert whole(answer)
    assert answer.json()["fields"] == {"priority": "urgent", "name": "é"}


def test_a_form_cut_anywhere_is_put_together_again(client: httpx.Client) -> None:
    request = client.build_request("POST", "/", files={"scene": ("x.tif", DATA)}, data={"a": "b"})
    body = request.read()
    for size in (7, 61, 4096):
        parts = (body[begin : begin + size] for begin in range(0, len(body), size))
        answer = client.post("/", content=parts, headers={"Content-Type": request.headers["content-type"]})
        assert whole(answer)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(client: httpx.Client, chunked: bool) -> None:
    content: Any = iter([bytes(60_000), bytes(60_000)]) if chunked else bytes(120_000)
    answer = client.post("/", content=content, headers={"Content-Type": "image/tiff"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:onboard:problem:too-large"
    said = "goes on beyond the limit" if chunked else "declares 120,000 bytes"
    assert said in answer.json()["detail"]


def test_another_media_type_is_refused(client: httpx.Client) -> None:
    answer = client.post("/", json={"a": 1})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]
    assert client.post("/", content=b"x").status_code == 415


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("other", ("x.tif", DATA))], "file in field 'other'; it belongs in 'scene'"),
        ([("other", (None, "text"))], "no field 'scene'"),
        ([("scene", ("x.tif", DATA)), ("scene", ("y.tif", DATA[:9]))], "'scene' twice"),
        ([("name", (None, "n" * 5000)), ("scene", ("x.tif", DATA))], "'name' is longer than 4096 bytes"),
    ],
)
def test_a_form_without_one_scene_is_refused(client: httpx.Client, files: Any, said: str) -> None:
    answer = client.post("/", files=files)
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_what_is_no_form_is_refused(client: httpx.Client, kind: str) -> None:
    answer = client.post("/", content=b"nothing of the kind", headers={"Content-Type": kind})
    assert answer.status_code == 400


def test_a_body_that_stops_coming_is_given_up(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10) as link:
        link.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/tiff\r\nContent-Length: 5000\r\n\r\nabc")
        assert b"400 Bad Request" in link.recv(4096)
