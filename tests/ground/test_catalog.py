"""The static STAC catalogue of a station's folder, opened by pystac."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pystac
import pytest
from pystac.validation import validate_dict
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from ground import catalog
from ground.catalog import CATALOG, LOCATED, UNLOCATED, write_catalog
from ground.link import Link, Window
from ground.station import Station
from onboard.api import map_search, stac_documents
from tests.ground.conftest import FEW
from tests.ground.liar import Liar, lying, respond
from tests.ground.made_maps import PLACES, make_maps
from tests.onboard.mapping.conftest import stac_validator
from tests.onboard.service import Served

__all__ = ["stac_validator"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_maps(tmp_path_factory.mktemp("catalog") / "made")


@pytest.fixture
def station(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "station")
    return tmp_path / "station"


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying({}) as liar:
        yield liar


def ids(folder: Path) -> dict[str, list[str]]:
    """Ids of the items by their collections, as pystac reads them."""
    root = pystac.Catalog.from_file(str(folder / CATALOG))
    return {child.id: sorted(item.id for item in child.get_items()) for child in root.get_children()}


def test_a_pass_leaves_a_catalogue_that_pystac_opens(holding: Served, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    with Link(holding.url) as link:
        Station(link, dest).pull()
    items = list(pystac.Catalog.from_file(str(dest / CATALOG)).get_items(recursive=True))
    assert len(items) == FEW
    for item in items:
        asset = item.assets["map"].get_absolute_href()
        assert asset is not None
        assert Path(asset).is_file()
        parent = item.get_parent()
        assert parent is not None
        assert parent.id == LOCATED
    written = {path.name: path.stat().st_mtime_ns for path in dest.glob("*.json")}
    with Link(holding.url) as link:
        Station(link, dest).pull()
    assert {path.name: path.stat().st_mtime_ns for path in dest.glob("*.json")} == written
    assert set(written) == {CATALOG, f"{LOCATED}.json", f"{UNLOCATED}.json"}


def test_a_pass_that_brings_only_some_maps_links_to_those(holding: Served, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    window = 0
    while not list(dest.glob("*/map.tif")):
        window += 60_000

        with Link(holding.url, window=Window(bytes=window)) as link:
            Station(link, dest).pull()
    here = sorted(path.parent.name for path in dest.glob("*/map.tif") if path.with_name("map.json").exists())
    assert 0 < len(here) < FEW
    assert len(ids(dest)[LOCATED]) == len(here)


def test_collections_and_catalogue_meet_the_schemas(station: Path, stac_validator: JsonSchemaSTACValidator) -> None:
    write_catalog(station)
    kinds = {CATALOG: pystac.STACObjectType.CATALOG} | {
        f"{name}.json": pystac.STACObjectType.COLLECTION for name in (LOCATED, UNLOCATED)
    }
    for name, kind in kinds.items():
        document = json.loads((station / name).read_text("utf-8"))
        validate_dict(document, stac_object_type=kind, stac_version="1.1.0", extensions=[], validator=stac_validator)


def test_a_map_without_a_place_is_in_the_other_collection(station: Path) -> None:
    write_catalog(station)
    assert ids(station) == {LOCATED: sorted(set(PLACES) - {"nowhere"}), UNLOCATED: ["nowhere"]}
    located, unlocated = (json.loads((station / f"{name}.json").read_text("utf-8")) for name in (LOCATED, UNLOCATED))
    box = located["extent"]["spatial"]["bbox"][0]
    assert box[0::2] == [-180, 180]  # one of them crosses the antimeridian
    assert box[1] == pytest.approx(10 - 0.056, abs=1e-3)
    assert box[3] == pytest.approx(45, abs=1e-3)
    assert unlocated["extent"]["spatial"]["bbox"] == [[-180, -90, 180, 90]]


@pytest.mark.parametrize(
    "change",
    [
        lambda item: item["properties"].pop("datetime"),
        lambda item: item["properties"].update(datetime="yesterday"),
        lambda item: item["properties"].update(title=5),
        lambda item: item.update(bbox=[1, 2, 3]),
        lambda item: item.update(bbox=[1, 2, 3, 1e9]),
        lambda item: item.clear(),
    ],
)
def test_an_item_that_is_none_is_left_out(station: Path, change: Any) -> None:
    path = station / "grid" / "map.json"
    item = json.loads(path.read_text("utf-8"))
    change(item)
    path.write_text(json.dumps(item), "utf-8")
    (station / "points" / "map.json").write_bytes(b"\xff{")
    write_catalog(station)
    assert ids(station) == {LOCATED: ["antimeridian"], UNLOCATED: ["nowhere"]}


def test_a_folder_that_never_held_a_map_gets_no_catalogue(tmp_path: Path) -> None:
    write_catalog(tmp_path)
    write_catalog(tmp_path / "not there")
    assert list(tmp_path.iterdir()) == []


def test_maps_that_went_leave_the_catalogue(station: Path) -> None:
    write_catalog(station)
    for name in PLACES:
        shutil.rmtree(station / name)
    write_catalog(station)
    assert ids(station) == {LOCATED: [], UNLOCATED: []}


def test_a_catalogue_that_cannot_be_written_fails_no_pass(holding: Served, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    lines: list[str] = []
    (dest / CATALOG).mkdir(parents=True)
    with Link(holding.url) as link:
        report = Station(link, dest, lines.append).pull()
    assert (len(report.maps), report.left) == (FEW, 0)
    assert [line for line in lines if "the catalogue is not written" in line]


@pytest.mark.parametrize("name", [CATALOG, f"{LOCATED}.json", f"{UNLOCATED}.json.new"])
def test_no_map_takes_a_name_of_the_catalogue(liar: Liar, tmp_path: Path, name: str) -> None:
    row = {"map": name, "asset": "map.tif", "sha256": "0" * 64, "bytes": 4, "length": 4, "reason": ""}
    liar.answers["GET /downlink/plan"] = respond({"items": [row], "left_out": 0})
    with (
        Link(liar.url, sleep=lambda _: None) as link,
        pytest.raises(Exception, match="map has a name of the ground's own"),
    ):
        Station(link, tmp_path / "dest").pull()
    assert not list((tmp_path / "dest").glob("*"))


def test_the_collections_are_those_of_the_service() -> None:
    assert (LOCATED, UNLOCATED) == (map_search.LOCATED, map_search.UNLOCATED)
    assert catalog.COLLECTIONS == stac_documents.COLLECTIONS
