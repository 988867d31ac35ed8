"""Maps with several heads in the console: which one is shown, and what its legend, tiles and pixels say."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from ground.console.items import record_of
from tests.ground.console.browser import browser, find, serious_faults, text_of, until
from tests.ground.console.conftest import console
from tests.ground.console.made import NORTH, SIDE, STEP, WEST, add_head, quarters, write_made_map
from tests.ground.console.test_page import AXE, click_on_map, select, show

LOWER_RIGHT = (WEST + 0.75 * STEP * SIDE, NORTH - 0.75 * STEP * SIDE)
FIELD, TOWN, WATER = (200, 180, 20), (150, 0, 150), (59, 130, 196)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three dates of a place: two with the heads landcover and deepglobe, the oldest with one head."""
    folder = tmp_path_factory.mktemp("heads")
    both = write_made_map(folder, "both", acquired="2026-05-03T06:40:00Z", confidence=204)
    add_head(both, "landcover", "deepglobe", quarters((1, 1, 1, 2)), confidence=102)
    Image.new("RGB", (SIDE, SIDE), (102, 102, 102)).save(both / "deepglobe-quicklook.webp", lossless=True)
    later = write_made_map(folder, "later", acquired="2026-06-03T06:40:00Z")
    add_head(later, "landcover", "deepglobe", quarters((1, 1, 2, 2)))
    write_made_map(folder, "plain", acquired="2026-01-03T06:40:00Z")
    return folder


@pytest.fixture(scope="module")
def served(maps: Path) -> Iterator[str]:
    with console("--dest", str(maps)) as address:
        yield address


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with browser() as driver:
        yield driver


def choose(page: Any, selector: str, value: str) -> None:
    """A choice as a person makes it: of what is not disabled."""
    page.find_element("css selector", f'{selector} option[value="{value}"]:enabled').click()


def tile_colours(data: bytes) -> set[tuple[int, ...]]:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).reshape(-1, 4)
    return {tuple(pixel[:3].tolist()) for pixel in np.unique(pixels, axis=0) if pixel[3]}


def test_legends_tiles_and_pixels_are_those_of_the_head_that_is_asked_for(served: str) -> None:
    place = {"lon": LOWER_RIGHT[0], "lat": LOWER_RIGHT[1]}
    z = 16
    x = int((WEST + STEP * SIDE / 2 + 180) / 360 * 2**z)
    y = int((1 - np.arcsinh(np.tan(np.radians(NORTH - STEP * SIDE / 2))) / np.pi) / 2 * 2**z)
    with httpx.Client(base_url=served, timeout=60) as client:
        first, further = client.get("/api/maps/both").json()["heads"]
        assert (first["name"], first["asset"], first["legend"][0]["title"]) == ("landcover", "map", "Building")
        assert (further["name"], further["asset"], further["mean_confidence"]) == ("deepglobe", "deepglobe", 0.4)
        assert [(row["title"], row["color"], row["share"]) for row in further["legend"]] == [
            ("Field", "#c8b414", 0.75), ("Town", "#960096", 0.25),
        ]  # fmt: skip
        pixel = client.get("/api/maps/both/pixel", params=place).json()
        assert (pixel["title"], round(pixel["confidence"], 2)) == ("Water", 0.8)
        pixel = client.get("/api/maps/both/pixel", params={**place, "head": "deepglobe"}).json()
        assert (pixel["title"], pixel["color"], round(pixel["confidence"], 2)) == ("Town", "#960096", 0.4)
        answer = client.get(f"/tiles/map/both/{z}/{x}/{y}.png", params={"head": "deepglobe"})
        assert tile_colours(answer.content) == {FIELD, TOWN}
        assert WATER in tile_colours(client.get(f"/tiles/map/both/{z}/{x}/{y}.png").content)
        sure = client.get(f"/tiles/confidence/both/{z}/{x}/{y}.png", params={"head": "deepglobe"})
        assert tile_colours(sure.content) != tile_colours(client.get(f"/tiles/confidence/both/{z}/{x}/{y}.png").content)
        assert client.get(f"/tiles/confidence/later/{z}/{x}/{y}.png", params={"head": "deepglobe"}).status_code == 404
        for path in ("/api/maps/plain/pixel", "/api/maps/both/pixel"):
            answer = client.get(path, params={**place, "head": "roads"})
            assert (answer.status_code, answer.json()["detail"]) == (404, "the map has no head of this name")


def test_the_quicklook_is_that_of_the_head_that_is_asked_for(maps: Path, served: str) -> None:
    with httpx.Client(base_url=served, timeout=60) as client:
        assert [row["has_quicklook"] for row in client.get("/api/maps/both").json()["heads"]] == [True, True]
        assert [row["has_quicklook"] for row in client.get("/api/maps/later").json()["heads"]] == [True, False]
        for query, name in (({}, "quicklook.webp"), ({"head": "deepglobe"}, "deepglobe-quicklook.webp")):
            answer = client.get("/api/maps/both/quicklook", params=query)
            assert answer.content == (maps / "both" / name).read_bytes(), name
        assert client.get("/api/maps/later/quicklook", params={"head": "deepglobe"}).status_code == 404
        assert client.get("/api/maps/both/quicklook", params={"head": "roads"}).status_code == 404


def test_a_head_that_has_not_come_is_named_and_not_drawn(tmp_path: Path) -> None:
    folder = write_made_map(tmp_path, "both")
    add_head(folder, "landcover", "deepglobe", quarters((1, 1, 1, 2)))
    (folder / "deepglobe.tif").unlink()
    record = record_of(folder, "both")
    assert [row.head.name for row in record.heads] == ["landcover", "deepglobe"]
    assert [record.raster_of(row.head) for row in record.heads] == ["map.tif", None]


@pytest.mark.parametrize("href", ["../other/map.tif", "/etc/passwd", "./map.json", "./a/b.tif", "http://x/y.tif", ""])
def test_an_asset_that_is_no_plain_tiff_of_the_folder_is_no_head(tmp_path: Path, href: str) -> None:
    folder = write_made_map(tmp_path, "hostile")
    add_head(folder, "landcover", "deepglobe", quarters((1, 1, 1, 2)))
    item = json.loads((folder / "map.json").read_text())
    item["assets"]["deepglobe"]["href"] = href
    (folder / "map.json").write_text(json.dumps(item))
    assert [row.head.file for row in record_of(folder, "hostile").heads] == ["map.tif"]


@pytest.mark.parametrize("heads", [3, [], {"deepglobe": {"class_cover": [{"value": 9999}]}}, {"deepglobe": 1}])
def test_figures_of_heads_in_another_form_cost_themselves_only(tmp_path: Path, heads: Any) -> None:
    folder = write_made_map(tmp_path, "odd")
    add_head(folder, "landcover", "deepglobe", quarters((1, 1, 1, 2)))
    item = json.loads((folder / "map.json").read_text())
    item["properties"]["onboard:heads"] = heads
    item["properties"]["onboard:model"]["heads"] = heads
    (folder / "map.json").write_text(json.dumps(item))
    record = record_of(folder, "odd")
    assert (record.problem, bool(record.rings)) == ("", True)
    assert [(row.head.name, len(row.classes)) for row in record.heads] == [("map", 4), ("deepglobe", 2)]


def test_the_user_chooses_the_head_that_is_shown(page: Any, served: str) -> None:
    show(page, served, "map")
    select(page, "both")
    assert text_of(page, "#head option:checked") == "landcover", "the first is the default"
    assert "Legend of landcover" in text_of(page, "table.legend")
    assert "80.0 % on average" in text_of(page, "dl.facts")
    assert click_on_map(page, *LOWER_RIGHT).startswith("Water, confidence 80.0 %")
    choose(page, "#head", "deepglobe")
    legend = text_of(page, "table.legend")
    assert "Legend of deepglobe" in legend
    assert "Field" in legend
    assert "5.90 km²" in legend
    assert "Building" not in legend
    assert "40.0 % on average" in text_of(page, "dl.facts")
    drawn = '.leaflet-before-pane img.leaflet-tile-loaded[src$="?head=deepglobe"]'
    until(page, lambda: find(page, drawn), "no tile of the head comes")
    assert not find(page, '.leaflet-before-pane img[src$=".png"]'), "tiles of the other head stay"
    assert click_on_map(page, *LOWER_RIGHT).startswith("Town, confidence 40.0 %")
    assert serious_faults(page, AXE) == []
    choose(page, "#layer", "confidence")
    confidence = '.leaflet-before-pane img[src*="tiles/confidence"][src$="?head=deepglobe"]'
    until(page, lambda: find(page, confidence), "the confidence is of another head")
    show(page, served, "map")
    select(page, "plain")
    assert not find(page, "#head"), "a map with one head has nothing to choose"
    assert "Legend of" not in text_of(page, "table.legend")


def test_only_maps_with_the_head_are_compared_with_it(page: Any, served: str) -> None:
    show(page, served, "map")
    select(page, "both")
    choose(page, "#compare", "plain")
    until(page, lambda: find(page, '.leaflet-after-pane img[src*="/plain/"]'), "the other map is not drawn")
    choose(page, "#head", "deepglobe")
    assert not page.execute_script("return document.querySelector('#swipe').checkVisibility()"), (
        "other classes compared"
    )
    assert page.execute_script("return document.querySelector('#compare option[value=plain]').disabled")
    choose(page, "#compare", "later")
    later = '.leaflet-after-pane img[src*="/later/"][src$="?head=deepglobe"]'
    until(page, lambda: find(page, later), "the other map is shown by another head")
    lower_left = (WEST + 0.25 * STEP * SIDE, LOWER_RIGHT[1])
    words = click_on_map(page, *lower_left)
    assert "2026-05-03 06:40 UTC: Field" in words
    assert "2026-06-03 06:40 UTC: Town" in words


def test_pictures_and_the_model_say_all_heads(page: Any, served: str) -> None:
    show(page, served, "model")
    until(page, lambda: "Head deepglobe" in text_of(page, "#model"), "a head is missing")
    assert "Town" in text_of(page, "#model")
    page.get("about:blank")
    page.get(f"{served}/#pictures")
    until(page, lambda: text_of(page, "#pictures-count"), "the pictures are never drawn")
    choose(page, "#pictures-which", "")
    until(page, lambda: len(find(page, "#pictures button")) == 3, "not all maps are listed")
    next(button for button in find(page, "#pictures button") if "both.tif" in button.text).click()
    until(page, lambda: "Legend of deepglobe" in text_of(page, "#picture"), "the picture says one head only")
    assert "Legend of landcover" in text_of(page, "#picture")
