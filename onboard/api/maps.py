"""Maps: listed as STAC, fetched by ranges, acknowledged by receipts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from onboard.api.bodies import documented_json, json_body
from onboard.api.errors import Conflict, NotFound
from onboard.api.files import file_answer
from onboard.api.map_search import LARGEST_PAGE, MapSearch, all_maps, box_of, interval_of, search_maps
from onboard.api.pass_log import Transfer
from onboard.api.problems import documented
from onboard.api.service import Service, TheCaller, TheService
from onboard.downlink.check import check_map
from onboard.jobs.map_store import MapRow
from onboard.jobs.published import ITEM_FILE
from onboard.mapping.stac import VECTOR_TYPES

router = APIRouter(tags=["maps"])
GEOJSON = "application/geo+json"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
MEDIA_TYPES = {".tif": COG, ".webp": "image/webp", ".json": GEOJSON, **VECTOR_TYPES}


class Receipt(BaseModel):
    """The ground's word that it holds a map whole."""

    model_config = ConfigDict(extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of map.tif as the ground has it")


class ReceiptAnswer(BaseModel):
    """The receipt as the satellite has it now."""

    map: str
    received: bool
    known_before: bool


class CheckAnswer(BaseModel):
    """Result of a check that the ground asked for."""

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
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 100,
) -> Response:
    """Maps in the order they were published."""
    caller.must_be("ground", "telemetry")
    search = MapSearch(box_of(bbox), interval_of(datetime))
    rows, following = search_maps(service, search, after=since, limit=limit)
    links = [{"rel": "self", "href": str(request.url), "type": GEOJSON}]
    if following is not None:
        next_page = request.url.include_query_params(since=following)
        links.append({"rel": "next", "href": str(next_page), "type": GEOJSON})
    items = [item_of(request, row) for row in rows]
    body = {"type": "FeatureCollection", "features": items, "links": links, "numberReturned": len(items)}
    return JSONResponse(body, media_type=GEOJSON)


@router.get("/catalog.json")
def get_catalog(request: Request, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """All maps as a STAC catalogue, for readers that follow links."""
    caller.must_be("ground", "telemetry")
    base = str(request.base_url)
    items = [
        {"rel": "item", "href": f"{base}maps/{row.id}", "type": GEOJSON, "title": str(row.item["properties"]["title"])}
        for row in all_maps(service)
    ]
    own_links = [{"rel": rel, "href": f"{base}catalog.json", "type": "application/json"} for rel in ("self", "root")]
    return {
        "type": "Catalog", "stac_version": "1.1.0", "id": "onboard-maps",
        "title": "Land-cover maps held aboard", "description": "Every map that is still on the satellite.",
        "links": [*own_links, *items],
    }  # fmt: skip


@router.get(
    "/maps/{map_id}",
    responses={200: {"content": {GEOJSON: {}}, "description": "a STAC Item"}, **documented(404)},
    response_class=Response,
)
def get_map(map_id: str, request: Request, service: TheService, caller: TheCaller) -> Response:
    """One map's item."""
    caller.must_be("ground", "telemetry")
    return JSONResponse(item_of(request, known_map(service, map_id)), media_type=GEOJSON)


@router.post("/maps/{map_id}/receipt", responses=documented(400, 404, 409, 413), openapi_extra=documented_json(Receipt))
def post_receipt(
    map_id: str,
    receipt: Annotated[Receipt, Depends(json_body(Receipt, "ground"))],
    service: TheService,
    caller: TheCaller,
) -> ReceiptAnswer:
    """The ground holds this map: aboard it may now be erased when room is needed."""
    row = known_map(service, map_id)
    sha256 = row.assets["map.tif"]["sha256"]
    # A receipt lets the map be erased aboard: it must be for these very bytes.
    if receipt.sha256 != sha256:
        raise Conflict(f"map.tif has SHA-256 {sha256} here, the receipt says {receipt.sha256}; fetch it again")
    new = service.ledger.maps.record_receipt(map_id)
    # A receipt that is given again, after a broken answer, is no new map of the pass.
    if new:
        service.passes.received(caller.name, sum(int(facts["bytes"]) for facts in row.assets.values()))
    return ReceiptAnswer(map=map_id, received=True, known_before=not new)


@router.post("/maps/{map_id}/check", responses=documented(404))
def post_check(map_id: str, service: TheService, caller: TheCaller) -> CheckAnswer:
    """Holds a map's files against their digests, for a ground that got them wrong twice."""
    caller.must_be("ground")
    damaged = check_map(service.settings, service.ledger, known_map(service, map_id))
    return CheckAnswer(map=map_id, damaged=damaged, erased=not service.ledger.maps.holds(map_id))


@router.head("/maps/{map_id}/{asset}", include_in_schema=False)
@router.get(
    "/maps/{map_id}/{asset}",
    responses={
        200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}, "description": "the file"},
        206: {"description": "the range asked for"},
        304: {"description": "the client has it"},
        **documented(400, 404, 416),
    },
    response_class=Response,
)
def get_asset(map_id: str, asset: str, request: Request, service: TheService, caller: TheCaller) -> Response:
    """A file of a map, whole or a range of it."""
    caller.must_be("ground")
    row = known_map(service, map_id)
    facts = row.assets.get(asset)
    if facts is None:
        raise NotFound("asset", asset, f"/maps/{map_id}")
    # The name is one of the ledger's own: nothing of the request becomes part of a path.
    path = service.settings.maps_dir / row.id / next(name for name in row.assets if name == asset)
    media_type = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    answer = file_answer(request, path, sha256=str(facts["sha256"]), media_type=media_type)
    # Wrapped, since the file is sent after this function has returned.
    return Transfer(answer, service.passes, caller.name)


def item_of(request: Request, row: MapRow) -> dict[str, Any]:
    """The map's item, with where it is and what became of it."""
    base = f"{request.base_url}maps/{row.id}"
    properties = row.item["properties"] | {
        "onboard:sequence": row.sequence,
        "onboard:priority": row.priority,
        "onboard:received": row.delivered is not None,
    }
    # Stored items name files beside them; what is served names addresses.
    assets = {
        key: {**asset, "href": f"{base}/{str(asset['href']).removeprefix('./')}"}
        for key, asset in row.item["assets"].items()
    }
    own_links = [
        {"rel": "self", "href": base, "type": GEOJSON},
        {"rel": "alternate", "href": f"{base}/{ITEM_FILE}", "type": GEOJSON, "title": "the item as it is stored"},
        {"rel": "root", "href": f"{request.base_url}catalog.json", "type": "application/json"},
        {"rel": "parent", "href": f"{request.base_url}catalog.json", "type": "application/json"},
    ]
    return {**row.item, "properties": properties, "assets": assets, "links": [*own_links, *row.item.get("links", [])]}


def known_map(service: Service, map_id: str) -> MapRow:
    """The map of this id.

    Raises:
        NotFound: there is none.
    """
    row = service.ledger.maps.get(map_id)
    if row is None:
        raise NotFound("map", map_id)
    return row
