"""Areas of interest: pushed up, listed, forgotten."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from onboard.api.bodies import json_body
from onboard.api.errors import NotFound
from onboard.api.problems import documented
from onboard.api.service import Service, TheCaller, TheService
from onboard.jobs.areas import AreaStore, check_areas
from onboard.scene.areas import MOST_AREAS, Areas

router = APIRouter(tags=["areas"])
GEOJSON = "application/geo+json"
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "features"],
    "properties": {
        "type": {"const": "FeatureCollection"},
        "features": {"type": "array", "maxItems": MOST_AREAS, "items": {"type": "object"}},
    },
}
_BODY = {
    "requestBody": {"required": True, "content": {kind: {"schema": _SCHEMA} for kind in ("application/json", GEOJSON)}}
}
_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {GEOJSON: {"schema": _SCHEMA}}, "description": "GeoJSON"}}


@router.get("/areas", responses=_ANSWER, response_class=Response)
def get_areas(service: TheService, caller: TheCaller) -> Response:
    """The areas that count for scenes that are mapped from now on."""
    caller.must_be("ground", "telemetry")
    return _answer(service)


@router.put("/areas", responses={**_ANSWER, **documented(400, 413)}, openapi_extra=_BODY, response_class=Response)
def put_areas(areas: Annotated[Areas, Depends(json_body(Areas, "operator"))], service: TheService) -> Response:
    """Has these areas count, in place of all others; maps that are there keep what they say."""
    # Now, while the sender can mend it: later a class that the model lacks would raise no alert, unnoticed.
    check_areas(areas, service.mapping_config.manifest)
    AreaStore(service.settings).write(areas)
    return _answer(service)


@router.delete("/areas", responses=_ANSWER, response_class=Response)
def delete_areas(service: TheService, caller: TheCaller) -> Response:
    """Forgets the areas that were pushed up: those of the setting count again, and are answered."""
    caller.must_be("operator")
    AreaStore(service.settings).forget()
    return _answer(service)


@router.delete("/areas/{name}", responses={**_ANSWER, **documented(404)}, response_class=Response)
def delete_area(name: str, service: TheService, caller: TheCaller) -> Response:
    """Forgets one area; the others stay."""
    caller.must_be("operator")
    store = AreaStore(service.settings)
    areas = store.read()
    left = [area for area in areas.features if area.properties.name.casefold() != name.casefold()]
    if len(left) == len(areas.features):
        raise NotFound("area", name)
    store.write(Areas.of(left))
    return _answer(service)


def _answer(service: Service) -> Response:
    return JSONResponse(AreaStore(service.settings).read().model_dump(mode="json"), media_type=GEOJSON)
