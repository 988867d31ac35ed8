"""Maps by date and title: names that stay in the station's folder, passes that continue, layouts that change."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import struct
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pystac
import pytest

from ground import cli
from ground.catalog import CATALOG, LOCATED, UNLOCATED, write_catalog
from ground.console.index import MapIndex
from ground.errors import AskedWrong
from ground.export.maps import find_maps
from ground.folders import INCOMING, LAYOUT_FILE, MapFolders, held_maps, set_layout
from ground.item_table import SUFFIX
from ground.layout import EXAMPLE, Layout, safe_title
from ground.link import Link
from ground.passes import pass_going_on
from ground.station import Station
from tests.ground.conftest import FEW
from tests.ground.made_maps import PLACES, make_maps
from tests.ground.test_pull import digests, received
from tests.onboard.service import Served

DATE = datetime(2026, 3, 9, 23, 59, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_maps(tmp_path_factory.mktemp("layout") / "made")


@pytest.fixture
def station(made: Path, tmp_path: Path) -> Path:
    """Maps as an earlier version of `ground pull` left them: receipts without the map's name, one not given yet."""
    shutil.copytree(made, tmp_path / "station")
    for name in set(PLACES) - {"points"}:
        (tmp_path / "station" / name / "receipt.json").write_text('{"sha256": "0", "answer": {}}', "utf-8")
    return tmp_path / "station"


def held(root: Path) -> dict[str, str]:
    return {row["map"]: row.get("folder", row["map"]) for row in held_maps(root)}


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("{id}", "s1-ab"),
        (EXAMPLE, "2026/03/dubai-s1-ab"),
        ("{title}/{date}/{id}", "dubai/2026-03-09/s1-ab"),
        ("maps/{date:%G-W}{date:%V}/{id}", "maps/2026-W11/s1-ab"),
        ("{date:%Y%j}/{date:%H%M%S}_{title}", "2026068/235900_dubai"),
    ],
)
def test_a_pattern_gives_a_map_its_folder(pattern: str, place: str) -> None:
    layout = Layout(pattern)
    assert "/".join(layout.place("s1-ab", "Land cover of dubai.tif", DATE)) == place
    assert layout.depth == place.count("/") + 1
    undated = layout.place("s1-ab", "Land cover of dubai.tif", None)
    assert len(undated) == layout.depth
    assert "2026" not in "".join(undated)


@pytest.mark.parametrize(
    "pattern",
    [
        "", "/{id}", "{id}/", "a//{id}", "../{id}", "./{id}", ".{id}", "{date:%Y/../%m}/{id}", "{date:/%Y}/{id}",
        "{date:%Y}", "{id}/{date:%Y}", "{id}/x", "{date:%c}/{id}", "{scene}/{id}", "{id!r}", "{id:>9}", "{", "{}",
        "{id", "a\n{id}", "{title:%Y}", "{id}{title}{id}", "x" * 121 + "{id}", "{date:{id}}/{id}", "{id.__class__}",
    ],
)  # fmt: skip
def test_a_pattern_that_cannot_be_is_refused(pattern: str) -> None:
    with pytest.raises(AskedWrong, match="is no layout"):
        Layout(pattern)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Land cover of dubai.tif", "dubai"), ("Land cover of ../../etc/passwd", "etc-passwd"), ("", "untitled"),
        ("Land cover of ...", "untitled"), ("a/b\\c\0d\ne", "a-b-c-d-e"), ("catalog.json", "catalog-json"),
        ("\u062f\u0628\u064a 2026.TIFF", "\u062f\u0628\u064a-2026"), ("-rf", "rf"), ("\ud800x", "x"),
        ("Land cover of " + "\u00e9" * 200, "\u00e9" * 40),
    ],
)  # fmt: skip
def test_a_title_becomes_a_plain_name(title: str, name: str) -> None:
    assert safe_title(title) == name


def test_passes_fill_a_layout_and_know_what_is_here(holding: Served, archive: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    whole = sum(path.stat().st_size for path in archive.glob("*/*"))
    options = ["--dest", str(dest), "--quiet"]
    assert cli.main(["pull", holding.url, *options, "--layout", EXAMPLE, "--bytes", str(whole // 3)]) == 3
    placed = [name for name, folder in held(dest).items() if not folder.startswith(INCOMING)]
    assert 0 < len(placed) == received(holding) < FEW
    assert not list((dest / INCOMING).glob("*/map.tif"))
    growing = next(path for path in archive.iterdir() if path.name not in placed) / "map.tif"
    digest = hashlib.sha256(growing.read_bytes()).hexdigest()
    part = dest / INCOMING / growing.parent.name / f"map.tif.{digest[:16]}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(growing.read_bytes()[:1000])  # the link broke here
    here = sum(path.stat().st_size for path in (dest / INCOMING).glob("*/*"))
    missing = sum(path.stat().st_size for path in archive.glob("*/*") if path.parent.name not in placed)
    with Link(holding.url) as link:
        rest = Station(link, dest).pull()  # keeps the layout that the folder has
    assert (rest.received_bytes, rest.repeated_bytes) == (missing - here, 0)
    year = next(iter(dest.glob("2*"))).name
    assert set(digests(dest, f"{year}/*/*/map.tif").values()) == set(digests(archive).values())
    assert len(held(dest)) == received(holding) == FEW
    for name, folder in held(dest).items():
        assert folder.startswith(f"{year}/"), folder
        assert folder.endswith(f"-{name}"), folder
    with Link(holding.url) as link:
        again = Station(link, dest).pull()
    assert (again.files, again.received_bytes, again.receipts) == (0, 0, [])
    items = list(pystac.Catalog.from_file(str(dest / CATALOG)).get_items(recursive=True))
    assert len(items) == FEW
    assert all(Path(str(item.assets["map"].get_absolute_href())).is_file() for item in items)


def test_receipts_that_were_lost_aboard_are_given_again(holding: Served, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    assert cli.main(["pull", holding.url, "--dest", str(dest), "--quiet", "--layout", "{title}/{id}"]) == 0
    with holding.ledger() as ledger, ledger._database.writing():
        ledger._database.change("UPDATE maps SET delivered = NULL")
    with Link(holding.url) as link:
        report = Station(link, dest).pull()
    assert len(report.receipts) == received(holding) == FEW
    assert report.received_bytes == 0


def test_maps_are_moved_to_another_layout_and_back(station: Path) -> None:
    (station / "notes").mkdir()
    before = {path.name: path.read_bytes() for path in (station / "grid").iterdir() if path.name != "receipt.json"}
    assert set_layout(station, Layout(EXAMPLE)) == len(PLACES)
    places = held(station)
    assert places.pop("points") == f"{INCOMING}/points"  # it has no receipt yet
    assert all(folder.split("/")[-1] == f"{name}-{name}" for name, folder in places.items())
    moved = station / places["grid"]
    assert {path.name: path.read_bytes() for path in moved.iterdir() if path.name != "receipt.json"} == before
    assert {exported.name for exported in find_maps([station])} == set(PLACES)
    assert [exported.name for exported in find_maps([moved])] == ["grid"]
    assert set_layout(station, Layout()) == len(PLACES)
    assert held(station) == {name: name for name in (*PLACES, "notes")}
    assert sorted(path.name for path in station.iterdir()) == sorted([*PLACES, "notes", LAYOUT_FILE, INCOMING])


def test_maps_of_one_name_lie_beside_each_other(station: Path) -> None:
    for name in PLACES:
        item = json.loads((station / name / "map.json").read_text("utf-8"))
        item["properties"] |= {"title": "Land cover of same.tif", "datetime": "2026-01-31T23:30:00-01:00"}
        (station / name / "map.json").write_text(json.dumps(item), "utf-8")
    set_layout(station, Layout("{date:%Y-%m}/{title}"))
    del (places := held(station))["points"]
    assert sorted(places.values()) == ["2026-02/same", "2026-02/same-2", "2026-02/same-3"]
    write_catalog(station)
    assert len(list(pystac.Catalog.from_file(str(station / CATALOG)).get_items(recursive=True))) == len(PLACES)


@pytest.mark.parametrize("renames", range(7))
def test_a_move_that_breaks_off_is_continued(station: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    rename, done = Path.rename, 0

    def breaking(self: Path, target: Path) -> Path:
        nonlocal done
        if done == renames:
            raise OSError(errno.EIO, "the disk went")
        done += 1
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", breaking)
        with pytest.raises(OSError, match="the disk went"):
            set_layout(station, Layout(EXAMPLE))
    assert set(held(station)) == set(PLACES)
    set_layout(station, Layout(EXAMPLE))
    left = MapFolders(station)
    for name in left.incoming():
        left.settle(name)
    assert [name for name, folder in held(station).items() if folder.startswith(INCOMING)] == ["points"]


def test_no_map_leaves_the_folder_by_a_link(station: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (station / "grid").rename(tmp_path / "grid")
    shutil.rmtree(station)
    station.mkdir()
    (station / LAYOUT_FILE).write_text('{"layout": "x/{title}"}', "utf-8")
    (station / "x").symlink_to(tmp_path / "elsewhere")
    (station / INCOMING).mkdir()
    (tmp_path / "grid").rename(station / INCOMING / "grid")
    with pytest.raises(OSError, match="leads out"):
        MapFolders(station).settle("grid")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert held(station) == {"grid": f"{INCOMING}/grid"}


def test_a_layout_is_not_changed_under_a_pass_nor_when_it_cannot_be_read(
    station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pass_going_on(station), pytest.raises(AskedWrong, match="a pass is going on"):
        set_layout(station, Layout(EXAMPLE))
    assert set(held(station)) == set(PLACES)
    (station / LAYOUT_FILE).write_text("{", "utf-8")
    assert cli.main(["ls", "--dest", str(station)]) == 2
    assert cli.main(["pull", "http://127.0.0.1:9", "--dest", str(station), "--layout", "{scene}"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert LAYOUT_FILE in first
    assert "'{scene}' is no layout" in second


def test_the_console_finds_maps_in_any_layout(station: Path) -> None:
    clock = iter(range(0, 100, 10)).__next__
    index = MapIndex(station, clock=clock)
    assert {record.id for record in index.records()} == set(PLACES)
    set_layout(station, Layout(EXAMPLE))
    records = {record.id: record for record in index.records()}
    assert set(records) == set(PLACES)
    path = index.path(records["grid"], "map.tif")
    assert path is not None
    assert path.is_file()
    assert (records["grid"].acknowledged, records["points"].acknowledged) == (True, False)


def geometry(wkb: bytes) -> tuple[int, list[tuple[float, float]]]:
    """Kind and the first ring of well-known binary."""
    order, kind = struct.unpack_from("<BI", wkb)
    assert order == 1
    start = 9 if kind == 3 else 18
    (count,) = struct.unpack_from("<I", wkb, start)
    return kind, [struct.unpack_from("<dd", wkb, start + 4 + 16 * at) for at in range(count)]


def test_items_come_as_geoparquet_and_those_without_a_place_apart(station: Path) -> None:
    set_layout(station, Layout(EXAMPLE))
    write_catalog(station)
    table = pq.read_table(station / f"{LOCATED}{SUFFIX}")
    geo = json.loads(table.schema.metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert (geo["version"], column["encoding"]) == ("1.1.0", "WKB")
    assert set(column["geometry_types"]) == {"Polygon", "MultiPolygon"}
    rows = {row["id"]: row for row in table.to_pylist()}
    assert set(rows) == set(PLACES) - {"nowhere"}
    for name, row in rows.items():
        item = json.loads((station / row["links"][0]["href"]).read_text("utf-8"))
        assert item["id"] == name
        kind, ring = geometry(row["geometry"])
        polygons = item["geometry"]["coordinates"]
        assert ring == [tuple(point) for point in (polygons[0] if kind == 3 else polygons[0][0])]
        assert row["datetime"].isoformat().replace("+00:00", "Z") == item["properties"]["datetime"]
        assert row["onboard:class_cover"] == item["properties"]["onboard:class_cover"]
        assert (station / row["assets"]["map"]["href"]).is_file()
        west, south, east, north = item["bbox"]
        planar = (-180, 180) if west > east else (west, east)
        assert row["bbox"] == {"xmin": planar[0], "ymin": south, "xmax": planar[1], "ymax": north}
    assert column["bbox"][0::2] == [-180, 180]
    apart = pq.read_table(station / f"{UNLOCATED}{SUFFIX}")
    assert "geometry" not in apart.column_names
    assert [row["id"] for row in apart.to_pylist()] == ["nowhere"]


def test_geopandas_reads_the_table(station: Path) -> None:
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed")
    write_catalog(station)
    frame = geopandas.read_parquet(station / f"{LOCATED}{SUFFIX}")
    assert frame.crs.to_authority() == ("OGC", "CRS84")
    assert frame.geometry.is_valid.all()
    assert set(geopandas.read_parquet(station / f"{LOCATED}{SUFFIX}", bbox=(9, 44, 11, 46)).id) == {"points"}


def test_a_table_stays_where_nothing_changed_and_goes_with_pyarrow(
    station: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_catalog(station)
    path = station / f"{LOCATED}{SUFFIX}"
    before = path.stat().st_mtime_ns
    write_catalog(station)
    assert path.stat().st_mtime_ns == before
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    write_catalog(station)
    assert not path.exists()
    assert (station / CATALOG).exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda item: item["geometry"].update(coordinates=[[[1e9, 0], [1, 1], [0, 1], [1e9, 0]]]),
        lambda item: item["geometry"].update(type="Point", coordinates=[1, 2]),
        lambda item: item["geometry"].update(coordinates=[]),
        lambda item: item["geometry"].update(coordinates=[[["x", 0]]]),
        lambda item: item["geometry"].update(coordinates=7),
    ],
)
def test_an_item_whose_outline_is_none_is_no_row(station: Path, change: Any) -> None:
    path = station / "grid" / "map.json"
    item = json.loads(path.read_text("utf-8"))
    change(item)
    path.write_text(json.dumps(item), "utf-8")
    write_catalog(station)
    rows = pq.read_table(station / f"{LOCATED}{SUFFIX}").to_pylist()
    assert {row["id"] for row in rows} == {"points", "antimeridian"}


def test_odd_values_of_an_item_are_no_failure(station: Path) -> None:
    path = station / "grid" / "map.json"
    item = json.loads(path.read_text("utf-8"))
    item["properties"] |= {
        "gsd": True, "proj:code": ["x"], "proj:shape": ["a", 2**70], "created": "then", "onboard:class_cover": [5],
        "onboard:model": "m", "onboard:familiarity": [], "onboard:energy_j": 10**400,
    }  # fmt: skip
    item |= {"links": "no", "stac_extensions": [1], "id": 7}
    item["assets"] = {"map": 5, "quicklook": {"href": 7, "roles": [7], "file:size": "x"}}
    path.write_text(json.dumps(item), "utf-8")
    write_catalog(station)
    rows = pq.read_table(station / f"{LOCATED}{SUFFIX}").to_pylist()
    assert {row["id"] for row in rows} == {None, "points", "antimeridian"}


def test_a_folder_of_a_user_is_left_where_it_is(station: Path) -> None:
    (station / "notes").mkdir()
    (station / "notes" / "read.me").write_text("mine", "utf-8")
    set_layout(station, Layout(EXAMPLE))
    assert (station / "notes" / "read.me").is_file()
    assert "notes" not in held(station)


def test_own_names_of_the_station_are_refused_in_a_plan() -> None:
    from ground.answers import PlannedFile

    for name in (CATALOG, LAYOUT_FILE, "passes.jsonl", f"{LOCATED}{SUFFIX}"):
        with pytest.raises(ValueError, match="ground's own files"):
            PlannedFile(map=name, asset="map.tif", sha256="0" * 64, bytes=1, length=1)
