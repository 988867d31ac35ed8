from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response

from onboard.api import problems
from onboard.api.files import file_answer

DATA = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()
TAG = f'"{DIGEST}"'


@pytest.fixture
def client(tmp_path: Path, serve: Callable[[FastAPI], httpx.Client]) -> httpx.Client:
    (tmp_path / "map.tif").write_bytes(DATA)
    app = FastAPI()
    problems.install(app)

    @app.api_route("/map.tif", methods=["GET", "HEAD"])
    def get(request: Request) -> Response:
        return file_answer(request, tmp_path / "map.tif", sha256=DIGEST, media_type="image/tiff")

    return serve(app)


def test_the_whole_file_and_its_digest_as_entity_tag(client: httpx.Client) -> None:
    answer = client.get("/map.tif")
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["etag"] == TAG
    assert answer.headers["accept-ranges"] == "bytes"
    head = client.head("/map.tif")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(DATA)))
    assert head.headers["etag"] == TAG


@pytest.mark.parametrize(
    ("range_", "part"),
    [("bytes=0-9", DATA[:10]), ("bytes=255990-", DATA[255990:]), ("bytes=-7", DATA[-7:]), ("bytes=5-999999", DATA[5:])],
)
def test_single_ranges(client: httpx.Client, range_: str, part: bytes) -> None:
    answer = client.get("/map.tif", headers={"Range": range_, "If-Range": TAG})
    assert (answer.status_code, answer.content) == (206, part)
    begin = DATA.index(part) if len(part) > 255 else len(DATA) - len(part) if range_ != "bytes=0-9" else 0
    assert answer.headers["content-range"] == f"bytes {begin}-{begin + len(part) - 1}/{len(DATA)}"


def test_head_knows_no_ranges(client: httpx.Client) -> None:
    head = client.head("/map.tif", headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))
    assert "content-range" not in head.headers
    assert client.head("/map.tif", headers={"Range": "bytes=999999-"}).status_code == 200


def test_a_range_of_another_version_gives_the_whole_file(client: httpx.Client) -> None:
    answer = client.get("/map.tif", headers={"Range": "bytes=5-9", "If-Range": '"of another"'})
    assert (answer.status_code, answer.content) == (200, DATA)


@pytest.mark.parametrize("condition", [{}, {"If-Range": TAG}])
@pytest.mark.parametrize("range_", ["bytes=256000-", "bytes=256000-256001", "bytes=-0"])
def test_a_range_behind_the_end_is_refused_and_told_the_size(
    client: httpx.Client, range_: str, condition: dict[str, str]
) -> None:
    answer = client.get("/map.tif", headers={"Range": range_, **condition})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */256000"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:onboard:problem:range-not-satisfiable"


def test_a_range_behind_the_end_of_another_version_gives_the_whole_file(client: httpx.Client) -> None:
    answer = client.get("/map.tif", headers={"Range": "bytes=256000-", "If-Range": '"of another"'})
    assert (answer.status_code, answer.content) == (200, DATA)


@pytest.mark.parametrize(
    "range_",
    ["bytes=0-1,5-6", "items=0-1", "bytes=5-2", "bytes=", "bytes=-", "bytes=abc", "bytes=--5", "0-9", "bytes=0-1-2",
     "bytes=" + "9" * 5000 + "-"],
)  # fmt: skip
def test_what_is_no_single_range_is_ignored(client: httpx.Client, range_: str) -> None:
    answer = client.get("/map.tif", headers={"Range": range_})
    assert (answer.status_code, answer.content) == (200, DATA)


def test_units_are_of_any_case_and_a_long_suffix_is_the_whole_file(client: httpx.Client) -> None:
    assert client.get("/map.tif", headers={"Range": "Bytes=1-2"}).content == DATA[1:3]
    assert client.get("/map.tif", headers={"Range": "bytes=-999999"}).content == DATA


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_that_vanished_is_not_found(client: httpx.Client, tmp_path: Path, method: str) -> None:
    (tmp_path / "map.tif").unlink()
    answer = client.request(method, "/map.tif", headers={"Range": "bytes=0-9", "If-Range": TAG})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    (tmp_path / "map.tif").mkdir()
    assert client.request(method, "/map.tif").status_code == 404


@pytest.mark.parametrize("condition", [TAG, f"W/{TAG}", f'"other", {TAG}', "*"])
def test_who_has_it_gets_nothing(client: httpx.Client, condition: str) -> None:
    answer = client.get("/map.tif", headers={"If-None-Match": condition})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == TAG


def test_who_has_another_gets_it(client: httpx.Client) -> None:
    assert client.get("/map.tif", headers={"If-None-Match": '"other"'}).content == DATA
