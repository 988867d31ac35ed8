"""Validation of STAC Items against the schemas in `schemas/`, with no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pystac
import pytest
from pystac.validation import validate_dict
from pystac.validation.stac_validator import JsonSchemaSTACValidator

_SCHEMAS = Path(__file__).parent / "schemas"
_STAC_VERSION = "1.1.0"
_ITEM_SCHEMA = f"https://schemas.stacspec.org/v{_STAC_VERSION}/item-spec/json-schema/item.json"
# The projection schema points here. We never write proj:projjson, so anything but null there is refused.
_PROJJSON = "https://proj.org/schemas/v0.7/projjson.schema.json"


@pytest.fixture(scope="session")
def stac_validator() -> JsonSchemaSTACValidator:
    """pystac's validator holding the core, GeoJSON (pystac's own copies) and extension schemas."""
    validator = JsonSchemaSTACValidator()
    for path in sorted(_SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        validator.schema_cache[schema["$id"].removesuffix("#")] = schema
    validator.schema_cache[_PROJJSON] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": _PROJJSON,
        "not": {},
    }
    # Were pystac to ship another core version, the item's schema would be fetched: fail here instead.
    assert _ITEM_SCHEMA in validator.schema_cache
    return validator


@pytest.fixture
def validate_item(
    stac_validator: JsonSchemaSTACValidator, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], None]:
    """A function that raises on an Item its schemas refuse, and on one whose schema is not in `schemas/`.

    pystac.STACValidationError: a schema refuses it. AssertionError: version or extension without a local schema.
    """

    def no_fetch(uri: str) -> dict[str, Any]:
        assert uri in stac_validator.schema_cache, f"no local schema for {uri}; add it to {_SCHEMAS.name}/"
        return stac_validator.schema_cache[uri]

    # Fetching is pystac's fallback for a schema it does not hold.
    monkeypatch.setattr(stac_validator, "_get_schema", no_fetch)

    def validate(item: dict[str, Any]) -> None:
        assert item["stac_version"] == _STAC_VERSION
        # The dict as written, not Item.from_dict(...).to_dict(): reading mends old fields and would hide faults.
        validate_dict(
            item,
            stac_object_type=pystac.STACObjectType.ITEM,
            stac_version=_STAC_VERSION,
            extensions=item["stac_extensions"],
            validator=stac_validator,
        )
        assert pystac.Item.from_dict(item).id == item["id"]

    return validate
