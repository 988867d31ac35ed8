"""What the item says of where the map came from."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from engines.open import open_engine
from engines.testing import IdentityEngine
from onboard.mapping.run import MapRequest, map_scene
from tests.onboard.mapping.test_run import PLAIN, noise, write_scene
from tests.tiny_model import write_model


def test_links_to_what_it_was_made_of_lead_to_those_very_files(tmp_path: Path) -> None:
    model = write_model(tmp_path / "models" / "tiny")
    (tmp_path / "in").mkdir()
    scene = write_scene(tmp_path / "in" / "a scene #1, 50%.tif", noise(64, 64))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with open_engine(model, backend="onnxruntime", threads=1) as engine:
        item = map_scene(MapRequest(scene, tmp_path / "out", name="map"), engine).item_path
    links = [link for link in json.loads(item.read_text())["links"] if link["rel"] == "derived_from"]
    assert len(links) == 2
    for link in links:
        told = Path(item.resolve().parent, unquote(urlsplit(link["href"]).path))
        assert link["file:checksum"] == "1220" + hashlib.sha256(told.read_bytes()).hexdigest()


def test_a_map_made_again_at_once_tells_itself_apart_by_its_time(tmp_path: Path) -> None:
    """The ledger asks which of two maps of a scene stands on the disk (onboard.jobs.reconcile)."""
    scene = write_scene(tmp_path / "scene.tif", noise(64, 64))
    made = []
    for out in ("first", "second"):
        request = MapRequest(scene, tmp_path / out, scene_options=PLAIN)
        item = json.loads(map_scene(request, IdentityEngine(tile_size=64)).item_path.read_text())
        made.append(item["properties"]["created"])
    assert made[0] < made[1]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in made)


def test_an_item_that_leaves_the_machine_has_no_link_that_leads_nowhere(tmp_path: Path) -> None:
    """A service erases the scene and its folders are not the ground's: the digests are in the properties."""
    scene = write_scene(tmp_path / "scene.tif", noise(64, 64))
    request = MapRequest(scene, tmp_path / "maps", work=tmp_path / "canvases", scene_options=PLAIN)
    item = json.loads(map_scene(request, IdentityEngine(tile_size=64)).item_path.read_text())
    assert item["links"] == []
    assert item["properties"]["onboard:scene_sha256"] == hashlib.sha256(scene.read_bytes()).hexdigest()
    assert len(item["properties"]["onboard:model"]["sha256"]) == 64


@pytest.mark.parametrize(("backend", "chosen"), [("onnxruntime", "named"), ("auto", "rule")])
def test_the_item_says_how_its_backend_was_chosen(tmp_path: Path, backend: str, chosen: str) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(64, 64))
    with open_engine(write_model(tmp_path / "tiny"), backend=backend, threads=1) as engine:
        item = map_scene(MapRequest(scene, tmp_path / "out"), engine).item_path
        told = json.loads(item.read_text())["properties"]["onboard:engine"]
        assert (told["backend"], told["precision"], told["chosen"]) == (engine.backend, "fp32", chosen)
        assert ("onnxruntime" in told["passed_over"]) is False
