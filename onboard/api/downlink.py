"""Downlink plans: which files the ground fetches in a pass, and maps whose receipt is missing."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from onboard.api.service import TheCaller, TheService
from onboard.downlink.plan import Held, Weights, plan
from onboard.jobs.map_store import MapRow
from onboard.jobs.published import AREAS, MAP_FILE, maps_of
from onboard.jobs.scene_states import PRIORITIES
from onboard.mapping.quicklook import QUICKLOOK
from onboard.settings import Settings

router = APIRouter(tags=["downlink"])
_PAGE = 500


class PlannedFile(BaseModel):
    """A file to fetch, or its leading part."""

    map: str
    asset: str
    href: str
    offset: int
    length: int = Field(description="leading bytes to fetch")
    bytes: int = Field(description="of the whole file")
    whole: bool
    sha256: str = Field(description="of the whole file")
    priority: str
    value: float
    reason: str
    unfamiliar_share: float | None = Field(
        description="share of the map's tiles that are unlike the model's training imagery; null where not known"
    )


class PlanAnswer(BaseModel):
    """A plan, in the order to fetch."""

    budget_bytes: int | None
    planned_bytes: int
    left_out: int = Field(description="maps without a receipt of which nothing fits")
    items: list[PlannedFile]


class UndeliveredMap(BaseModel):
    """A map without a receipt."""

    map: str
    sha256: str = Field(description="of its map.tif")


class UndeliveredAnswer(BaseModel):
    """A page of them, in the order they were published."""

    maps: list[UndeliveredMap]
    next: int | None = Field(description="`since` of the next page, null at the end")


@router.get("/downlink/undelivered")
def get_undelivered(
    service: TheService,
    caller: TheCaller,
    since: Annotated[int, Query(ge=0, le=2**62, description="sequence number; maps published after it")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> UndeliveredAnswer:
    """Maps whose receipt is not known aboard: a ground that holds one gives it, again after the ledger was lost."""
    caller.must_be("ground")
    rows = service.ledger.maps.page(after=since, limit=limit, undelivered=True)
    return UndeliveredAnswer(
        maps=[UndeliveredMap(map=row.id, sha256=str(row.assets[MAP_FILE]["sha256"])) for row in rows],
        next=rows[-1].sequence if len(rows) == limit else None,
    )


@router.get("/downlink/plan")
def get_plan(
    service: TheService,
    caller: TheCaller,
    budget: Annotated[int | None, Query(alias="bytes", ge=0, le=2**62, description="of this pass")] = None,
) -> PlanAnswer:
    """Files to fetch within a budget of bytes: by priority, then by value for each byte."""
    caller.must_be("ground")
    rows: list[MapRow] = []
    while page := service.ledger.maps.page(after=rows[-1].sequence if rows else 0, limit=_PAGE, undelivered=True):
        rows += page
    items = plan([held_of(row) for row in rows], budget, weights_of(service.settings))
    files = [
        PlannedFile(
            map=item.map, asset=item.asset, href=f"/maps/{item.map}/{item.asset}", offset=0, length=item.length,
            bytes=item.bytes, whole=item.whole, sha256=item.sha256, priority=item.priority, value=item.value,
            reason=item.reason, unfamiliar_share=item.unfamiliar,
        )
        for item in items
    ]  # fmt: skip
    return PlanAnswer(
        budget_bytes=budget, planned_bytes=sum(item.length for item in items),
        left_out=len(rows) - len({item.map for item in items}), items=files,
    )  # fmt: skip


def weights_of(settings: Settings) -> Weights:
    """The settings' weights."""
    return Weights(
        rare=settings.weight_rarity, sure=settings.weight_confidence, age=settings.weight_age,
        base=settings.weight_base, quicklooks=settings.quicklook_share, guess=settings.unfamiliar_discount,
    )  # fmt: skip


def held_of(row: MapRow) -> Held:
    """A map's row as the plan needs it."""
    properties: dict[str, Any] = row.item["properties"]
    cover = properties["onboard:class_cover"]
    leading = row.assets["map.tif"].get("heads", [])
    return Held(
        id=row.id,
        priority=row.priority,
        rank=PRIORITIES.index(row.priority),
        sequence=row.sequence,
        files={name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in row.assets.items()},
        leading=[(int(part["bytes"]), int(part["factor"])) for part in leading],
        further_maps=[name for name in maps_of(row.item) if name != MAP_FILE],
        further_quicklooks=[name for name in row.assets if name.endswith(f"-{QUICKLOOK}")],
        cover={str(entry["title"]): float(entry["share"]) for entry in cover},
        valid_px=sum(int(entry["pixels"]) for entry in cover),
        confidence=properties.get("onboard:mean_confidence"),
        areas=[str(area["name"]) for area in properties.get(AREAS, [])],
        unfamiliar=(properties.get("onboard:familiarity") or {}).get("share_unfamiliar"),
    )
