"""Scenes that name heads of the model: which engine maps them, what comes down, and what is refused."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from ground import cli
from tests.onboard.service import Served, running, until, write_scene
from tests.tiny_heads import write_heads_model


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    write_heads_model(tmp_path / "run" / "model")
    with running(tmp_path / "run" / "data", ONBOARD_KEEP_SCENES="true") as service:
        yield service


def assets_of(served: Served, scene_id: str) -> list[str]:
    with served.client() as client:
        item = client.get(f"/maps/{scene_id}").json()
    return list(item["assets"])


def test_a_scene_is_mapped_by_the_heads_that_it_names(served: Served, tmp_path: Path) -> None:
    scenes = [write_scene(tmp_path / f"{seed}.tif", 100, seed=seed) for seed in range(4)]
    asked: list[dict[str, str]] = [{}, {"heads": "bands,light"}, {"heads": "light"}, {}]
    told = [served.post(scene, **query) for scene, query in zip(scenes, asked, strict=True)]
    assert [answer["heads"] for answer in told] == [[], ["bands", "light"], ["light"], []]
    for answer in told:
        assert served.wait_for(answer["id"], "mapped", "failed") == "mapped"
    assert [assets_of(served, answer["id"])[:2] for answer in told] == [
        ["map", "quicklook"], ["map", "quicklook"], ["map", "quicklook"], ["map", "quicklook"]
    ]  # fmt: skip
    assert "light" in assets_of(served, told[1]["id"])
    assert assets_of(served, told[2]["id"]) == ["map", "quicklook"]
    with served.client() as client:
        legend = client.get(f"/maps/{told[2]['id']}").json()["assets"]["map"]["classification:classes"]
        assert [row["title"] for row in legend] == ["no data", "light 1", "light 2"]
        assert not [each for each in client.get("/events").json()["events"] if each["severity"] == "error"]


def test_the_same_scene_with_other_heads_is_other_work(served: Served, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", 100)
    first, again = served.post(scene, heads="light"), served.post(scene, heads="light")
    other = served.post(scene, heads="bands,light")
    assert first["id"] == again["id"] != other["id"]


def test_a_map_of_two_heads_comes_down_whole(served: Served, tmp_path: Path) -> None:
    scene = served.post(write_scene(tmp_path / "scene.tif", 100), heads="bands,light")["id"]
    served.wait_for(scene, "mapped")
    assert cli.main(["pull", served.url, "--dest", str(tmp_path / "ground")]) == 0
    (item,) = (tmp_path / "ground").rglob("map.json")
    names = {path.name for path in item.parent.iterdir()}
    assert {"map.tif", "light.tif", "map.json", "quicklook.webp", "light-quicklook.webp"} <= names
    with rasterio.open(item.parent / "light.tif") as source:
        assert set(np.unique(source.read(1))) == {1, 2}
    facts: Any = json.loads(item.read_text())["properties"]["onboard:heads"]
    assert list(facts) == ["light"]


def test_heads_that_are_not_there_are_refused_before_the_body(served: Served, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", 100)
    with served.client() as client:
        for heads in ("roads", "light,light", "bands,roads"):
            answer = client.post("/scenes", content=scene.read_bytes(), params={"heads": heads},
                                 headers={"Content-Type": "image/tiff"})  # fmt: skip
            assert answer.status_code == 422, answer.text
            assert "has bands, light" in answer.json()["detail"]
        form = client.post("/scenes", files={"scene": ("a.tif", scene.read_bytes())}, data={"heads": "roads"})
        assert form.status_code == 422
        assert "has bands, light" in form.json()["detail"]
        taken = client.post("/scenes", files={"scene": ("a.tif", scene.read_bytes())}, data={"heads": "light"})
        assert taken.json()["heads"] == ["light"]


def test_the_setting_names_the_usual_heads(tmp_path: Path) -> None:
    write_heads_model(tmp_path / "run" / "model")
    with running(tmp_path / "run" / "data", ONBOARD_HEADS="light,bands") as served:
        scene = served.post(write_scene(tmp_path / "scene.tif", 100))["id"]
        served.wait_for(scene, "mapped")
        assert "bands" in assets_of(served, scene)
        served.stop()
        served.environment["ONBOARD_HEADS"] = "roads"
        with pytest.raises(AssertionError, match="ONBOARD_HEADS: there is no head roads; the model tiny-heads"):
            served.start()


def test_the_setting_says_which_picture_further_heads_have(tmp_path: Path) -> None:
    write_heads_model(tmp_path / "run" / "model")
    with running(tmp_path / "run" / "data", ONBOARD_HEAD_QUICKLOOK="off") as served:
        scene = served.post(write_scene(tmp_path / "scene.tif", 100), heads="bands,light")["id"]
        served.wait_for(scene, "mapped")
        assert assets_of(served, scene) == ["map", "quicklook", "light"]


def test_a_killed_worker_ends_the_scene_with_its_heads(served: Served, tmp_path: Path) -> None:
    scene = served.post(write_scene(tmp_path / "scene.tif", 500), heads="bands,light")["id"]
    served.wait_for(scene, "running")
    until((served.data / "canvases" / scene / "canvas" / "journal").exists, "no canvas")
    served.kill("worker")
    assert served.wait_for(scene, "mapped", "failed") == "mapped"
    assert "light" in assets_of(served, scene)


def test_a_model_of_one_graph_takes_no_heads(tmp_path: Path) -> None:
    with running(tmp_path / "run" / "data") as served, served.client() as client:
        scene = write_scene(tmp_path / "scene.tif", 100)
        answer = client.post("/scenes", content=scene.read_bytes(), params={"heads": "light"},
                             headers={"Content-Type": "image/tiff"})  # fmt: skip
        assert answer.status_code == 422
        assert "has no heads: leave the option out" in answer.json()["detail"]


def test_heads_are_looked_at_before_the_bytes_come(served: Served) -> None:
    """A scene of gigabytes over a thin link is not sent for nothing."""
    host, port = served.url.removeprefix("http://").split(":")
    head = (
        "POST /scenes?heads=roads HTTP/1.1\r\nHost: x\r\nContent-Type: image/tiff\r\nContent-Length: 100000000\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=20) as link:
        link.sendall(head.encode())  # and no byte of the body
        assert link.recv(4096).startswith(b"HTTP/1.1 422 ")
