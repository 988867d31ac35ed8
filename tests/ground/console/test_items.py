"""Items of maps as the console takes them: what speaks against a map, where it lies, and what else they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ground.catalog import write_catalog
from ground.console.index import MapIndex
from ground.console.items import GUESS_SHARE, TOO_COARSE, MapRecord, record_of
from onboard.mapping import familiarity as aboard
from onboard.scene import resolution as scene_resolution
from tests.ground.console.made import write_made_map


def record(folder: Path, name: str = "m", **properties: Any) -> MapRecord:
    """A made map with further properties of its item; an underscore for the colon of its prefix."""
    made = write_made_map(folder, name)
    item = json.loads((made / "map.json").read_text())
    geometry = properties.pop("geometry", item["geometry"])
    item["properties"] |= {name.replace("onboard_", "onboard:"): value for name, value in properties.items()}
    (made / "map.json").write_text(json.dumps(item | {"geometry": geometry}))
    return record_of(made, made.name)


def known(tiles: int, unfamiliar: int) -> dict[str, Any]:
    """As a service writes it."""
    return aboard.MapFamiliarity(tiles, unfamiliar, 0.001, 0.3, 0.02).as_json()


def test_the_rules_are_those_of_the_service() -> None:
    assert (GUESS_SHARE, TOO_COARSE) == (aboard.GUESS_SHARE, scene_resolution.TOO_COARSE)


@pytest.mark.parametrize(("unfamiliar", "is_guess"), [(0, False), (20, False), (21, True), (100, True)])
def test_a_map_of_unfamiliar_ground_is_a_guess(tmp_path: Path, unfamiliar: int, is_guess: bool) -> None:
    facts = record(tmp_path, onboard_familiarity=known(100, unfamiliar)).facts
    assert bool(facts["doubts"]) == is_guess
    assert not is_guess or f"({unfamiliar} of 100 tiles)" in facts["doubts"][0]
    assert (facts["familiarity"]["tiles_unfamiliar"], facts["familiarity"]["median"]) == (unfamiliar, 0.3)


def test_a_map_of_a_scene_too_coarse_for_the_model_is_a_guess(tmp_path: Path) -> None:
    text = "ground resolution 5 m, the model is made for 1.25 m: enlarged twofold; treat this map as a guess"
    coarse = record(tmp_path, "a", onboard_ground_resolution={"rule": "enlarged_twofold", "text": text}).facts
    assert coarse["doubts"] == [text]
    finer = record(tmp_path, "b", onboard_ground_resolution={"rule": "reduced", "text": "read at 1.25 m"}).facts
    assert (finer["doubts"], finer["resolution"]["text"]) == ([], "read at 1.25 m")


def test_why_nothing_is_known_and_the_models_terms_are_kept(tmp_path: Path) -> None:
    facts = record(
        tmp_path, onboard_familiarity={"unknown": "model tiny 1.0 does not give it"},
        onboard_model={"name": "tiny", "version": "1.0", "terms": "research only"},
    ).facts  # fmt: skip
    assert (facts["doubts"], facts["familiarity"]["unknown"]) == ([], "model tiny 1.0 does not give it")
    assert facts["model"]["terms"] == "research only"


HUGE = "1" + "0" * 400
STRANGE = [HUGE, f"-{HUGE}", "1e999", "NaN", "-Infinity", '"\\ud800"', "[]", "{}", "null", "true", '"x"', "1" * 5000,
           "[" * 900 + "]" * 900]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Each place in a document where a value stands."""
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


def with_value(value: Any, path: tuple[Any, ...], mark: str) -> Any:
    if not path:
        return mark
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_value(value[path[0]], path[1:], mark)
    return copy


def test_nothing_that_an_item_holds_stops_the_console(tmp_path: Path) -> None:
    """Each value of an item in turn is something strange: there is a record, and its facts can be written as JSON."""
    folder = write_made_map(tmp_path, "m")
    item = json.loads((folder / "map.json").read_text())
    item["properties"] |= {
        "onboard:familiarity": known(100, 30), "onboard:energy_j": 1.0,
        "onboard:ground_resolution": {"rule": "reduced", "text": "t", "scene_gsd_m": 1.0},
    }  # fmt: skip
    item["assets"]["map"]["classification:classes"] = item["assets"]["map"]["classification:classes"][:2]
    item["properties"]["onboard:class_cover"] = item["properties"]["onboard:class_cover"][:1]
    for path in places(item):
        text = json.dumps(with_value(item, path, "\0"))
        for strange in STRANGE:
            (folder / "map.json").write_text(text.replace('"\\u0000"', strange))
            found = MapIndex(tmp_path).records()
            assert [row.id for row in found] == ["m"], (path, strange[:20])
            json.dumps([found[0].facts, found[0].bounds, found[0].time_s, found[0].title], allow_nan=False).encode()
            write_catalog(tmp_path)


def test_half_a_character_costs_a_map_neither_its_place_nor_its_legend(tmp_path: Path) -> None:
    found = record(tmp_path, title="Land cover of a\ud800.tif", gsd=float("inf"))
    assert (found.title, found.problem, len(found.classes)) == ("Land cover of a\ufffd.tif", "", 4)
    assert found.rings
    assert found.facts["gsd"] is None
    write_catalog(tmp_path)
    assert '"./m/map.json"' in (tmp_path / "land-cover-unlocated.json").read_text()


def ring(west: float, east: float, south: float = -17.0, north: float = -16.0) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


@pytest.mark.parametrize(
    ("coordinates", "bounds"),
    [
        ([[ring(179.5, 180)], [ring(-180, -179.8)]], (179.5, -17, 180.2, -16)),  # cut as RFC 7946 has it
        ([[ring(-180, -179.8)], [ring(179.5, 180)]], (179.5, -17, 180.2, -16)),
        ([[ring(179.5, -179.8)]], (179.5, -17, 180.2, -16)),
        ([[ring(179.5, 180.2)]], (179.5, -17, 180.2, -16)),
        ([[ring(-10, 20)]], (-10, -17, 20, -16)),
        ([[ring(-180, 180, 80, 90)]], (-180, 80, 180, 90)),  # about a pole
    ],
)
def test_a_footprint_across_the_antimeridian_is_as_wide_as_it_is(
    tmp_path: Path, coordinates: Any, bounds: tuple[float, ...]
) -> None:
    found = record(tmp_path, geometry={"type": "MultiPolygon", "coordinates": coordinates})
    assert found.bounds == pytest.approx(bounds)


def test_maps_on_either_side_of_the_antimeridian_may_be_compared(tmp_path: Path) -> None:
    across = {"type": "MultiPolygon", "coordinates": [[ring(179.5, 180)], [ring(-180, -179.8)]]}
    record(tmp_path, "across", geometry=across)
    record(tmp_path, "east", geometry={"type": "Polygon", "coordinates": [ring(-179.9, -179.7)]})
    record(tmp_path, "far", geometry={"type": "Polygon", "coordinates": [ring(10, 20)]})
    index = MapIndex(tmp_path)
    for name, other in (("across", "east"), ("east", "across")):
        found = index.get(name)
        assert found is not None
        assert [row.id for row in index.overlapping(found)] == [other]
