"""What the console's server answers, and to whom."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from ground.console.guard import Guard
from ground.console.serve import own_hosts
from tests.ground.console.conftest import console
from tests.ground.console.made import HOSTILE, NORTH, PALETTE, SIDE, STEP, WEST, write_made_map
from tests.ground.test_lies import run

QUARTER, SPAN = SIDE // 4, STEP * SIDE


def place_of(quarter: int, shift: float = 0.0) -> dict[str, float]:
    """Middle of a quarter of a made map: 0 upper left, 1 upper right, 2 lower left, 3 lower right."""
    col, row = QUARTER * (1 + 2 * (quarter % 2)), QUARTER * (1 + 2 * (quarter // 2))
    return {"lon": WEST + shift + STEP * col, "lat": NORTH - STEP * row}


def test_maps_are_listed_in_pages_the_newest_first(client: httpx.Client) -> None:
    page = client.get("/api/maps", params={"limit": 4}).json()
    assert (page["count"], [row["id"] for row in page["maps"]]) == (6, ["after", "nowhere", "hostile", "polynomials"])
    rest = client.get("/api/maps", params={"limit": 4, "offset": 4}).json()
    assert [row["id"] for row in rest["maps"]] == ["points", "before"]
    unlocated = client.get("/api/maps", params={"located": "false"}).json()
    assert [row["id"] for row in unlocated["maps"]] == ["nowhere"]
    in_june = {"begin": 1_780_272_000, "end": 1_782_863_999}
    assert [row["id"] for row in client.get("/api/maps", params=in_june).json()["maps"]] == ["points"]
    assert client.get("/api/maps", params={"text": "POLY"}).json()["count"] == 1
    assert client.get("/api/maps", params={"limit": 100_000}).status_code == 422


def test_a_map_has_its_legend_and_those_it_may_be_compared_with(client: httpx.Client) -> None:
    detail = client.get("/api/maps/before").json()
    assert detail["heads"][0]["legend"][0] == {
        "value": 1, "title": "Building", "color": "#e2574c", "share": 0.25, "area_m2": 120.0 * SIDE * SIDE / 4
    }  # fmt: skip
    assert detail["heads"][0]["has_confidence"]
    assert [row["id"] for row in detail["overlapping"]] == ["after"]
    assert client.get("/api/outlines").json()["unlocated"] == 1


@pytest.mark.parametrize(("name", "shift"), [("before", 0.0), ("points", 0.01), ("polynomials", 0.02)])
def test_a_click_gives_the_class_that_lies_there(client: httpx.Client, name: str, shift: float) -> None:
    """Maps of control points and of polynomials lie where they say, not where their pixels are counted."""
    for quarter, title in enumerate(("Building", "Road", "Vegetation", "Water")):
        found = client.get(f"/api/maps/{name}/pixel", params=place_of(quarter, shift)).json()
        assert found["title"] == title
        assert found["confidence"] == (0.8 if name == "before" else None)
    assert client.get(f"/api/maps/{name}/pixel", params={"lon": 0, "lat": 0}).json()["value"] is None
    assert client.get("/api/maps/nowhere/pixel", params={"lon": 0, "lat": 0}).status_code == 404


def tile_at(longitude: float, latitude: float, zoom: int) -> str:
    morecantile = pytest.importorskip("morecantile")
    tile = morecantile.tms.get("WebMercatorQuad").tile(longitude, latitude, zoom)
    return f"{tile.z}/{tile.x}/{tile.y}"


@pytest.mark.parametrize(("name", "shift"), [("before", 0.0), ("points", 0.01), ("polynomials", 0.02)])
def test_a_tile_has_eight_bits_and_the_maps_own_palette(client: httpx.Client, name: str, shift: float) -> None:
    image = pytest.importorskip("PIL.Image")
    place = place_of(1, shift)
    answer = client.get(f"/tiles/map/{name}/{tile_at(place['lon'], place['lat'], 22)}.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    picture = image.open(io.BytesIO(answer.content))
    assert (picture.size, picture.mode) == ((256, 256), "P")
    assert picture.convert("RGBA").getpixel((128, 128)) == PALETTE[2]
    assert client.get(f"/tiles/map/{name}/{tile_at(0, 0, 10)}.png").status_code == 204


def test_confidence_is_a_layer_where_a_map_has_it(client: httpx.Client) -> None:
    where = tile_at(place_of(0)["lon"], place_of(0)["lat"], 18)
    assert client.get(f"/tiles/confidence/before/{where}.png").status_code == 200
    assert client.get(f"/tiles/confidence/after/{where}.png").status_code == 404
    assert client.get(f"/tiles/scene/before/{where}.png").status_code == 404
    for bad in ("map/before/3/8/0", "map/before/30/0/0", "map/before/1/-1/0", "other/before/0/0/0"):
        assert client.get(f"/tiles/{bad}.png").status_code in (404, 422)


def test_the_scene_is_shown_under_its_map_only_where_its_digest_is_the_items(tmp_path: Path) -> None:
    folder = write_made_map(tmp_path / "maps", "m")
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    shutil.copy(folder / "map.tif", scenes / "m.tif")
    item = json.loads((folder / "map.json").read_text())
    item["properties"]["onboard:scene_sha256"] = hashlib.sha256((scenes / "m.tif").read_bytes()).hexdigest()
    (folder / "map.json").write_text(json.dumps(item))
    where = f"/tiles/scene/m/{tile_at(place_of(0)['lon'], place_of(0)['lat'], 18)}.png"
    with console("--dest", str(tmp_path / "maps"), "--scenes", str(scenes)) as address:
        assert httpx.get(f"{address}{where}").status_code == 200
        with (scenes / "m.tif").open("ab") as file:
            file.write(b"another scene of this name")
        assert httpx.get(f"{address}{where}").status_code == 404


def test_nothing_outside_the_station_is_read(tmp_path: Path) -> None:
    """By names in a request, by links in the folder, or by a map that is a description of another file."""
    maps = tmp_path / "maps"
    outside = write_made_map(tmp_path / "elsewhere", "secret")
    write_made_map(maps, "linked")
    write_made_map(maps, "vrt")
    for name in ("map.tif", "quicklook.webp"):
        (maps / "linked" / name).unlink()
        (maps / "linked" / name).symlink_to(outside / name)
    (maps / "whole").symlink_to(outside)
    (maps / "vrt" / "map.tif").write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>EPSG:4326</SRS>'
        f"<GeoTransform>{WEST}, {STEP}, 0, {NORTH}, 0, -{STEP}</GeoTransform><VRTRasterBand dataType='Byte' band='1'>"
        f"<SimpleSource><SourceFilename>{outside / 'map.tif'}</SourceFilename></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    where = tile_at(place_of(0)["lon"], place_of(0)["lat"], 18)
    with console("--dest", str(maps)) as address, httpx.Client(base_url=address) as client:
        assert {row["id"] for row in client.get("/api/maps").json()["maps"]} == {"linked", "vrt"}
        assert client.get(f"/tiles/map/linked/{where}.png").status_code == 404
        assert client.get("/api/maps/linked/quicklook").status_code == 404
        assert client.get(f"/tiles/map/vrt/{where}.png").status_code == 204
        assert client.get("/api/maps/vrt/pixel", params=place_of(0)).status_code == 404
        assert client.get(f"/tiles/map/whole/{where}.png").status_code == 404
    for path in ("/api/maps/..%2f..%2felsewhere%2fsecret", "/static/../app.py", "/static/%2e%2e/app.py",
                 "/tiles/map/..%2felsewhere%2fsecret/0/0/0.png"):  # fmt: skip
        assert raw(address_of(maps), path).startswith(("HTTP/1.1 404", "HTTP/1.1 400")), path


def address_of(maps: Path) -> Any:
    return console("--dest", str(maps))


def raw(context: Any, path: str) -> str:
    """First bytes of the answer to a path that no client of good manners sends."""
    with context as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            return connection.recv(4096).decode("latin-1")


@pytest.mark.parametrize("host", ["satellite.example", "127.0.0.1", "127.0.0.1:1", "evil.test:8050", ""])
def test_another_host_is_refused(client: httpx.Client, host: str) -> None:
    """A name that somebody points at this machine must not read the console through a browser."""
    for path in ("/", "/api/maps", "/static/console.css"):
        assert client.get(path, headers={"Host": host}).status_code in (400, 403)


def test_only_its_own_page_may_drive_it(client: httpx.Client, address: str) -> None:
    body = {"until": 3}
    own = {"Origin": address}
    for headers in ({}, {"Origin": "http://evil.test"}, {"Origin": "null"}, {"Origin": address + ".evil.test"}):
        assert client.post("/api/events/acknowledged", json=body, headers=headers).status_code == 403
        assert client.post("/api/scenes/x/cancel", headers=headers).status_code == 403
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/api/maps", headers=elsewhere).status_code == 403
    assert client.get("/api/maps", headers={"Origin": "http://evil.test"}).status_code == 403
    answer = client.get("/api/maps", headers={**own, "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.options("/api/maps", headers={"Origin": "http://evil.test"}).status_code == 403
    assert client.post("/api/events/acknowledged", json=body, headers=own).json()["acknowledged"] == 3


def test_pages_take_scripts_and_pictures_from_the_console_alone(client: httpx.Client) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://", page.text)
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", page.text)
    for link in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
        assert client.get(f"/{link}").status_code == 200, link


def test_curves_are_thinned_means_with_their_highest_values(client: httpx.Client) -> None:
    curves = client.get("/api/curves", params={"points": 10, "orbit_s": 3600}).json()
    assert (curves["problem"], curves["rows"], curves["main"]) == ("", 600, "VDD_IN")
    assert len(curves["time_s"]) == len(curves["power_w"]["VDD_IN"]) == 10
    assert curves["power_w"]["VDD_IN"] == pytest.approx([12.5] * 10, rel=0.01)
    assert curves["peak_w"]["VDD_IN"] == [20.0] * 10
    assert max(curves["temperature_c"]["tj"]) == 59.0
    rail = next(row for row in curves["rails"] if row["rail"] == "VDD_IN")
    assert (rail["idle_w"], rail["work_w"], rail["peak_w"]) == (6.0, 19.0, 20.0)
    # An hour: 30 min at 19 W and 30 min at 6 W.
    assert [orbit["energy_j"] for orbit in curves["orbits"]][1:9] == pytest.approx([45_000] * 8, rel=0.02)
    assert curves["governor"] == [{"utc": "2026-05-28T20:26:40.000Z", "state": "hot", "text": HOSTILE}]


def test_what_was_not_measured_is_null_and_never_zero(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "maps").mkdir()
    history = tmp_path / "telemetry" / "history"
    history.mkdir(parents=True)
    seconds = [*range(0, 600, 60), *range(6000, 6600, 60)]
    watts = [5.0] * 10 + [None] * 5 + [7.0] * 5
    columns = {"tick": [1000 * s for s in seconds], "utc_s": [1e9 + s for s in seconds], "power_w:a.mean": watts}
    pq.write_table(pa.table(columns), history / f"000-{0:015d}-{6_540_000:015d}.parquet")
    (history / "000-000000006600000-000000006600001.parquet").write_bytes(b"PAR1 no more")
    options = ("--dest", str(tmp_path / "maps"), "--telemetry", str(tmp_path / "telemetry"))
    with console(*options) as address:
        damaged = httpx.get(f"{address}/api/curves").json()
        assert (damaged["problem"], damaged["rows"]) == ("", 20)
        assert "cannot be read as Parquet" in damaged["unread"][0]
        (history / "000-000000006600000-000000006600001.parquet").unlink()
        curves = httpx.get(f"{address}/api/curves", params={"points": 11}).json()
    values = curves["power_w"]["a"]
    assert values == [5.0, *[None] * 9, 7.0]
    assert curves["tiles_per_s"] == [None] * 11
    # Neither the gap of 90 minutes nor the minutes without a value are counted.
    assert curves["rails"][0]["energy_j"] == pytest.approx(5.0 * 600 + 7.0 * 300)


def test_events_are_kept_acknowledged_over_a_restart(tmp_path: Path, station: Path) -> None:
    shutil.copytree(station / "telemetry", tmp_path / "telemetry", ignore=shutil.ignore_patterns("acknowledged.json"))
    (tmp_path / "maps").mkdir()
    options = ("--dest", str(tmp_path / "maps"), "--telemetry", str(tmp_path / "telemetry"))
    with console(*options) as address:
        told = httpx.get(f"{address}/api/events").json()
        assert ([row["sequence"] for row in told["events"]], told["waiting"]) == ([9, 5, 3], 2)
        post = {"headers": {"Origin": address}, "json": {"until": 5}}
        assert httpx.post(f"{address}/api/events/acknowledged", **post).status_code == 200  # type: ignore[arg-type]
        beyond = {"headers": {"Origin": address}, "json": {"until": 10}}
        assert httpx.post(f"{address}/api/events/acknowledged", **beyond).status_code == 409  # type: ignore[arg-type]
    with console(*options) as address:
        told = httpx.get(f"{address}/api/events", params={"severity": "error"}).json()
        assert (told["acknowledged"], told["waiting"], len(told["events"])) == (5, 1, 1)


BAD_ITEMS: list[bytes] = [
    b'{"properties": {}, "geometry": {"type": "Polygon", "coordinates": [[[1%s, 1], [2, 3]]]}, "assets": {}}'
    % (b"0" * 999),
    b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 100_000, b'{"properties": 7}', b'{"properties": {"title": 7}}',
    b'{"properties": {}, "geometry": {"type": "Polygon", "coordinates": [[["x", 1]]]}, "assets": {}}',
    b'{"properties": {}, "geometry": {"type": "Polygon", "coordinates": [[[1e400, 1], [2, NaN]]]}, "assets": {}}',
    b'{"properties": {"onboard:class_cover": [{"value": 1e9}]}, "geometry": null, "assets": {}}',
    b'{"properties": {"gsd": 1e400, "datetime": "yesterday"}, "assets": {"map": {"classification:classes": '
    b'[{"value": 1, "color_hint": "url(//evil.test)"}]}}}',
]  # fmt: skip


def test_a_damaged_item_costs_its_map_and_no_other_one(tmp_path: Path) -> None:
    write_made_map(tmp_path / "maps", "good")
    for number, text in enumerate(BAD_ITEMS):
        folder = write_made_map(tmp_path / "maps", f"bad{number}")
        (folder / "map.json").write_bytes(text)
    os.mkfifo(tmp_path / "maps" / "bad0" / "pipe")
    with console("--dest", str(tmp_path / "maps")) as address, httpx.Client(base_url=address, timeout=60) as client:
        assert client.get("/api/maps").json()["count"] == 1 + len(BAD_ITEMS)
        assert client.get("/api/outlines").json()["outlines"][0]["id"] == "good"
        for number in range(len(BAD_ITEMS)):
            detail = client.get(f"/api/maps/bad{number}")
            assert detail.status_code == 200
            assert "evil" not in detail.text


def test_options_that_cannot_be_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rio_tiler", reason="the extra console is not installed: rio_tiler")
    (tmp_path / "maps").mkdir()
    token = tmp_path / "token"
    token.write_text("abc")
    maps, operator = ("console", "--dest", str(tmp_path / "maps")), ("--operator-token-file", str(token))
    for arguments, words in (
        (("console", "--dest", str(tmp_path / "none")), "no such folder"),
        ((*maps, "--telemetry", str(tmp_path / "none")), "no such folder"),
        ((*maps, "--host", "0.0.0.0"), "stands for every address"),
        ((*maps, *operator), "needs a satellite"),
        ((*maps, "ftp://x"), "is no address"),
        ((*maps, "http://x", "--host", "192.0.2.1", *operator), "could command the satellite"),
        ((*maps, "--host", "192.0.2.1"), "choose another --host or --port"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert words in err


def test_a_token_is_read_only_where_there_is_a_satellite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may name a file that is not here, and without a satellite nothing is asked."""
    (tmp_path / "maps").mkdir()
    monkeypatch.setenv("GROUND_TOKEN_FILE", str(tmp_path / "none"))
    with console("--dest", str(tmp_path / "maps")) as address:
        assert httpx.get(f"{address}/api/live").json()["link"] == "off"


@pytest.mark.parametrize(("port", "is_answered"), [(80, True), (8050, False)])
def test_a_host_without_a_port_is_the_consoles_where_it_listens_on_that_of_http(port: int, is_answered: bool) -> None:
    """Browsers leave port 80 out of Host and Origin."""

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    guard = Guard(app, own_hosts(["[::1]", "localhost"], port))

    async def ask(host: str) -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard)) as client:
            headers = {"Host": host, "Origin": f"http://{host}"}
            return [
                (await client.request(method, "http://x/", headers=headers)).status_code for method in ("GET", "POST")
            ]

    for name in ("localhost", "[::1]"):
        assert asyncio.run(ask(name)) == [200 if is_answered else 403] * 2
        assert asyncio.run(ask(f"{name}:{port}")) == [200] * 2
        assert asyncio.run(ask(f"{name}:81")) == [403] * 2


def test_events_and_passes_beyond_a_page_are_on_the_next_ones(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "telemetry").mkdir()
    events = [{"sequence": number, "text": "t", "at": {}} for number in range(1, 1201)]
    (tmp_path / "telemetry" / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in events))
    row = {"began": "2026-11-02T08:00:00Z", "seconds": 1.0, "files": 0, "received_bytes": 0, "left": 0}
    passes = [row | {"maps": number} for number in range(700)]
    (tmp_path / "maps" / "passes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passes))
    options = ("--dest", str(tmp_path / "maps"), "--telemetry", str(tmp_path / "telemetry"))
    with console(*options) as address, httpx.Client(base_url=address) as client:
        seen: list[int] = []
        before: dict[str, int] = {}
        while True:
            page = client.get("/api/events", params={"limit": 500, **before}).json()
            seen += [row["sequence"] for row in page["events"]]
            if not page["more"]:
                break
            before = {"before": seen[-1]}
        assert seen == list(range(1200, 0, -1))
        last = client.get("/api/passes", params={"offset": 600, "limit": 500}).json()
        assert (last["count"], [row["maps"] for row in last["passes"]]) == (700, list(range(99, -1, -1)))


def test_files_of_the_page_are_kept_by_the_browser_until_they_change(client: httpx.Client) -> None:
    links = re.findall(r'(?:src|href)="(static/[^"#]+)"', client.get("/").text)
    assert len(links) > 15
    for link in links:
        assert "immutable" in client.get(f"/{link}").headers["cache-control"]
        plain = re.sub("static/[0-9a-f]{16}/", "static/", link)
        assert plain != link
        assert "immutable" not in client.get(f"/{plain}").headers.get("cache-control", "")
