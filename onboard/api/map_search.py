"""Filters of map listings, in the terms of STAC API's item search: bbox, datetime, intersects, ids, collections.

`GET /maps` and the routes below `/stac` use the same filters.
Source: STAC API 1.0.0, item-search; OGC API Features 1.0, 7.15.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from onboard.api.errors import BadRequest
from onboard.api.geometry import Shape, shape_of
from onboard.api.service import Service
from onboard.jobs.map_store import MapRow

LOCATED: Final = "land-cover"
UNLOCATED: Final = "land-cover-unlocated"
"""Collection of maps without a place: their geometry is null, which several tools refuse."""
LARGEST_PAGE: Final = 1000
_ROWS_AT_ONCE = 200
# With a zone, as items' times have one: Python does not compare the two kinds.
_EARLIEST, _LATEST = (time.replace(tzinfo=timezone.utc) for time in (datetime.min, datetime.max))
# RFC 3339, 5.6: small letters, and a blank for the T, are allowed. A `+` that a URL does not escape comes as a blank.
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[ +-]\d\d:\d\d)")

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees; one whose west lies east of its east crosses the antimeridian."""
Interval = tuple[datetime, datetime]


@dataclass(frozen=True)
class MapSearch:
    """What a map must meet to be listed; None for a filter that is not set.

    Attributes:
        box: the map's bbox touches it.
        interval: the map's time lies in it, ends included.
        shape: the map's geometry touches it.
        ids: of the maps.
        collections: one of them is the map's.
    """

    box: Box | None = None
    interval: Interval | None = None
    shape: Shape | None = None
    ids: frozenset[str] | None = None
    collections: frozenset[str] | None = None

    def matches(self, row: MapRow) -> bool:
        """Whether a map meets every filter."""
        if self.ids is not None and row.id not in self.ids:
            return False
        if self.collections is not None and collection_of(row) not in self.collections:
            return False
        if not _lies_in(row.item, self.box) or not _was_taken_in(row.item, self.interval):
            return False
        # The geometry last: it costs most, and few maps are left by then.
        if self.shape is None:
            return True
        return _lies_in(row.item, self.shape.box) and self.shape.intersects(row.item.get("geometry"))


def collection_of(row: MapRow) -> str:
    """Id of the collection that a map belongs to."""
    return UNLOCATED if row.item.get("geometry") is None else LOCATED


def all_maps(service: Service, after: int = 0) -> Iterator[MapRow]:
    """Maps in the order they were published, those after a sequence number."""
    while rows := service.ledger.maps.page(after=after, limit=_ROWS_AT_ONCE):
        yield from rows
        after = rows[-1].sequence


def _maps_named(service: Service, ids: frozenset[str], after: int) -> list[MapRow]:
    rows = (service.ledger.maps.get(name) for name in ids)
    return sorted((row for row in rows if row is not None and row.sequence > after), key=lambda row: row.sequence)


def search_maps(service: Service, search: MapSearch, *, after: int, limit: int) -> tuple[list[MapRow], int | None]:
    """One page of maps in the order they were published.

    Args:
        service: whose ledger is searched.
        search: the filters.
        after: sequence number; maps published after it.
        limit: maps in the page, at most LARGEST_PAGE.

    Returns:
        The maps, and the sequence number that the next page begins after; None where no other map matches.
    """
    limit = min(limit, LARGEST_PAGE)
    page: list[MapRow] = []
    for row in all_maps(service, after) if search.ids is None else _maps_named(service, search.ids, after):
        if search.matches(row):
            # One match beyond the page is looked for, so that a link to the next page never leads to an empty one.
            if len(page) == limit:
                return page, page[-1].sequence
            page.append(row)
    return page, None


def box_of(numbers: str | Iterable[float] | None) -> Box | None:
    """A bounding box, of a query string or of JSON; of six numbers the heights are left out.

    Raises:
        BadRequest: it is no box on Earth.
    """
    if numbers is None:
        return None
    text = numbers[:100] if isinstance(numbers, str) else ",".join(f"{number:g}" for number in numbers)[:100]
    try:
        values = [float(part) for part in (numbers.split(",") if isinstance(numbers, str) else numbers)]
        west, south, east, north = values if len(values) != 6 else (*values[:2], *values[3:5])
    except ValueError:
        raise BadRequest(f"bbox {text!r} is no box; give west,south,east,north in degrees") from None
    # NaN fails each comparison, and is refused with the rest.
    if not (-90 <= south <= north <= 90 and -180 <= west <= 180 and -180 <= east <= 180):
        raise BadRequest(f"bbox {text!r} is no box on Earth; south must not lie north of north")
    return west, south, east, north


def interval_of(text: str | None) -> Interval | None:
    """A time or an interval of times, open ends as ``..`` or empty.

    Raises:
        BadRequest: it is none.
    """
    if text is None:
        return None
    begin, is_interval, end = text.partition("/")
    try:
        first = _time(begin, _EARLIEST if is_interval else None)
        last = _time(end, _LATEST) if is_interval else first
    except ValueError:
        raise BadRequest(f"datetime {text[:100]!r} is none; give RFC 3339, or FROM/TO with .. for open ends") from None
    if first > last:
        raise BadRequest(f"datetime {text[:100]!r} ends before it begins; give FROM/TO")
    return first, last


def shape_of_text(text: str | None) -> Shape | None:
    """A GeoJSON geometry of a query string.

    Raises:
        BadRequest: it is none.
    """
    if text is None:
        return None
    try:
        geometry = json.loads(text)
    # RecursionError: JSON that is nested more deeply than Python's stack.
    except (ValueError, RecursionError):
        raise BadRequest("intersects is no JSON; give a GeoJSON geometry") from None
    return checked_shape(geometry)


def checked_shape(geometry: Any) -> Shape | None:
    """A GeoJSON geometry of a request.

    Raises:
        BadRequest: it is none.
    """
    if geometry is None:
        return None
    try:
        return shape_of(geometry)
    except ValueError as error:
        raise BadRequest(f"intersects is no GeoJSON geometry: {error}") from None


def names_of(text: str | None) -> frozenset[str] | None:
    """Names separated by commas."""
    return None if text is None else frozenset(part for part in text.split(",") if part)


def _time(text: str, open_end: datetime | None) -> datetime:
    if open_end is not None and text in ("", ".."):
        return open_end
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(text)
    date, clock, fraction, zone = match.groups()
    # Python 3.10 reads fractions of three or six digits only.
    zone = zone.upper().replace("Z", "+00:00").replace(" ", "+")
    return datetime.fromisoformat(f"{date}T{clock}.{(fraction or '0')[:6]:0<6}{zone}")


def _lies_in(item: Any, box: Box | None) -> bool:
    """Whether the boxes touch."""
    if box is None:
        return True
    if "bbox" not in item:
        return False
    west, south, east, north = item["bbox"]
    if south > box[3] or north < box[1]:
        return False
    return any(a <= d and c <= b for a, b in _spans(west, east) for c, d in _spans(box[0], box[2]))


def _spans(west: float, east: float) -> list[tuple[float, float]]:
    return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]


def time_of(item: Any) -> datetime:
    """When the scene of a map's item was taken."""
    text = str(item["properties"]["datetime"])
    # Maps of earlier versions have years before 1000 without their zeros: one such map must not end every search.
    year, dash, rest = text.partition("-")
    # Python 3.10's fromisoformat does not know "Z".
    return datetime.fromisoformat(f"{year:0>4}{dash}{rest}".replace("Z", "+00:00"))


def _was_taken_in(item: Any, interval: Interval | None) -> bool:
    if interval is None:
        return True
    return interval[0] <= time_of(item) <= interval[1]
