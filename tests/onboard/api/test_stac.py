"""The service as a STAC API, by pystac-client as it is installed, against a real `onboard serve`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pystac
import pytest
import rasterio
from pystac.validation import validate_dict
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning

from onboard.api.geometry import shape_of
from onboard.api.map_search import LOCATED, UNLOCATED, MapSearch, interval_of
from onboard.api.stac_documents import Extent
from onboard.errors import OptionsRefused
from onboard.jobs.map_store import MapRow
from onboard.settings import read_settings
from tests.onboard.api.test_callers_first import token
from tests.onboard.mapping.conftest import stac_validator, validate_item
from tests.onboard.service import Served, running

__all__ = ["stac_validator", "validate_item"]
TIMES = ("2024-03-01T06:00:00Z", "2024-05-01T06:00:00Z", "2025-01-01T00:00:00Z", "2025-06-01T12:30:00Z")
ORIGIN = "https://maps.example.org"


def write_at(path: Path, longitude: float | None, time: str) -> bytes:
    """A scene of 40 x 40 pixels whose north-west corner lies at (longitude, 25), or nowhere; gives its bytes."""
    place: dict[str, Any] = {}
    if longitude is not None:
        place = {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, longitude, 0, -1e-5, 25)}
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (3, 40, 40), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", "GTiff", 40, 40, 3, dtype="uint8", **place) as file:
            file.write(pixels)
            file.update_tags(TIFFTAG_DATETIME=time.replace("T", " ").replace("-", ":").removesuffix("Z"))
    return path.read_bytes()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(tmp_path_factory.mktemp("stac") / "data", ONBOARD_CORS_ORIGINS=f"{ORIGIN}, https://b.org") as served:
        yield served


@pytest.fixture(scope="module")
def maps(served: Served, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Ids of four maps in their order: at 10, 20 and 30 degrees east, and one without a place."""
    folder, ids = tmp_path_factory.mktemp("scenes"), []
    for number, (longitude, time) in enumerate(zip((10.0, 20.0, 30.0, None), TIMES, strict=True)):
        posted = served.post(folder_scene(folder, number, longitude, time))
        served.wait_for(posted["id"], "mapped")
        ids.append(str(posted["id"]))
    return ids


def folder_scene(folder: Path, number: int, longitude: float | None, time: str) -> Path:
    path = folder / f"scene{'-' * number}.tif"
    write_at(path, longitude, time)
    return path


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


@pytest.fixture
def catalog(served: Served, maps: list[str]) -> Any:
    assert maps
    return pytest.importorskip("pystac_client").Client.open(f"{served.url}/stac")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pystac_client_searches_by_every_filter(catalog: Any, maps: list[str], method: str) -> None:
    around_20 = {"type": "Polygon", "coordinates": [[[19, 24], [21, 24], [21, 26], [19, 26], [19, 24]]]}
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({}, maps),
        ({"bbox": [9, 24, 21, 26]}, maps[:2]),
        ({"bbox": [9, 24, 0, 21, 26, 100]}, maps[:2]),
        ({"intersects": around_20}, maps[1:2]),
        ({"intersects": {"type": "Point", "coordinates": [30.0002, 24.9998]}}, maps[2:3]),
        ({"datetime": TIMES[1]}, maps[1:2]),
        ({"datetime": f"{TIMES[1]}/.."}, maps[1:]),
        ({"datetime": "2024"}, maps[:2]),
        ({"ids": [maps[3], maps[0]]}, [maps[0], maps[3]]),
        ({"collections": [LOCATED]}, maps[:3]),
        ({"collections": [UNLOCATED]}, maps[3:]),
        ({"collections": ["elsewhere"]}, []),
        (
            {"collections": [LOCATED, UNLOCATED], "datetime": "../2024-12-31T00:00:00Z", "bbox": [15, 0, 99, 50]},
            maps[1:2],
        ),
    ]
    for filters, ids in expected:
        search = catalog.search(method=method, **filters)
        assert [item.id for item in search.items()] == ids, filters


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pystac_client_follows_the_pages(catalog: Any, maps: list[str], method: str) -> None:
    pages = catalog.search(method=method, limit=2, datetime="2000-01-01T00:00:00Z/..").pages()
    assert [[item.id for item in page.items] for page in pages] == [maps[:2], maps[2:]]
    most = catalog.search(method=method, limit=1, max_items=3)
    assert [item.id for item in most.items()] == maps[:3]


def test_pystac_client_walks_collections_and_items(catalog: Any, served: Served, maps: list[str]) -> None:
    assert [collection.id for collection in catalog.get_collections()] == [LOCATED, UNLOCATED]
    located = catalog.get_collection(LOCATED)
    assert [item.id for item in located.get_items()] == maps[:3]
    item = located.get_item(maps[0])
    assert item.collection_id == LOCATED
    assert item.assets["map"].href == f"{served.url}/maps/{maps[0]}/map.tif"
    assert item.get_self_href() == f"{served.url}/stac/collections/{LOCATED}/items/{maps[0]}"
    assert located.get_item(maps[3]) is None
    extent = located.extent
    assert extent.spatial.bboxes[0] == pytest.approx([10, 24.9996, 30.0004, 25], abs=1e-3)
    assert [time.isoformat() for time in extent.temporal.intervals[0]] == [
        "2024-03-01T06:00:00+00:00",
        "2025-01-01T00:00:00+00:00",
    ]
    unlocated = catalog.get_collection(UNLOCATED)
    assert unlocated.extent.spatial.bboxes == [[-180, -90, 180, 90]]
    assert [item.geometry for item in unlocated.get_items()] == [None]


def test_every_document_meets_the_schemas(
    client: httpx.Client, maps: list[str], stac_validator: JsonSchemaSTACValidator, validate_item: Any
) -> None:
    kinds = {"/stac": pystac.STACObjectType.CATALOG} | {
        f"/stac/collections/{name}": pystac.STACObjectType.COLLECTION for name in (LOCATED, UNLOCATED)
    }
    for path, kind in kinds.items():
        document = client.get(path).json()
        validate_dict(document, stac_object_type=kind, stac_version="1.1.0", extensions=[], validator=stac_validator)
        assert next(link["href"] for link in document["links"] if link["rel"] == "self").endswith(path)
    items = client.get("/stac/search").json()["features"]
    assert [item["id"] for item in items] == maps
    for item in items:
        validate_item(item)
        (own,) = (link["href"] for link in item["links"] if link["rel"] == "self")
        assert httpx.get(own).json() == item


def test_every_link_of_the_landing_page_leads_somewhere(client: httpx.Client, maps: list[str]) -> None:
    page = client.get("/stac").json()
    assert page["conformsTo"] == client.get("/stac/conformance").json()["conformsTo"]
    assert client.get("/stac/").json() == page
    for link in page["links"]:
        body: dict[str, Any] = {"json": {}} if link.get("method") == "POST" else {}
        answer = client.request(link.get("method", "GET"), link["href"], **body)
        assert answer.status_code == 200, link
    (search,) = (link for link in page["links"] if link.get("method") == "POST")
    assert len(client.post(search["href"], json={}).json()["features"]) == len(maps)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"bbox": "1,2,3"}, "is no box"),
        ({"bbox": "1,2,3,4,5"}, "is no box"),
        ({"bbox": "nan,2,3,4"}, "no box on Earth"),
        ({"bbox": "0,50,1,40"}, "south must not lie north of north"),
        ({"datetime": "2024"}, "give RFC 3339"),
        ({"datetime": ".."}, "give RFC 3339"),
        ({"datetime": "2025-01-01T00:00:00Z/2024-01-01T00:00:00Z"}, "ends before it begins"),
        ({"intersects": "{"}, "no JSON"),
        ({"intersects": '{"type": "Circle"}'}, "none of GeoJSON's"),
        ({"intersects": '{"type": "Point", "coordinates": ["a", 1]}'}, "no pair of degrees"),
        ({"intersects": '{"type": "Point", "coordinates": [1' + "0" * 400 + ", 1]}"}, "no pair of degrees"),
        ({"intersects": '{"type": "Point", "coordinates": [1, NaN]}'}, "no pair of degrees"),
        ({"intersects": '{"type": "Point", "coordinates": [1, 1, Infinity]}'}, "no pair of degrees"),
        ({"intersects": '{"type": "Point", "coordinates": [1, 1]}', "bbox": "0,0,1,1"}, "give one of them"),
    ],
)
def test_a_filter_that_is_none_is_refused_with_what_to_do(
    client: httpx.Client, query: dict[str, str], text: str
) -> None:
    answer = client.get("/stac/search", params=query)
    assert answer.status_code == 400, answer.text
    assert text in answer.json()["detail"]
    body: dict[str, Any] = dict(query)
    if "bbox" in body:
        body["bbox"] = [float(part) for part in body["bbox"].split(",") if part != "nan"]
    if "intersects" in body:
        try:
            body["intersects"] = json.loads(body["intersects"])
        except ValueError:
            body["intersects"] = 1
    content = json.dumps(body)  # with NaN and infinity, which httpx does not send by itself
    assert client.post("/stac/search", content=content).status_code in (400, 422)


def test_only_what_counts_of_a_geometry_is_in_the_next_page(client: httpx.Client, maps: list[str]) -> None:
    ring = [[0, 0], [40, 0], [40, 40], [0, 40], [0, 0]]
    shape = {"type": "Polygon", "coordinates": [ring], "more": float("nan")}
    parts = {"type": "GeometryCollection", "geometries": [shape, {"type": "Point", "coordinates": [0.5, 0.5, 3.5]}]}
    for geometry in (shape, parts):
        content = json.dumps({"limit": 1, "intersects": geometry})
        answer = client.post("/stac/search", content=content)
        assert answer.status_code == 200, answer.text
        (following,) = (link for link in answer.json()["links"] if link["rel"] == "next")
        second = client.post("/stac/search", json=following["body"]).json()
        assert [item["id"] for item in second["features"]] == maps[1:2]


def test_a_shape_finds_a_map_across_the_antimeridian() -> None:
    split = [
        [[[179, 0], [180, 0], [180, 1], [179, 1], [179, 0]]],
        [[[-180, 0], [-179, 0], [-179, 1], [-180, 1], [-180, 0]]],
    ]
    item = {"bbox": [179, 0, -179, 1], "geometry": {"type": "MultiPolygon", "coordinates": split}}
    row = MapRow("m", 1, "routine", {}, item)
    for longitude, is_met in ((179.5, True), (-179.5, True), (10.0, False)):
        point = shape_of({"type": "Point", "coordinates": [longitude, 0.5]})
        assert MapSearch(shape=point).matches(row) is is_met


def test_the_extent_in_time_is_that_of_the_times_and_not_of_their_text() -> None:
    extent = Extent()
    for time in ("2024-01-01T00:30:00+02:00", "2023-12-31T23:00:00Z"):
        extent.add({"properties": {"datetime": time}, "bbox": [170.0, -1.0, -170.0, 1.0]})
    assert extent.as_json() == {
        "spatial": {"bbox": [[-180.0, -1.0, 180.0, 1.0]]},
        "temporal": {"interval": [["2023-12-31T22:30:00Z", "2023-12-31T23:00:00Z"]]},
    }


def test_a_body_of_another_form_is_refused_and_bounded(client: httpx.Client) -> None:
    assert client.post("/stac/search", json={"bbx": [0, 0, 1, 1]}).status_code == 422
    assert client.post("/stac/search", json={"limit": 0}).status_code == 422
    assert client.post("/stac/search", content=b"[" * 70_000).status_code == 413
    missing = client.get("/stac/collections/elsewhere/items")
    assert missing.status_code == 404
    assert "GET /stac/collections lists them" in missing.json()["detail"]


def test_the_listing_of_maps_ends_where_its_maps_end(client: httpx.Client, maps: list[str]) -> None:
    page = client.get("/maps", params={"limit": 4}).json()
    assert [link["rel"] for link in page["links"]] == ["self"]
    first = client.get("/maps", params={"limit": 3}).json()
    (following,) = (link["href"] for link in first["links"] if link["rel"] == "next")
    assert [item["id"] for item in httpx.get(following).json()["features"]] == maps[3:]
    # As people type it: the `+` of the offset is not escaped, and so means a blank in a URL.
    typed = client.get("/maps?datetime=2024-05-01T08:00:00+02:00/2025-01-01T00:00:00+00:00").json()
    assert [item["id"] for item in typed["features"]] == maps[1:3]
    open_end = client.get("/maps", params={"datetime": f"{TIMES[1]}/"}).json()
    assert [item["id"] for item in open_end["features"]] == maps[1:]


def test_scripts_of_named_origins_read_maps_and_nothing_else(client: httpx.Client, maps: list[str]) -> None:
    asset = f"/maps/{maps[0]}/map.tif"
    shown = client.get(asset, headers={"Origin": ORIGIN, "Range": "bytes=0-9"})
    assert shown.headers["access-control-allow-origin"] == ORIGIN
    assert "Content-Range" in shown.headers["access-control-expose-headers"]
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    assert client.options("/stac/search", headers=asked).status_code == 200
    assert client.options(f"/maps/{maps[0]}/receipt", headers=asked).status_code == 400
    assert client.options("/scenes", headers=asked).status_code == 405
    assert "access-control-allow-origin" not in client.get("/scenes", headers={"Origin": ORIGIN}).headers
    for origin in (ORIGIN, "https://elsewhere.org", "null"):
        for path in (f"/maps/{maps[0]}/receipt", "/scenes", "/events/acknowledged"):
            refused = client.post(path, content=b"{}", headers={"Origin": origin, "Content-Type": "text/plain"})
            assert (refused.status_code, refused.json()["type"]) == (403, "urn:onboard:problem:other-origin")
    own = {"Origin": str(client.base_url).rstrip("/")}
    assert client.post(f"/maps/{maps[0]}/receipt", json={"sha256": "0" * 64}, headers=own).status_code == 409
    stranger = client.get("/stac", headers={"Origin": "https://elsewhere.org"})
    assert "access-control-allow-origin" not in stranger.headers


def test_an_origin_that_is_none_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONBOARD_CORS_ORIGINS", "https://a.org/path")
    with pytest.raises(OptionsRefused, match="give origins like"):
        read_settings()
    monkeypatch.setenv("ONBOARD_CORS_ORIGINS", "https://A.org:8443, http://[::1]:80, *")
    assert read_settings().cors_origins == "https://a.org:8443,http://[::1]:80,*"


def test_the_api_follows_the_tokens_rules_and_is_closed_to_other_origins(tmp_path: Path) -> None:
    data = tmp_path / "closed" / "data"
    secret, ingest = token(data, "telemetry"), token(data, "ingest")
    with running(data) as served, served.client() as client:
        for method, path in (
            ("GET", "/stac"), ("GET", "/stac/conformance"), ("GET", "/stac/collections"), ("GET", "/stac/search"),
            ("GET", f"/stac/collections/{LOCATED}"), ("GET", f"/stac/collections/{LOCATED}/items"),
            ("GET", f"/stac/collections/{LOCATED}/items/x"), ("POST", "/stac/search"),
        ):  # fmt: skip
            body: dict[str, Any] = {"json": {}} if method == "POST" else {}
            statuses = [
                client.request(method, path, headers=headers, **body).status_code
                for headers in ({}, {"Authorization": f"Bearer {ingest}"}, {"Authorization": f"Bearer {secret}"})
            ]
            assert statuses[:2] == [401, 403], path
            assert statuses[2] == (404 if path.endswith("/x") else 200), path
        answer = client.get("/stac", headers={"Origin": ORIGIN})
        assert "access-control-allow-origin" not in answer.headers
        pystac_client = pytest.importorskip("pystac_client")
        catalog = pystac_client.Client.open(f"{served.url}/stac", headers={"Authorization": f"Bearer {secret}"})
        assert list(catalog.search().items()) == []


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_map_of_a_time_that_utc_cannot_say_does_not_end_the_collection(time: str) -> None:
    """Such a time is refused today; maps of an earlier version may have one."""
    extent = Extent()
    extent.add({"properties": {"datetime": time}})
    assert extent.as_json()["temporal"]["interval"] == [[time, time]]


def test_a_map_of_an_earlier_version_with_a_short_year_is_listed_by_its_time() -> None:
    """Years before 1000 stood in items without their zeros."""
    item = {"properties": {"datetime": "1-01-01T00:00:00Z"}, "geometry": None}
    extent = Extent()
    extent.add(item)
    assert extent.as_json()["temporal"]["interval"] == [["0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"]]
    row = MapRow("m", 1, "routine", {}, item)
    assert MapSearch(interval=interval_of("../1900-01-01T00:00:00Z")).matches(row)
    assert not MapSearch(interval=interval_of("2024-01-01T00:00:00Z/..")).matches(row)
