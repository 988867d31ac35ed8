"""Maps: listed as STAC, fetched by ranges, acknowledged by receipts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from onboard.api.bodies import documented_json, json_body
from onboard.api.errors import BadRequest, Conflict, NotFound
from onboard.api.files import file_answer
from onboard.api.problems import documented
from onboard.api.service import Service, TheCaller, TheService
from onboard.downlink.check import check_map
from onboard.jobs.ledger import MapRow
from onboard.jobs.published import ITEM_FILE

router = APIRouter(tags=["maps"])
GEOJSON = "application/geo+json"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
MEDIA_TYPES = {".tif": COG, ".webp": "image/webp", ".json": GEOJSON}
_PAGE = 200


class Receipt(BaseModel):
    """The ground's word that it holds a map whole."""

    model_config = ConfigDict(extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of map.tif as the ground has it")


class ReceiptAnswer(BaseModel):
    """What the satellite knows now."""

    map: str
    received: bool
    known_before: bool


class CheckAnswer(BaseModel):
    """What became of a map that the ground got wrong."""

    map: str
    damaged: list[str] = Field(description="files that are not what was promised, and are no longer offered")
    erased: bool = Field(description="without map.tif or map.json there is no map; its scene may be delivered again")


@router.get(
    "/maps",
    responses={200: {"content": {GEOJSON: {}}, "description": "a STAC ItemCollection"}, **documented(400)},
    response_class=Response,
)
def get_maps(  # each one is a filter of STAC's
    request: Request,
    service: TheService,
    caller: TheCaller,
    bbox: Annotated[str | None, Query(description="west,south,east,north in degrees")] = None,
    datetime: Annotated[str | None, Query(description="RFC 3339 time, or FROM/TO with .. for open ends")] = None,
    since: Annotated[int, Query(ge=0, le=2**62, description="sequence number; maps published after it")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Maps in the order they were published."""
    caller.must_be("ground", "telemetry")
    box, span = _box(bbox), _span(datetime)
    found: list[MapRow] = []
    for row in _rows(service, since):
        if _lies_in(row.item, box) and _was_taken_in(row.item, span):
            found.append(row)
            if len(found) == limit:
                break
    links = [{"rel": "self", "href": str(request.url), "type": GEOJSON}]
    if len(found) == limit:
        following = request.url.include_query_params(since=found[-1].sequence)
        links.append({"rel": "next", "href": str(following), "type": GEOJSON})
    items = [item_of(request, row) for row in found]
    body = {"type": "FeatureCollection", "features": items, "links": links, "numberReturned": len(items)}
    return JSONResponse(body, media_type=GEOJSON)


@router.get("/catalog.json")
def get_catalog(request: Request, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """All maps as a STAC catalogue, for readers that follow links."""
    caller.must_be("ground", "telemetry")
    base = str(request.base_url)
    items = [
        {"rel": "item", "href": f"{base}maps/{row.id}", "type": GEOJSON, "title": str(row.item["properties"]["title"])}
        for row in _rows(service, 0)
    ]
    own = [
        {"rel": rel, "href": f"{base}catalog.json", "type": "application/json"} for rel in ("self", "root")
    ]
    return {
        "type": "Catalog", "stac_version": "1.1.0", "id": "onboard-maps",
        "title": "Land-cover maps held aboard", "description": "Every map that is still on the satellite.",
        "links": [*own, *items],
    }  # fmt: skip


@router.get(
    "/maps/{map_id}",
    responses={200: {"content": {GEOJSON: {}}, "description": "a STAC Item"}, **documented(404)},
    response_class=Response,
)
def get_map(map_id: str, request: Request, service: TheService, caller: TheCaller) -> Response:
    """One map's item."""
    caller.must_be("ground", "telemetry")
    return JSONResponse(item_of(request, _known(service, map_id)), media_type=GEOJSON)


@router.post(
    "/maps/{map_id}/receipt", responses=documented(400, 404, 409, 413), openapi_extra=documented_json(Receipt)
)
def post_receipt(
    map_id: str, receipt: Annotated[Receipt, Depends(json_body(Receipt, "ground"))], service: TheService
) -> ReceiptAnswer:
    """The ground holds this map: aboard it may now be erased when room is needed."""
    row = _known(service, map_id)
    ours = row.assets["map.tif"]["sha256"]
    if receipt.sha256 != ours:
        raise Conflict(f"map.tif has SHA-256 {ours} here, the receipt says {receipt.sha256}; fetch it again")
    new = service.ledger.receipt(map_id)
    return ReceiptAnswer(map=map_id, received=True, known_before=not new)


@router.post("/maps/{map_id}/check", responses=documented(404))
def post_check(map_id: str, service: TheService, caller: TheCaller) -> CheckAnswer:
    """Holds a map's files against their digests, for a ground that got them wrong twice."""
    caller.must_be("ground")
    damaged = check_map(service.settings, service.ledger, _known(service, map_id))
    return CheckAnswer(map=map_id, damaged=damaged, erased=not service.ledger.holds_map(map_id))


@router.head("/maps/{map_id}/{asset}", include_in_schema=False)
@router.get(
    "/maps/{map_id}/{asset}",
    responses={
        200: {"content": {kind: {} for kind in (COG, GEOJSON, "image/webp")}, "description": "the file"},
        206: {"description": "the range asked for"},
        304: {"description": "the client has it"},
        **documented(400, 404, 416),
    },
    response_class=Response,
)
def get_asset(map_id: str, asset: str, request: Request, service: TheService, caller: TheCaller) -> Response:
    """A file of a map, whole or a range of it."""
    caller.must_be("ground")
    row = _known(service, map_id)
    facts = row.assets.get(asset)
    if facts is None:
        raise NotFound("asset", f"{map_id}/{asset}")
    # The name is one of the ledger's own: nothing of the request becomes part of a path.
    path = service.settings.maps_dir / row.id / next(name for name in row.assets if name == asset)
    media_type = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return file_answer(request, path, sha256=str(facts["sha256"]), media_type=media_type)


def item_of(request: Request, row: MapRow) -> dict[str, Any]:
    """The map's item, with where it is and what became of it."""
    base = f"{request.base_url}maps/{row.id}"
    properties = row.item["properties"] | {
        "onboard:sequence": row.sequence,
        "onboard:priority": row.priority,
        "onboard:received": row.delivered is not None,
    }
    assets = {
        key: {**asset, "href": f"{base}/{str(asset['href']).removeprefix('./')}"}
        for key, asset in row.item["assets"].items()
    }
    own = [
        {"rel": "self", "href": base, "type": GEOJSON},
        {"rel": "alternate", "href": f"{base}/{ITEM_FILE}", "type": GEOJSON, "title": "the item as it is stored"},
        {"rel": "root", "href": f"{request.base_url}catalog.json", "type": "application/json"},
        {"rel": "parent", "href": f"{request.base_url}catalog.json", "type": "application/json"},
    ]
    return {**row.item, "properties": properties, "assets": assets, "links": [*own, *row.item.get("links", [])]}


def _known(service: Service, map_id: str) -> MapRow:
    row = service.ledger.map(map_id)
    if row is None:
        raise NotFound("map", map_id)
    return row


def _rows(service: Service, after: int) -> Iterator[MapRow]:
    while rows := service.ledger.maps(after=after, limit=_PAGE):
        yield from rows
        after = rows[-1].sequence


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise BadRequest(f"bbox {text[:100]!r} is no box; give west,south,east,north in degrees") from None
    if not (-90 <= south <= north <= 90 and -180 <= west <= 180 and -180 <= east <= 180):
        raise BadRequest(f"bbox {text[:100]!r} is no box on Earth; south must not lie north of north")
    return west, south, east, north


def _span(text: str | None) -> tuple[datetime, datetime] | None:
    if text is None:
        return None
    begin, _, end = text.partition("/")
    try:
        first = _time(begin, datetime.min.replace(tzinfo=timezone.utc))
        return first, _time(end, datetime.max.replace(tzinfo=timezone.utc)) if end else first
    except ValueError:
        raise BadRequest(f"datetime {text[:100]!r} is none; give RFC 3339, or FROM/TO with .. for open ends") from None


def _time(text: str, open_end: datetime) -> datetime:
    if text in ("", ".."):
        return open_end
    moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment


def _lies_in(item: Any, box: tuple[float, float, float, float] | None) -> bool:
    """Whether the boxes touch; one whose west lies east of its east crosses the antimeridian."""
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


def _was_taken_in(item: Any, span: tuple[datetime, datetime] | None) -> bool:
    if span is None:
        return True
    taken = datetime.fromisoformat(str(item["properties"]["datetime"]).replace("Z", "+00:00"))
    return span[0] <= taken <= span[1]
