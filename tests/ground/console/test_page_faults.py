"""What the page once left out or drew wrongly, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform as project

from tests.ground.console.browser import browser, click, find, text_of, until
from tests.ground.console.conftest import console
from tests.ground.console.made import PALETTE, SIDE, quarters, write_made_map
from tests.ground.console.test_page import select, show
from tests.ground.console.test_satellite import snapshot, stream
from tests.ground.liar import lying

GUESS = {
    "onboard:familiarity": {
        "tiles": 126, "tiles_unfamiliar": 80, "share_unfamiliar": 0.634921, "lowest": 0.0, "median": 0.01,
        "threshold": 0.02,
    },
    "onboard:ground_resolution": {
        "rule": "enlarged_twofold", "text": "ground resolution 5 m: enlarged twofold, treat this map as a guess"
    },
    "onboard:model": {"name": "tiny", "version": "1.0", "sha256": "0" * 64, "terms": "research only"},
}  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with browser() as driver:
        yield driver


def change(folder: Path, properties: dict[str, Any], **more: Any) -> None:
    """Further properties and parts of a map's item."""
    item = json.loads((folder / "map.json").read_text())
    item["properties"] |= properties
    (folder / "map.json").write_text(json.dumps(item | more))


def test_a_map_that_is_a_guess_is_said_to_be_one(page: Any, tmp_path: Path) -> None:
    change(write_made_map(tmp_path, "strange"), GUESS)
    change(write_made_map(tmp_path, "nowhere", place="none"), GUESS)
    known = {"tiles": 126, "tiles_unfamiliar": 8, "share_unfamiliar": 0.0635, "median": 0.5}
    change(write_made_map(tmp_path, "usual"), {"onboard:familiarity": known})
    change(write_made_map(tmp_path, "older"), {"onboard:familiarity": {"unknown": "tiny 0.9 does not give it"}})
    with console("--dest", str(tmp_path)) as address:
        show(page, address, "map")
        assert "guess" in text_of(page, '[data-map="strange"]')
        assert "guess" not in text_of(page, '[data-map="usual"]')
        select(page, "strange")
        words = text_of(page, "#map-detail")
        for part in (
            "Treat this map as a guess", "unlike anything the model was trained on (80 of 126 tiles)",
            "46 of 126 tiles (median 0.01)", "ground resolution 5 m: enlarged twofold", "research only",
        ):  # fmt: skip
            assert part in words, part
        show(page, address, "map")
        select(page, "usual")
        assert "a guess" not in text_of(page, "#map-detail")
        assert "118 of 126 tiles (median 0.50)" in text_of(page, "#map-detail")
        show(page, address, "map")
        select(page, "older")
        assert "not known: tiny 0.9 does not give it" in text_of(page, "#map-detail")
        show(page, address, "pictures")
        assert "guess" in text_of(page, "#pictures")
        click(page, "#pictures button")
        until(page, lambda: "Treat this map as a guess" in text_of(page, "#picture"), "the picture does not say it")


def write_across(station: Path) -> None:
    """A map half on either side of the antimeridian, in a zone of UTM, whose footprint is cut there."""
    folder = write_made_map(station, "across")
    (west, north), (east, south) = (179.999, -16.0), (180.001, -16.002)
    xs, ys = project("EPSG:4326", "EPSG:32760", [west, west + 0.002], [north, south])
    step = (xs[1] - xs[0]) / SIDE, (ys[0] - ys[1]) / SIDE
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint8", "nodata": 0}
    transform = rasterio.Affine(step[0], 0, xs[0], 0, -step[1], ys[0])
    with rasterio.open(folder / "map.tif", "w", crs="EPSG:32760", transform=transform, **profile) as file:
        file.write(quarters(), 1)
        file.write_colormap(1, PALETTE)

    def ring(left: float, right: float) -> list[list[float]]:
        return [[left, south], [right, south], [right, north], [left, north], [left, south]]

    coordinates = [[ring(west, 180.0)], [ring(-180.0, east - 360)]]
    change(folder, {}, geometry={"type": "MultiPolygon", "coordinates": coordinates})


def test_a_map_across_the_antimeridian_is_seen_whole(page: Any, tmp_path: Path) -> None:
    write_across(tmp_path)
    with console("--dest", str(tmp_path)) as address:
        show(page, address, "map")
        select(page, "across")
        zoom, west, east = page.execute_script(
            "const b = consoleMap.getBounds(); return [consoleMap.getZoom(), b.getWest(), b.getEast()]"
        )
        assert zoom >= 15, "the view spans the world"
        assert west < 180 < east
        drawn = (
            "return [...document.querySelectorAll('.leaflet-before-pane img.leaflet-tile-loaded')]"
            ".filter((image) => image.naturalWidth === 256).map((image) => +image.src.split('/').at(-2))"
        )
        half = 2 ** (zoom - 1)
        columns = {True, False}
        until(page, lambda: {at > half for at in page.execute_script(drawn)} == columns, "one half is missing")


def test_events_are_turned_over_page_by_page(page: Any, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "telemetry").mkdir()
    rows = [{"sequence": number, "severity": "info", "text": f"t{number}", "at": {}} for number in range(1, 251)]
    (tmp_path / "telemetry" / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = {"began": "2026-11-02T08:00:00Z", "seconds": 1.0, "files": 0, "received_bytes": 0, "left": 0}
    passes = [log | {"maps": number} for number in range(150)]
    (tmp_path / "maps" / "passes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passes))

    def first() -> str:
        return text_of(page, "#events tbody tr td")

    def shows(number: str) -> bool:
        return first() == number

    with console("--dest", str(tmp_path / "maps"), "--telemetry", str(tmp_path / "telemetry")) as address:
        show(page, address, "events")
        assert first() == "250"
        for button, number in (("more", "150"), ("more", "50"), ("newer", "150"), ("newer", "250")):
            click(page, f"#events-{button}")
            until(page, partial(shows, number), f"{button}: not the page from {number} on")
        assert not find(page, "#events-newer")[0].is_displayed()
        show(page, address, "passes")
        assert len(find(page, "#passes tbody tr")) == 100
        click(page, "#passes-older")
        until(page, lambda: len(find(page, "#passes tbody tr")) == 50, "passes have no second page")


def test_a_lone_point_of_a_curve_is_drawn(page: Any, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "maps").mkdir()
    history = tmp_path / "telemetry" / "history"
    history.mkdir(parents=True)
    seconds = 60.0 * np.arange(600)
    watts = np.where(np.arange(600) == 300, 10.0, np.nan)
    columns = {"tick": (1000 * seconds).astype(np.int64), "utc_s": 1.78e9 + seconds, "power_w:a.mean": watts}
    pq.write_table(pa.table(columns), history / f"000-{0:015d}-{int(columns['tick'][-1]):015d}.parquet")
    with console("--dest", str(tmp_path / "maps"), "--telemetry", str(tmp_path / "telemetry")) as address:
        show(page, address, "curves")
        blue = page.execute_script(
            "const canvas = document.querySelector('#charts canvas');"
            "const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
            "let count = 0; for (let at = 0; at < data.length; at += 4)"
            " if (data[at] < 40 && Math.abs(data[at + 1] - 0x72) < 40 && data[at + 2] > 0x90) count += 1;"
            "return count"
        )
        assert blue > 0, "nothing is drawn"


def test_the_number_of_maps_that_are_drawn_is_a_number(page: Any, address: str) -> None:
    """Of more maps than are drawn: as if there were 3,000 more."""
    source = (
        "const ask = window.fetch; window.fetch = async (path, ...more) => { const answer = await ask(path, ...more);"
        " if (!String(path).startsWith('api/outlines')) return answer;"
        " return new Response(JSON.stringify({ ...(await answer.json()), left_out: 3000 })); }"
    )
    script = page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        show(page, address, "map")
        until(page, lambda: "draws" in text_of(page, "#map-count"), "it does not say so")
        assert text_of(page, "#map-count") == "5 maps with a place; the map draws the newest 5"
    finally:
        page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_live_points_go_on_after_the_console_began_anew(page: Any, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    asked = "return performance.getEntriesByType('resource').map((e) => e.name).filter((n) => n.includes('api/live'))"
    with lying() as liar:
        stream(liar, snapshot)
        options = (liar.url, "--dest", str(tmp_path / "maps"))
        with console(*options) as address:
            show(page, address, "queue")
            until(page, lambda: page.execute_script(asked)[-1].split("=")[-1] > "0", "no point comes")
        before = len(page.execute_script(asked))
        with console(*options, port=int(address.rpartition(":")[2])):
            since = [int(name.split("=")[-1]) for name in page.execute_script(asked)]
            until(
                page, lambda: "0" in [name.split("=")[-1] for name in page.execute_script(asked)[before:]],
                f"points are asked for after the last one of the process before: {since}",
            )  # fmt: skip
            until(page, lambda: page.execute_script(asked)[-1].split("=")[-1] > "0", "no point comes any more")


def test_the_page_asks_once_at_a_time(page: Any, address: str) -> None:
    show(page, address, "passes")
    page.execute_script(
        "window.most = {}; const now = {}, ask = window.fetch; window.fetch = async (path, ...more) => {"
        " const name = String(path).split('?')[0]; now[name] = (now[name] || 0) + 1;"
        " window.most[name] = Math.max(window.most[name] || 0, now[name]);"
        " await new Promise((done) => setTimeout(done, 500));"
        " try { return await ask(path, ...more); } finally { now[name] -= 1; } };"
        "const again = () => document.dispatchEvent(new Event('visibilitychange'));"
        "for (let at = 0; at < 5; at += 1) setTimeout(again, 60 * at)"
    )
    until(page, lambda: page.execute_script("return window.most['api/passes'] >= 1"), "the page asks for nothing")
    assert page.execute_script("return window.most") == {"api/live": 1, "api/passes": 1}
