"""The page at `/`: what it shows, to whom, and that nothing in it is markup of others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from onboard.api import home
from tests.onboard.api.test_callers_first import token
from tests.onboard.service import Served, running, write_scene

LONGEST = 50_000
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    data = tmp_path_factory.mktemp("home") / "data"
    return data, {role: token(data, role) for role in ("ground", "telemetry", "ingest")}


@pytest.fixture(scope="module")
def served(tokens: tuple[Path, dict[str, str]]) -> Iterator[Served]:
    with running(tokens[0]) as served:
        scene = write_scene(tokens[0].parent / "scene.tif")
        with served.client(headers={"Authorization": f"Bearer {tokens[1]['ingest']}"}) as client:
            answer = client.post(
                "/scenes", content=scene.read_bytes(), headers={"Content-Type": "image/tiff"},
                params={"name": HOSTILE, "priority": "high"},
            )  # fmt: skip
        served.wait_for(answer.json()["id"], "mapped")
        yield served


def test_a_precision_that_the_backend_s_name_has_is_said_once() -> None:
    engine = {"state": "ready", "model": "landcover 1.2.0", "backend": "openvino-bf16", "precision": "bf16"}
    assert home._engine(engine) == "ready landcover 1.2.0 openvino-bf16"
    assert home._engine(engine | {"backend": "openvino", "precision": "fp32"}) == "ready landcover 1.2.0 openvino fp32"


def test_it_shows_state_and_newest_maps_in_under_fifty_kilobytes(
    served: Served, tokens: tuple[Path, dict[str, str]]
) -> None:
    with served.client(auth=("browser", tokens[1]["ground"])) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert len(page.content) < LONGEST
        for heading in ("State", "Telemetry now", "Queue", "Newest maps"):
            assert f"<h2>{heading}</h2>" in page.text
        assert "1 mapped" in page.text
        assert "to be fetched" in page.text
        (picture,) = re.findall(r'src="([^"]+)"', page.text)
        answer = client.get(picture)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
        assert client.get("/quicklooks/no-such-map").status_code == 404


def test_it_has_no_script_and_takes_nothing_from_elsewhere(served: Served, tokens: tuple[Path, dict[str, str]]) -> None:
    with served.client(auth=("browser", tokens[1]["ground"])) as client:
        page = client.get("/")
    assert not re.search(r"<script|https?://", page.text, re.IGNORECASE)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "script-src" not in page.headers["content-security-policy"]


def test_a_scene_named_in_markup_is_shown_as_text(served: Served, tokens: tuple[Path, dict[str, str]]) -> None:
    with served.client(auth=("browser", tokens[1]["ground"])) as client:
        page = client.get("/").text
    assert HOSTILE not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_it_follows_the_tokens_rules(served: Served, tokens: tuple[Path, dict[str, str]]) -> None:
    secrets = tokens[1]
    with served.client() as client:
        refused = client.get("/")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer, Basic realm=")
        assert client.get("/", auth=("browser", "wrong")).status_code == 401
        assert client.get("/", headers={"Authorization": f"Bearer {secrets['telemetry']}"}).status_code == 200
        assert client.get("/", auth=("browser", secrets["ingest"])).status_code == 403
        # The role telemetry may list maps, and not fetch them: its page shows no pictures.
        assert "<img" not in client.get("/", auth=("browser", secrets["telemetry"])).text
        picture = f"/quicklooks/{Path(served.data / 'maps').iterdir().__next__().name}"
        assert client.get(picture).status_code == 401
        assert client.get(picture, auth=("browser", secrets["telemetry"])).status_code == 403
        # A browser sends such a password by itself, from any page: what changes something never takes it.
        assert client.delete("/scenes/x", auth=("browser", secrets["ingest"])).status_code == 401
