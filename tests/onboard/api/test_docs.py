"""The pages that describe the interface: with a token where the service has some, and without the internet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from onboard.api import docs
from onboard.api.errors import NotFound
from onboard.api.paths import without_paths
from tests.onboard.api.test_callers_first import token
from tests.onboard.service import Served, running


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    data = tmp_path_factory.mktemp("docs") / "data"
    return data, token(data, "telemetry")


@pytest.fixture(scope="module")
def served(secret: tuple[Path, str]) -> Iterator[Served]:
    with running(secret[0]) as served:
        yield served


PATHS = ["/openapi.json", "/docs", *(f"/docs/{name}" for name in docs.ASSETS)]


@pytest.mark.parametrize("path", PATHS)
def test_the_pages_follow_the_tokens_rules(served: Served, secret: tuple[Path, str], path: str) -> None:
    with served.client() as client:
        refused = client.get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer, Basic realm=")
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get(path, auth=("anybody", "wrong")).status_code == 401
        assert client.get(path, headers={"Authorization": "Basic !"}).status_code == 401
        assert client.get(path, headers={"Authorization": f"Bearer {secret[1]}"}).status_code == 200
        assert client.get(path, auth=("anybody", secret[1])).status_code == 200
        # A browser sends such a password by itself, from any page: nothing but these pages takes it.
        assert client.get("/telemetry", auth=("anybody", secret[1])).status_code == 401
        assert client.get("/redoc").status_code == 404


def test_the_page_takes_everything_from_the_service_itself(served: Served, secret: tuple[Path, str]) -> None:
    with served.client(auth=("browser", secret[1])) as client:
        page = client.get("/docs")
        named = re.findall(r"""(?:src|href)=["']([^"']+)|url: *'([^']+)'""", page.text)
        links = [one or other for one, other in named]
        assert len(links) == 4
        for link in links:
            assert re.fullmatch(r"/(?:docs/[a-z.-]+|openapi\.json)", link), link
            assert client.get(link).status_code == 200
        assert not re.search(r"https?://", page.text)
        assert '"validatorUrl": null' in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert b"SwaggerUIBundle" in client.get("/docs/swagger-ui-bundle.js").content
        assert client.get("/docs/auth.py").status_code == 404
        document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    schema = document["paths"]["/events/acknowledged"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["until"]


def test_without_the_package_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "PACKAGE", "no_such_package")
    with pytest.raises(NotFound, match="needs the package fastapi-offline"):
        docs.get_docs()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("put it into the inbox /tmp/in box/x, or send its bytes", "put it into the inbox in box/x, or send its bytes"),
        ("'/tmp/a/scene.tif': not recognized; see /usr/share", "'scene.tif': not recognized; see share"),
        ("cannot read /etc/passwd.", "cannot read passwd."),
        ("(/home/me/models/m.onnx) is gone; GET /scenes lists them", "(m.onnx) is gone; GET /scenes lists them"),
        ("see /openapi.json; 3/4 of km/h; https://example.org/tmp/x; and/or /", None),
        ("GET /maps/x/map.tif, /downlink/plan", None),
    ],
)
def test_texts_for_strangers_name_no_path(text: str, left: str | None) -> None:
    assert without_paths(text) == (text if left is None else left)


def test_a_refused_file_of_the_inbox_tells_no_path_of_the_machine(tmp_path: Path) -> None:
    with running(tmp_path / "open" / "data", ONBOARD_INBOX=str(tmp_path / "inbox")) as served:
        for name in ("missing.tif", str(tmp_path / "open" / "data" / "ledger.sqlite")):
            answer = httpx.post(f"{served.url}/scenes", json={"path": name})
            assert answer.status_code == 422
            assert "/tmp" not in answer.text
            assert str(tmp_path) not in answer.text
