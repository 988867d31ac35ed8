"""The maps aboard as a STAC API below /stac: pystac-client, QGIS and STAC Browser search it as it stands.

`/` stays free for the service's own page. Roles as for `/maps`.
Source: STAC API 1.0.0 (core, collections, features, item-search), OGC API Features 1.0.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from onboard.api.bodies import documented_json, json_body
from onboard.api.errors import BadRequest, NotFound, RequestRefused
from onboard.api.geometry import plain_geometry
from onboard.api.map_search import (
    MapSearch,
    all_maps,
    box_of,
    checked_shape,
    collection_of,
    interval_of,
    names_of,
    search_maps,
    shape_of_text,
)
from onboard.api.maps import GEOJSON, item_of, known_map
from onboard.api.problems import documented
from onboard.api.service import Service, TheCaller, TheService
from onboard.api.stac_documents import COLLECTIONS, CONFORMANCE, Extent, collection_document, landing_page
from onboard.jobs.map_store import MapRow

router = APIRouter(tags=["stac"], prefix="/stac")
ITEMS_200: dict[int | str, dict[str, Any]] = {200: {"content": {GEOJSON: {}}, "description": "a STAC ItemCollection"}}
Names = Annotated[list[Annotated[str, Field(max_length=200)]] | None, Field(max_length=1000)]


class UnknownCollection(NotFound):
    """There is no such collection."""

    def __init__(self, name: str) -> None:
        self.kind, self.name = "collection", name
        RequestRefused.__init__(self, f"there is no collection {name!r} here; GET /stac/collections lists them")


class ItemsQuery(BaseModel):
    """Parameters of a listing of one collection."""

    bbox: str | None = Field(None, max_length=400, description="west,south,east,north in degrees")
    datetime: str | None = Field(None, max_length=100, description="RFC 3339 time, or FROM/TO with .. for open ends")
    # More than a page of 1,000 is cut (`search_maps`): OGC API Features lets a server give fewer than asked for.
    limit: int = Field(100, ge=1, le=10_000, description="items in a page; 1000 at most are given")
    token: int = Field(0, ge=0, le=2**62, description="of the link `next`")


class SearchQuery(ItemsQuery):
    """Parameters of a search by GET."""

    intersects: str | None = Field(None, description="a GeoJSON geometry; not together with bbox")
    ids: str | None = Field(None, description="of maps, with commas between")
    collections: str | None = Field(None, description="with commas between")


class ItemSearch(BaseModel):
    """Body of a search by POST."""

    model_config = ConfigDict(extra="forbid")

    bbox: Annotated[list[float], Field(min_length=4, max_length=6)] | None = None
    datetime: Annotated[str, Field(max_length=100)] | None = None
    intersects: Annotated[dict[str, Any], Field(description="a GeoJSON geometry")] | None = None
    ids: Names = None
    collections: Names = None
    limit: int = Field(100, ge=1, le=10_000)
    token: int = Field(0, ge=0, le=2**62)


# Both: nothing redirects here (see app_of), and clients write either.
@router.get("/", include_in_schema=False)
@router.get("")
def get_landing_page(request: Request, caller: TheCaller) -> dict[str, Any]:
    """Where collections and search are, and what is conformed to."""
    caller.must_be("ground", "telemetry")
    return landing_page(str(request.base_url))


@router.get("/conformance")
def get_conformance(caller: TheCaller) -> dict[str, list[str]]:
    """Classes of STAC API and OGC API Features that are conformed to."""
    caller.must_be("ground", "telemetry")
    return {"conformsTo": list(CONFORMANCE)}


@router.get("/collections")
def get_collections(request: Request, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Both collections: maps with a place, and maps without."""
    caller.must_be("ground", "telemetry")
    base, extents = str(request.base_url), _extents(service)
    links = [
        {"rel": "self", "href": f"{base}stac/collections", "type": "application/json"},
        {"rel": "root", "href": f"{base}stac", "type": "application/json"},
    ]
    return {"collections": [collection_document(name, extents[name], base) for name in COLLECTIONS], "links": links}


@router.get("/collections/{collection_id}", responses=documented(404))
def get_collection(collection_id: str, request: Request, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """One collection, with the extent of the maps that it holds now."""
    caller.must_be("ground", "telemetry")
    _check_collection(collection_id)
    return collection_document(collection_id, _extents(service)[collection_id], str(request.base_url))


@router.get(
    "/collections/{collection_id}/items", responses={**ITEMS_200, **documented(400, 404)}, response_class=Response
)
def get_items(
    collection_id: str, query: Annotated[ItemsQuery, Query()], request: Request, service: TheService, caller: TheCaller
) -> Response:
    """Maps of one collection in the order they were published."""
    caller.must_be("ground", "telemetry")
    _check_collection(collection_id)
    search = MapSearch(box_of(query.bbox), interval_of(query.datetime), collections=frozenset({collection_id}))
    return _page_by_get(request, service, search, query)


@router.get(
    "/collections/{collection_id}/items/{item_id}",
    responses={200: {"content": {GEOJSON: {}}, "description": "a STAC Item"}, **documented(404)},
    response_class=Response,
)
def get_item(collection_id: str, item_id: str, request: Request, service: TheService, caller: TheCaller) -> Response:
    """One map of a collection."""
    caller.must_be("ground", "telemetry")
    _check_collection(collection_id)
    row = known_map(service, item_id)
    # By one address each: the same map below both collections would be two to a crawler.
    if collection_of(row) != collection_id:
        raise NotFound("map", item_id)
    return JSONResponse(stac_item_of(request, row), media_type=GEOJSON)


@router.get("/search", responses={**ITEMS_200, **documented(400)}, response_class=Response)
def get_search(
    query: Annotated[SearchQuery, Query()], request: Request, service: TheService, caller: TheCaller
) -> Response:
    """Maps of all collections that meet the filters, in the order they were published."""
    caller.must_be("ground", "telemetry")
    _check_one_place(query.bbox, query.intersects)
    search = MapSearch(
        box_of(query.bbox),
        interval_of(query.datetime),
        shape_of_text(query.intersects),
        names_of(query.ids),
        names_of(query.collections),
    )
    return _page_by_get(request, service, search, query)


@router.post(
    "/search",
    responses={**ITEMS_200, **documented(400, 413)},
    response_class=Response,
    openapi_extra=documented_json(ItemSearch),
)
def post_search(
    body: Annotated[ItemSearch, Depends(json_body(ItemSearch, "ground", "telemetry"))],
    request: Request,
    service: TheService,
) -> Response:
    """The same search, its filters in a JSON body."""
    _check_one_place(body.bbox, body.intersects)
    ids, collections = (None if names is None else frozenset(names) for names in (body.ids, body.collections))
    search = MapSearch(
        box_of(body.bbox), interval_of(body.datetime), checked_shape(body.intersects), ids, collections
    )  # fmt: skip
    rows, following = search_maps(service, search, after=body.token, limit=body.limit)
    href, links = str(request.url), []
    if following is not None:
        # What the client gave and no defaults: it posts this body as it is.
        next_body = body.model_dump(exclude_unset=True) | {"token": following}
        if body.intersects is not None:
            next_body["intersects"] = plain_geometry(body.intersects)
        links.append({"rel": "next", "href": href, "type": GEOJSON, "method": "POST", "body": next_body})
    return _item_collection(request, rows, links)


def stac_item_of(request: Request, row: MapRow) -> dict[str, Any]:
    """The map's item as a member of its collection."""
    item = item_of(request, row)
    base, collection = f"{request.base_url}stac", collection_of(row)
    href = f"{base}/collections/{collection}"
    # As a map of /maps it has links to /maps and the catalogue; here its collection is its parent.
    kept = [link for link in item["links"] if link["rel"] not in ("self", "root", "parent", "collection")]
    links = [
        {"rel": "self", "href": f"{href}/items/{row.id}", "type": GEOJSON},
        {"rel": "root", "href": base, "type": "application/json"},
        {"rel": "parent", "href": href, "type": "application/json"},
        {"rel": "collection", "href": href, "type": "application/json"},
    ]
    return {**item, "collection": collection, "links": [*links, *kept]}


def _page_by_get(request: Request, service: Service, search: MapSearch, query: ItemsQuery) -> Response:
    rows, following = search_maps(service, search, after=query.token, limit=query.limit)
    links = [{"rel": "self", "href": str(request.url), "type": GEOJSON}]
    if following is not None:
        href = str(request.url.include_query_params(token=following))
        links.append({"rel": "next", "href": href, "type": GEOJSON, "method": "GET"})
    return _item_collection(request, rows, links)


def _item_collection(request: Request, rows: list[MapRow], links: list[dict[str, Any]]) -> Response:
    items = [stac_item_of(request, row) for row in rows]
    root = {"rel": "root", "href": f"{request.base_url}stac", "type": "application/json"}
    body = {"type": "FeatureCollection", "features": items, "links": [root, *links], "numberReturned": len(items)}
    return JSONResponse(body, media_type=GEOJSON)


def _extents(service: Service) -> dict[str, Extent]:
    extents = {name: Extent() for name in COLLECTIONS}
    for row in all_maps(service):
        extents[collection_of(row)].add(row.item)
    return extents


def _check_collection(name: str) -> None:
    if name not in COLLECTIONS:
        raise UnknownCollection(name)


def _check_one_place(bbox: object, intersects: object) -> None:
    if bbox is not None and intersects is not None:
        raise BadRequest("bbox and intersects are given; give one of them")
