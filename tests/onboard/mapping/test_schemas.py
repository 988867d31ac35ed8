"""The schemas refuse what they should: without that, a test that validates our items proves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pystac
import pytest

Item = dict[str, Any]
Validate = Callable[[Item], None]
Break = Callable[[Item], Any]

_EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]


def _item() -> Item:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": "scene",
        "geometry": {"type": "Polygon", "coordinates": [[[55, 25], [56, 25], [56, 26], [55, 26], [55, 25]]]},
        "bbox": [55, 25, 56, 26],
        "properties": {
            "datetime": "2024-05-01T06:00:00Z",
            "processing:level": "L3",
            "processing:datetime": "2024-05-01T07:00:00Z",
            "processing:software": {"onboard": "0.1.0"},
            "proj:code": "EPSG:32640",
            "proj:shape": [200, 300],
            "proj:transform": [0.3, 0, 500000, 0, -0.3, 2780000, 0, 0, 1],
        },
        "links": [{"rel": "derived_from", "href": "scene.tif", "file:checksum": "1220" + "ab" * 32}],
        "assets": {
            "map": {
                "href": "./map.tif",
                "roles": ["data"],
                "file:size": 1024,
                "file:checksum": "1220" + "cd" * 32,
                "bands": [{"name": "class", "data_type": "uint8", "nodata": 0, "raster:sampling": "area"}],
                "classification:classes": [
                    {"value": 0, "name": "no_data", "title": "no data", "nodata": True},
                    {"value": 1, "name": "building", "color_hint": "E2574C", "percentage": 12.5, "count": 7500},
                ],
            }
        },
    }


def _class(item: Item) -> dict[str, Any]:
    found: dict[str, Any] = item["assets"]["map"]["classification:classes"][1]
    return found


_FAULTS: dict[str, Break] = {
    "no datetime": lambda item: item["properties"].pop("datetime"),
    "bbox missing beside a geometry": lambda item: item.pop("bbox"),
    "proj:shape of strings": lambda item: item["properties"].update({"proj:shape": ["200", "300"]}),
    "proj:shape of three": lambda item: item["properties"].update({"proj:shape": [1, 200, 300]}),
    "proj:code a number": lambda item: item["properties"].update({"proj:code": 32640}),
    "proj:epsg, gone since projection 2": lambda item: item["properties"].update({"proj:epsg": 32640}),
    "proj:transform of eight": lambda item: item["properties"]["proj:transform"].pop(),
    "proj:geometry not GeoJSON": lambda item: item["properties"].update({"proj:geometry": {"type": "Square"}}),
    "proj:projjson, which is not checked here": lambda item: item["properties"].update({"proj:projjson": {}}),
    "class without value": lambda item: _class(item).pop("value"),
    "class without name": lambda item: _class(item).pop("name"),
    "class name with a space": lambda item: _class(item).update(name="bare land"),
    "colour with its hash sign": lambda item: _class(item).update(color_hint="#E2574C"),
    "percentage above 100": lambda item: _class(item).update(percentage=101),
    "two equal classes": lambda item: item["assets"]["map"]["classification:classes"].append(dict(_class(item))),
    "checksum not hexadecimal": lambda item: item["assets"]["map"].update({"file:checksum": "sha256:zz"}),
    "checksum in capitals": lambda item: item["assets"]["map"].update({"file:checksum": "1220ABCD"}),
    "checksum of a link not hexadecimal": lambda item: item["links"][0].update({"file:checksum": "?"}),
    "negative size": lambda item: item["assets"]["map"].update({"file:size": -1}),
    "unknown file field": lambda item: item["assets"]["map"].update({"file:colour": "red"}),
    "no raster field anywhere": lambda item: item["assets"]["map"]["bands"][0].pop("raster:sampling"),
    "raster:bands, gone since raster 2": lambda item: item["assets"]["map"].update({"raster:bands": []}),
    "raster:sampling neither area nor point": lambda item: item["assets"]["map"].update({"raster:sampling": "x"}),
    "software version a number": lambda item: item["properties"].update({"processing:software": {"onboard": 1}}),
    "processing time not in UTC": lambda item: item["properties"].update(
        {"processing:datetime": "2024-05-01T07:00:00+04:00"}
    ),
    "no processing field": lambda item: [
        item["properties"].pop(key) for key in list(item["properties"]) if key.startswith("processing:")
    ],
}


def test_a_valid_item_passes(validate_item: Validate) -> None:
    validate_item(_item())


def test_an_item_without_place_passes(validate_item: Validate) -> None:
    item = _item()
    item["geometry"] = None
    del item["bbox"]
    item["properties"]["proj:code"] = None
    validate_item(item)


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_faulty_item_is_refused(validate_item: Validate, fault: str) -> None:
    item = _item()
    _FAULTS[fault](item)
    with pytest.raises(pystac.STACValidationError):
        validate_item(item)


def test_an_extension_without_a_local_schema_is_refused(validate_item: Validate) -> None:
    item = _item()
    item["stac_extensions"].append("https://stac-extensions.github.io/eo/v2.0.0/schema.json")
    with pytest.raises(AssertionError, match=r"no local schema for .*/eo/v2\.0\.0/"):
        validate_item(item)


def test_a_file_is_named_by_the_version_it_holds() -> None:
    paths = sorted((Path(__file__).parent / "schemas").glob("*.json"))
    found = []
    for path in paths:
        extension, version = path.stem.rsplit("-", 1)
        found.append(f"https://stac-extensions.github.io/{extension}/v{version}/schema.json")
        assert json.loads(path.read_text(encoding="utf-8"))["$id"].removesuffix("#") == found[-1]
    assert sorted(_EXTENSIONS) == found
