"""Areas pushed up to a real service: what items, plan and events say of them, and whose they are to change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from ground import cli
from onboard.api.auth import add_token
from onboard.jobs.areas import LastShares
from onboard.scene.areas import MOST_BYTES
from onboard.settings import read_settings
from tests.onboard.mapping.test_areas import box, collection, feature
from tests.onboard.service import ROOT, Served, running, until
from tests.tiny_heads import write_heads_model

SIDE = 120
PLACE = rasterio.Affine(2e-5, 0, 55, 0, -2e-5, 25)
HERE = box(55.0002, 24.9978, 55.0022, 24.9998)


def write_scene(path: Path, water: float, seed: int = 0) -> Path:
    """The tiny model's class 4 (dark) in so much of its left part, class 1 (red) elsewhere; all of it one place."""
    pixels = np.zeros((3, SIDE, SIDE), np.uint8)
    pixels[0] = 250 - seed  # not one scene twice
    pixels[0, :, : round(water * SIDE)] = 1
    with rasterio.open(path, "w", "GTiff", SIDE, SIDE, 3, dtype="uint8", crs="EPSG:4326", transform=PLACE) as target:
        target.write(pixels)
    return path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with running(tmp_path / "run" / "data", ONBOARD_COLLAR="false") as served:
        yield served


def mapped(served: Served, scene: Path, **query: str) -> dict[str, Any]:
    scene_id = served.post(scene, **query)["id"]
    served.wait_for(scene_id, "mapped")
    with served.client() as client:
        item: dict[str, Any] = client.get(f"/maps/{scene_id}").json()
    return item


def alerts(served: Served) -> list[str]:
    with served.ledger() as ledger:
        return [event.text for event in ledger.events.page(limit=1000) if event.kind == "area-alert"]


def put(served: Served, *features: Any) -> Any:
    with served.client() as client:
        answer = client.put("/areas", content=collection(*features))
        assert answer.status_code == 200, answer.text
        assert client.get("/areas").json() == answer.json()
    return answer.json()


def test_items_plan_and_events_speak_of_areas(served: Served, tmp_path: Path) -> None:
    put(served, feature(HERE, name="harbour", priority="high", alert_points=30), feature(box(0, 0, 1, 1), name="far"))
    water = "Class 4"
    first = mapped(served, write_scene(tmp_path / "a.tif", 0.3), acquired="2026-01-01T00:00:00Z")
    (row,) = first["properties"]["onboard:areas"]
    titles = list(row["shares"])
    water = titles[3]
    assert row["covered"] == pytest.approx(1, abs=0.01)
    assert row["shares"][water] == pytest.approx(0.26, abs=0.02)
    assert "change" not in row
    assert first["properties"]["onboard:priority"] == "high"
    # Older than the last one: nothing is compared. Then 20 points, then 30 more.
    mapped(served, write_scene(tmp_path / "b.tif", 0.9, seed=1), acquired="2025-06-01T00:00:00Z")
    mapped(served, write_scene(tmp_path / "c.tif", 0.5, seed=2), acquired="2026-01-02T00:00:00Z")
    assert alerts(served) == []
    last = mapped(served, write_scene(tmp_path / "d.tif", 0.85, seed=3), acquired="2026-01-03T00:00:00Z")
    (row,) = last["properties"]["onboard:areas"]
    assert row["change"][water] == pytest.approx(0.42, abs=0.03)
    until(lambda: len(alerts(served)) >= 2, "no alert")  # events follow the map
    texts = alerts(served)
    assert len(texts) == 2  # more water is less of class 1
    assert any(text.startswith(f"{water} +") and "points in harbour" in text for text in texts), texts
    assert row["alerts"] == texts
    with served.client() as client:
        plan = client.get("/downlink/plan").json()["items"]
    assert all(item["priority"] == "high" and "shows harbour" in item["reason"] for item in plan)
    # After a restart the last map is still known, and no alert comes twice.
    served.stop()
    served.start()
    mapped(served, write_scene(tmp_path / "e.tif", 0.3, seed=4), acquired="2026-01-04T00:00:00Z")
    until(lambda: len(alerts(served)) >= 4, "no alert after the restart")
    assert len(alerts(served)) == 4


def test_an_alert_that_a_power_cut_left_out_is_made_up_for(served: Served, tmp_path: Path) -> None:
    put(served, feature(HERE, alert_points=10))
    mapped(served, write_scene(tmp_path / "a.tif", 0.2))
    before = (served.data / "areas-last.json").read_bytes()
    mapped(served, write_scene(tmp_path / "b.tif", 0.9, seed=1))
    served.stop()
    assert len(alerts(served)) == 2
    (served.data / "areas-last.json").write_bytes(before)  # as if it had ended between the map and its event
    with served.ledger() as ledger:
        settings = read_settings(data_dir=served.data)
        LastShares(settings, ledger).note_published()
        LastShares(settings, ledger).note_published()
    assert len(alerts(served)) == 4
    whole = (served.data / "areas-last.json").read_bytes()
    for damaged in (b"{", b'{"reached": null, "areas": {}}', b'{"reached": 1e999, "areas": {}}'):
        (served.data / "areas-last.json").write_bytes(damaged)
        with served.ledger() as ledger:
            LastShares(settings, ledger).note_published()
        assert len(alerts(served)) == 4  # of maps that are still aboard: no news
        assert json.loads((served.data / "areas-last.json").read_bytes()) == json.loads(whole)
    with served.ledger() as ledger:
        told = [event.text for event in ledger.events.page(limit=1000) if event.kind == "area-shares-lost"]
    assert len(told) == 3
    assert told[0].startswith("areas-last.json was damaged; ")


def test_other_models_and_little_cover_are_not_compared(served: Served, tmp_path: Path) -> None:
    put(served, feature(box(55.0002, 24.9978, 55.02, 24.9998), alert_points=10))
    mapped(served, write_scene(tmp_path / "a.tif", 0.2))
    (row,) = mapped(served, write_scene(tmp_path / "b.tif", 0.9, seed=1))["properties"]["onboard:areas"]
    assert row["covered"] < 0.2
    assert row["change"]
    assert alerts(served) == []
    state = json.loads((served.data / "areas-last.json").read_text())
    for last in state["areas"].values():
        last["model"] = "0" * 64
    served.stop()
    (served.data / "areas-last.json").write_text(json.dumps(state))
    served.start()
    (row,) = mapped(served, write_scene(tmp_path / "c.tif", 0.2, seed=2))["properties"]["onboard:areas"]
    assert "change" not in row


def test_areas_are_refused_in_words_and_those_before_stay(served: Served) -> None:
    put(served, feature(HERE))
    with served.client() as client:
        for body, status, words in (
            (b"{", 422, ""), (b'{"type": "FeatureCollection"}', 422, ""), (b"[" * 70_000, 413, "65,536"),
            (collection(feature(HERE, classes=["watr"])), 422, "no class of the model"),
            (collection(feature(box(-180, 0, 180, 1))), 422, ""),
        ):  # fmt: skip
            answer = client.put("/areas", content=body)
            assert (answer.status_code, words in answer.text) == (status, True), answer.text
        assert client.delete("/areas/nowhere").status_code == 404
        ring = [*([round(0.001 * at, 3), 1] for at in range(51)), [1, 2], [0, 1]]
        many = [feature({"type": "Polygon", "coordinates": [ring]}, name=f"area {at}") for at in range(100)]
        body = json.dumps({"type": "FeatureCollection", "features": many}, separators=(",", ":")).encode()
        assert 60_000 < len(body) < MOST_BYTES  # and with its defaults it is longer
        assert client.put("/areas", content=body).status_code == 200
        assert len(client.get("/areas").json()["features"]) == 100
        put(served, feature(HERE))
        assert [area["properties"]["name"] for area in client.get("/areas").json()["features"]] == ["harbour"]


def test_the_setting_counts_until_areas_are_pushed_up(tmp_path: Path) -> None:
    path = tmp_path / "areas.geojson"
    path.write_bytes(collection(feature(HERE, name="set")))

    def names(answer: Any) -> list[str]:
        return [area["properties"]["name"] for area in answer.json()["features"]]

    with running(tmp_path / "run" / "data", ONBOARD_AREAS=str(path)) as served:
        with served.client() as client:
            assert names(client.get("/areas")) == ["set"]
            put(served, feature(HERE, name="one"), feature(HERE, name="Two words"))
            assert names(client.delete("/areas/two%20WORDS")) == ["one"]
        served.stop()
        served.start()
        with served.client() as client:
            assert names(client.get("/areas")) == ["one"]
            assert names(client.delete("/areas")) == ["set"]
    path.write_bytes(collection(feature(HERE, classes=["watr"])))
    environment = os.environ | {"ONBOARD_DATA_DIR": str(tmp_path / "x"), "ONBOARD_AREAS": str(path)}
    done = subprocess.run(
        [sys.executable, "-m", "onboard.cli", "serve"], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no class of the model" in done.stderr.splitlines()[-1]


def test_an_area_of_a_further_head_is_compared_whichever_heads_map_beside_it(tmp_path: Path) -> None:
    write_heads_model(tmp_path / "run" / "model")
    with running(tmp_path / "run" / "data", ONBOARD_COLLAR="false") as served:
        with served.client() as client:
            answer = client.put("/areas", content=collection(feature(HERE, head="roads")))
            assert (answer.status_code, "its heads are bands, light" in answer.text) == (422, True)
            answer = client.put("/areas", content=collection(feature(HERE, classes=["light 2"])))
            assert (answer.status_code, "give `head`: light" in answer.text) == (422, True)
        put(served, feature(HERE, head="light", classes=["light 2"], priority="high", alert_points=30))
        first = mapped(served, write_scene(tmp_path / "a.tif", 0.3), heads="bands,light")
        (row,) = first["properties"]["onboard:areas"]
        assert (row["head"], list(row["shares"])) == ("light", ["light 2"])
        assert first["properties"]["onboard:priority"] == "high"
        without = mapped(served, write_scene(tmp_path / "b.tif", 0.9, seed=1), heads="bands")
        assert without["properties"].get("onboard:areas", []) == []
        last = mapped(served, write_scene(tmp_path / "c.tif", 0.9, seed=2), heads="light")
        assert last["properties"]["onboard:areas"][0]["against"] == first["id"]
        until(lambda: len(alerts(served)) >= 1, "no alert")
        assert len(alerts(served)) == 1
        assert "light 2 +" in alerts(served)[0]


def test_the_operator_alone_orders_and_the_ground_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, path = tmp_path / "run" / "data", tmp_path / "areas.geojson"
    data.mkdir(parents=True)
    path.write_bytes(collection(feature(HERE, classes=["class 4"], priority="urgent", alert_points=30)))
    files = {}
    for role in ("operator", "ground", "ingest"):
        files[role] = tmp_path / f"{role}.token"
        files[role].write_text(add_token(data / "tokens.json", role, [role]))

    def ground(*words: str, role: str = "operator") -> tuple[int, str]:
        code = cli.main([*words, "--token-file", str(files[role])])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    with running(data) as served:
        for role in ("ground", "ingest"):
            assert ground("areas", "push", served.url, str(path), role=role)[0] == 2
            assert ground("areas", "rm", served.url, "harbour", role=role)[0] == 2
            assert ground("priority", served.url, "s1", "urgent", role=role)[0] == 2
        assert ground("areas", "ls", served.url, role="ingest")[0] == 2
        assert ground("areas", "ls", served.url, role="ground") == (0, "nothing\n")
        code, shown = ground("areas", "push", served.url, str(path))
        assert code == 0
        assert shown.splitlines() == [
            "name     place  head  classes  priority  alert",
            "harbour  yes    -     class 4  urgent    30 points",
            "1 area aboard",
        ]
        path.write_bytes(collection(feature(HERE, name="other")))
        assert ground("areas", "push", served.url, str(path))[1].endswith("1 area aboard; no more: harbour\n")
        assert "other" in ground("areas", "ls", served.url, "--json", role="ground")[1]
        assert ground("areas", "rm", served.url)[0] == 2
        assert ground("areas", "rm", served.url, "other") == (0, "0 areas aboard\n")
        assert ground("areas", "rm", served.url, "--all") == (0, "0 areas aboard\n")
        for bad in (tmp_path / "none", tmp_path / "operator.token"):
            assert ground("areas", "push", served.url, str(bad))[0] == 2
