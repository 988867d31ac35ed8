"""Documents of the STAC API that are no items: landing page, conformance, collections."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

from onboard.api.map_search import LOCATED, UNLOCATED, time_of

STAC_VERSION: Final = "1.1.0"
CONFORMANCE: Final = (
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/item-search",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
)
COLLECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    LOCATED: ("Land-cover maps", "Maps whose place on Earth is known."),
    UNLOCATED: (
        "Land-cover maps without a place",
        "Maps of scenes that cannot be located: their geometry is null, and onboard:geometry_missing says why. The "
        "spatial extent is the whole Earth, since nothing narrower is known.",
    ),
}
"""Title and description by id."""
_EARTH: Final = [-180.0, -90.0, 180.0, 90.0]
_JSON, _GEOJSON = "application/json", "application/geo+json"
_OPENAPI = "application/vnd.oai.openapi+json;version=3.1"


def landing_page(base: str) -> dict[str, Any]:
    """The root catalogue.

    Args:
        base: address of the service, with a slash at its end.
    """
    root = f"{base}stac"
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": "onboard",
        "title": "Land-cover maps held aboard",
        "description": "Every map that is still on the satellite.",
        "conformsTo": list(CONFORMANCE),
        "links": [
            _link("self", root, _JSON),
            _link("root", root, _JSON),
            _link("conformance", f"{root}/conformance", _JSON),
            _link("data", f"{root}/collections", _JSON),
            *({**_link("search", f"{root}/search", _GEOJSON), "method": method} for method in ("GET", "POST")),
            _link("service-desc", f"{base}openapi.json", _OPENAPI),
            _link("service-doc", f"{base}docs", "text/html"),
            *(
                {**_link("child", f"{root}/collections/{name}", _JSON), "title": title}
                for name, (title, _) in COLLECTIONS.items()
            ),
        ],
    }


def collection_document(name: str, extent: Extent, base: str) -> dict[str, Any]:
    """A collection.

    Args:
        name: one of COLLECTIONS.
        extent: of the items that it holds now.
        base: address of the service, with a slash at its end.
    """
    title, description = COLLECTIONS[name]
    href = f"{base}stac/collections/{name}"
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "id": name,
        "title": title,
        "description": description,
        # STAC 1.1's word for terms that have no SPDX id.
        "license": "other",
        "extent": extent.as_json(),
        "links": [
            _link("self", href, _JSON),
            _link("root", f"{base}stac", _JSON),
            _link("parent", f"{base}stac", _JSON),
            _link("items", f"{href}/items", _GEOJSON),
        ],
    }


class Extent:
    """Extent in space and time of STAC items; the whole Earth where none of them has a place, open without times."""

    def __init__(self) -> None:
        self._box: list[float] | None = None
        self._times: tuple[datetime, datetime] | None = None

    def add(self, item: Any) -> None:
        """Widens it to an item."""
        taken = time_of(item)
        first, last = self._times or (taken, taken)
        self._times = min(first, taken), max(last, taken)
        if "bbox" in item:
            west, south, east, north = item["bbox"]
            # One box that holds both sides goes around the Earth.
            if west > east:  # across the antimeridian
                west, east = -180.0, 180.0
            old = self._box or [west, south, east, north]
            self._box = [min(old[0], west), min(old[1], south), max(old[2], east), max(old[3], north)]

    def as_json(self) -> dict[str, Any]:
        """As a collection has it; times in UTC."""
        interval = [None, None] if self._times is None else [_utc(time) for time in self._times]
        return {"spatial": {"bbox": [self._box or _EARTH]}, "temporal": {"interval": [interval]}}


def _utc(time: datetime) -> str:
    try:
        return time.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    except OverflowError:  # at the very ends of the calendar, by a map of before such times were refused
        return time.isoformat()


def _link(rel: str, href: str, media_type: str) -> dict[str, Any]:
    return {"rel": rel, "href": href, "type": media_type}
