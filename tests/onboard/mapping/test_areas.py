"""Areas of interest on maps of every kind of georeferencing, and areas that are none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio import Affine
from rasterio.crs import CRS

from engines.testing import IdentityEngine, manifest_for_testing
from onboard.errors import OptionsRefused
from onboard.mapping import areas as measuring
from onboard.mapping.areas import MapGround, measure_areas, most_urgent
from onboard.mapping.canvas import Layer
from onboard.mapping.run import MapRequest, map_scene
from onboard.scene.area_pixels import polygon_area_m2
from onboard.scene.areas import MOST_AREAS, MOST_BYTES, Area, areas_of
from onboard.scene.georeference import Georeference
from onboard.scene.grid import Window
from onboard.scene.reader import SceneOptions
from tests.onboard.mapping.test_product import GCPS, HEIGHT, RPCS, WIDTH
from tests.onboard.mapping.test_quicklook import write_scene

EARTH = CRS.from_epsg(4326)
PLACES = {
    "UTM": Georeference(CRS.from_epsg(32640), Affine(2, 0, 5e5, 0, -2, 2.8e6)),
    "rotated": Georeference(CRS.from_epsg(32640), Affine(1.5, 1, 5e5, 1, -1.5, 2.8e6)),
    "GCPs": Georeference(gcps=tuple(GCPS), gcp_crs=EARTH),
    "RPCs": Georeference(rpcs=RPCS),
    "degrees": Georeference(EARTH, Affine(1e-4, 0, 55, 0, -1e-4, 25)),
    "across the antimeridian": Georeference(EARTH, Affine(1e-4, 0, 179.97, 0, -1e-4, 10)),
    "across it, from the other side": Georeference(EARTH, Affine(1e-4, 0, -180.03, 0, -1e-4, 10)),
    "across it in UTM": Georeference(CRS.from_epsg(32601), Affine(20, 0, 159_000, 0, -20, 1e6)),
}
CLASSES = tuple(manifest_for_testing().classes)
TITLES = [item.title for item in CLASSES]


def ground_of(folder: Path, georeference: Georeference, width: int = WIDTH, height: int = HEIGHT) -> MapGround:
    """The left half is class 1, the right half class 2, the first twelfth of the rows holds no data."""
    codes = np.ones((height, width), np.uint8)
    codes[:, width // 2 :] = 2
    codes[: height // 12] = 0
    layer = Layer(folder / "classes.raw", width=width, height=height)
    layer.write_rows(0, codes)
    return MapGround(layer, georeference, CLASSES, np.bincount(codes.ravel(), minlength=len(CLASSES) + 1).tolist())


def area(geometry: Any, **facts: Any) -> tuple[Area, ...]:
    return tuple(areas_of(collection(feature(geometry, **facts)), "areas").features)


def feature(geometry: Any, **facts: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"name": "harbour", **facts}}


def collection(*features: Any) -> bytes:
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def box(west: float, south: float, east: float, north: float, turn: float = 0) -> dict[str, Any]:
    west, east = west + turn, east + turn
    return {
        "type": "Polygon", "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]]
    }  # fmt: skip


def extent(georeference: Georeference) -> tuple[float, float, float, float]:
    longitudes, latitudes = georeference.places_in(Window(col=0, row=0, width=WIDTH, height=HEIGHT), 8)
    unwrapped = np.unwrap(np.unwrap(longitudes, axis=1, period=360), axis=0, period=360)
    return unwrapped.min(), latitudes.min(), unwrapped.max(), latitudes.max()


@pytest.mark.parametrize("place", PLACES)
def test_the_footprint_of_a_map_is_covered_but_for_what_holds_no_data(tmp_path: Path, place: str) -> None:
    georeference = PLACES[place]
    (row,) = measure_areas(area(georeference.footprint(WIDTH, HEIGHT)), ground_of(tmp_path, georeference))
    assert row["covered"] == pytest.approx(11 / 12, abs=2e-3)
    assert row["shares"] == pytest.approx(dict(zip(TITLES, (0.5, 0.5, 0, 0, 0), strict=True)), abs=2e-3)


@pytest.mark.parametrize("place", [place for place in PLACES if place != "rotated"])
def test_an_area_in_the_middle_counts_whatever_turn_its_longitudes_are_on(tmp_path: Path, place: str) -> None:
    ground = ground_of(tmp_path, PLACES[place])
    west, south, east, north = extent(PLACES[place])
    across, up = (east - west) / 4, (north - south) / 4
    turns = [turn for turn in (-360, 0, 360) if abs(west + turn) <= 360 and abs(east + turn) <= 360]
    assert len(turns) >= 2
    for turn in turns:
        middle = box(west + across, south + up, east - across, north - up, turn)
        (row,) = measure_areas(area(middle, classes=["CLASS 1"]), ground)
        assert row["covered"] == pytest.approx(1, abs=3e-3)
        assert row["shares"] == {TITLES[0]: pytest.approx(0.5, abs=3e-3)}


@pytest.mark.parametrize("place", [place for place in PLACES if place != "rotated"])
def test_an_area_that_lies_partly_outside_counts_by_its_covered_share(tmp_path: Path, place: str) -> None:
    west, south, east, north = extent(PLACES[place])
    beside = box(west - (east - west), south, (west + east) / 2, north)
    (row,) = measure_areas(area(beside), ground_of(tmp_path, PLACES[place]))
    assert row["covered"] == pytest.approx(1 / 3 * 11 / 12, abs=0.01)
    assert row["shares"][TITLES[0]] == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("place", PLACES)
def test_areas_elsewhere_and_maps_without_a_place_say_nothing(tmp_path: Path, place: str) -> None:
    west, south, east, north = extent(PLACES[place])
    ground = ground_of(tmp_path, PLACES[place])
    far = [box(west - 30, south, east - 30, north), box(west, south - 20, east, north - 20), box(-50, -40, 60, -39)]
    assert measure_areas([found for geometry in far for found in area(geometry)], ground) == []
    nowhere = MapGround(ground.layer, Georeference(), CLASSES, ground.pixels)
    assert measure_areas(area(box(west, south, east, north)), nowhere) == []


def test_a_hole_and_a_second_part_of_an_area_count(tmp_path: Path) -> None:
    ground = ground_of(tmp_path, PLACES["degrees"])
    west, south, east, north = extent(PLACES["degrees"])
    outer, middle = box(west, south, east, north)["coordinates"][0], (west + east) / 2
    hole = box(west, south, middle, north)["coordinates"][0]
    (row,) = measure_areas(area({"type": "Polygon", "coordinates": [outer, hole]}), ground)
    assert row["shares"][TITLES[1]] == pytest.approx(1, abs=3e-3)
    assert row["covered"] == pytest.approx(11 / 12, abs=3e-3)
    parts = [
        [box(west, south, west + 0.01, north)["coordinates"][0]],
        [box(0, 0, 0.01, north - south)["coordinates"][0]],
    ]
    (row,) = measure_areas(area({"type": "MultiPolygon", "coordinates": parts}), ground)
    assert row["covered"] == pytest.approx(0.43, abs=0.03)  # the other part, nearer to the equator, is larger


def test_an_area_without_a_geometry_is_the_map(tmp_path: Path) -> None:
    ground = ground_of(tmp_path, Georeference())
    (row,) = measure_areas(area(None, classes=["class 2"], priority="high", priority_percent=40), ground)
    assert row == {
        "name": "harbour", "key": row["key"], "covered": pytest.approx(11 / 12, abs=1e-3), "shares": {TITLES[1]: 0.5},
        "priority": "high",
    }  # fmt: skip
    (row,) = measure_areas(area(None, classes=["class 2"], priority="high", priority_percent=60), ground)
    assert "priority" not in row
    assert most_urgent("routine", None, "high") == "high"
    assert most_urgent(None, "?") == "routine"


def test_a_large_area_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = ground_of(tmp_path, PLACES["UTM"])
    geometry = PLACES["UTM"].footprint(WIDTH, HEIGHT)
    (whole,) = measure_areas(area(geometry), ground)
    monkeypatch.setattr(measuring, "MOST_SAMPLES", 5000)
    (sampled,) = measure_areas(area(geometry), ground)
    assert sampled["shares"] == pytest.approx(whole["shares"], abs=0.02)
    assert sampled["covered"] == pytest.approx(whole["covered"], abs=0.02)


@pytest.mark.parametrize(("south", "north"), [(0, 1), (60, 61), (-81, -80), (89, 90)])
def test_areas_of_degrees_are_those_of_the_ellipsoid(south: float, north: float) -> None:
    from onboard.scene.ellipsoid import area_m2

    longitudes, latitudes = np.meshgrid(np.linspace(10, 12, 65), np.linspace(south, north, 65))
    polygon = [[(10.0, south), (12.0, south), (12.0, north), (10.0, north), (10.0, south)]]
    assert polygon_area_m2(polygon) == pytest.approx(area_m2(longitudes, latitudes), rel=1e-4)


def test_the_item_says_what_the_map_shows(tmp_path: Path) -> None:
    place = {"crs": "EPSG:32640", "transform": Affine(2, 0, 5e5, 0, -2, 2.8e6)}
    scene = write_scene(tmp_path / "scene.tif", **place)
    georeference = Georeference(CRS.from_epsg(32640), place["transform"])
    here = area(georeference.footprint(600, 500), classes=["class 1"])
    request = MapRequest(scene, tmp_path / "out", halo=8, scene_options=SceneOptions(collar=False), areas=here)
    summary = map_scene(request, IdentityEngine(tile_size=256))
    (row,) = json.loads(summary.item_path.read_text("utf-8"))["properties"]["onboard:areas"]
    assert row == {
        "name": "harbour", "key": here[0].key, "covered": pytest.approx(1, abs=2e-3),
        "shares": {TITLES[0]: pytest.approx(1, abs=5e-3)},
    }  # fmt: skip


RING = box(0, 0, 1, 1)["coordinates"][0]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"{", "Invalid JSON"),
        (b"{}", "Field required"),
        (b"x" * (MOST_BYTES + 1), "bytes"),
        (collection(*[feature(box(0, 0, 1, 1)) for _ in range(2)]), "two areas are called"),
        (collection(*[feature(None, name=f"a{at}") for at in range(MOST_AREAS + 1)]), "at most 100"),
        (collection(feature({"type": "Point", "coordinates": [1, 2]})), "'Polygon' or 'MultiPolygon'"),
        (collection(feature({"type": "Polygon", "coordinates": []})), "no rings"),
        (collection(feature({"type": "Polygon", "coordinates": [RING[:-1]]})), "does not end where it begins"),
        (collection(feature({"type": "Polygon", "coordinates": [RING[:3]]})), "fewer than 4"),
        (collection(feature({"type": "Polygon", "coordinates": [[[500, 0], *RING[1:-1], [500, 0]]]})), "in degrees"),
        (collection(feature({"type": "Polygon", "coordinates": [[["0", 0], *RING[1:]]]})), "in degrees"),
        (collection(feature(box(-180, -80, 180, 80))), "more than 180 degrees"),
        (collection(feature({"type": "Polygon", "coordinates": [RING[:1] * 1001]})), "1,001 positions"),
        (collection(feature(box(0, 0, 1, 1), name="../x")), "pattern"),
        (collection(feature(box(0, 0, 1, 1), alert_points=0)), "greater than 0"),
        (collection(feature(box(0, 0, 1, 1), priority="soon")), "'urgent', 'high' or 'routine'"),
        (collection(feature(None, alert_points=5)), "needs a geometry"),
    ],
)
def test_areas_that_are_none_are_refused_in_words(data: bytes, problem: str) -> None:
    with pytest.raises(OptionsRefused, match=r"areas\.md|simplify") as refused:
        areas_of(data, "areas.geojson")
    assert problem in str(refused.value), refused.value


def test_classes_are_those_of_the_model() -> None:
    areas = areas_of(collection(feature(None, classes=["Class 1", "watr"])), "areas")
    with pytest.raises(OptionsRefused, match="'watr', which is no class of the model; its classes are class 1"):
        areas.check_classes({item.name: item.title for item in CLASSES})


HEADS = {"landcover": {"water": "Water"}, "deepglobe": {"forest": "Forest", "urban": "Urban land"}}


@pytest.mark.parametrize(
    ("facts", "heads", "problem"),
    [
        ({"head": "deepglobe", "classes": ["FOREST"]}, HEADS, None),
        ({"head": "roads"}, HEADS, "the head 'roads', which the model lacks; its heads are landcover, deepglobe"),
        ({"head": "deepglobe"}, {}, "which the model lacks; it has no heads: leave `head` out"),
        (
            {"classes": ["forest"]}, HEADS,
            "no class of the model; its classes are Water; for those of another head give `head`: deepglobe",
        ),
        ({"classes": ["urban LAND"]}, HEADS, "give `head`: deepglobe"),
        ({"head": "deepglobe", "classes": ["Water"]}, HEADS, "no class of the head deepglobe; its classes are Forest"),
    ],
)  # fmt: skip
def test_heads_and_their_classes_are_those_of_the_model(
    facts: dict[str, Any], heads: dict[str, dict[str, str]], problem: str | None
) -> None:
    areas = areas_of(collection(feature(None, **facts)), "areas")
    if problem is None:
        areas.check_classes(HEADS["landcover"], heads)
        return
    with pytest.raises(OptionsRefused) as refused:
        areas.check_classes(HEADS["landcover"], heads)
    assert problem in str(refused.value)


def test_another_head_begins_an_area_anew() -> None:
    def key(**facts: Any) -> str:
        return areas_of(collection(feature(box(0, 0, 1, 1), **facts)), "areas").features[0].key

    assert len({key(), key(head="a"), key(head="b")}) == 3
    # As it was before areas had heads: what is remembered of them counts.
    assert key(name="harbour") == "21676165af48278829bca68c13285c8d"


def test_the_file_of_the_page_is_taken() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "areas.md").read_text("utf-8")
    blocks = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    areas = areas_of(blocks[0].encode(), "docs/areas.md")
    assert [area.properties.name for area in areas.features] == ["harbour", "towns"]
    assert set(json.loads(blocks[1])) == {"name", "covered", "shares", "priority", "change", "against", "alerts"}
