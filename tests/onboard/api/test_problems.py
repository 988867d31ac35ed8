from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from onboard.api import errors, problems
from onboard.errors import SceneRefused, StorageError

RAISED: dict[str, Exception] = {
    "digest": errors.DigestMismatch("a", "b"), "nobody": errors.NotAuthenticated("who?"),
    "not-yours": errors.NotAllowed("ground", frozenset()), "missing": errors.NotFound("map", "x"),
    "fast": errors.TooMany("slow down", 7), "scene": SceneRefused(Path("/secret/x.tif"), "is empty", "send another"),
    "full": StorageError(Path("/secret"), "the disk is full", "make room"), "ours": KeyError("/secret/inside"),
}  # fmt: skip


@pytest.fixture
def client(serve: Callable[[FastAPI], httpx.Client]) -> httpx.Client:
    app = FastAPI()
    problems.install(app)

    @app.get("/raise/{name}")
    def get(name: str, number: int = 0) -> int:
        if name in RAISED:
            raise RAISED[name]
        return number

    return serve(app)


@pytest.mark.parametrize(
    ("name", "status", "slug"),
    [
        ("digest", 400, "digest-mismatch"), ("nobody", 401, "not-authenticated"), ("not-yours", 403, "not-allowed"),
        ("missing", 404, "not-found"), ("fast", 429, "too-many"), ("scene", 422, "scene-refused"),
        ("full", 507, "no-room"), ("ours", 500, "internal"),
    ],
)  # fmt: skip
def test_every_error_is_a_problem_of_its_kind(client: httpx.Client, name: str, status: int, slug: str) -> None:
    answer = client.get(f"/raise/{name}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["type"], told["status"]) == (f"urn:onboard:problem:{slug}", status)
    assert told["detail"]
    assert "/secret" not in answer.text


def test_what_goes_with_a_status_goes_with_it(client: httpx.Client) -> None:
    assert client.get("/raise/fast").headers["retry-after"] == "7"
    assert client.get("/raise/nobody").headers["www-authenticate"] == "Bearer"


def test_errors_of_routing_and_form_are_problems_too(client: httpx.Client) -> None:
    assert client.get("/nothing").json()["type"] == "urn:onboard:problem:not-found"
    assert client.post("/raise/x").json()["status"] == 405
    told = client.get("/raise/x?number=many").json()
    assert (told["status"], told["errors"][0]["where"]) == (422, "query.number")
