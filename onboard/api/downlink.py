"""Downlink plans: which files the ground fetches in a pass, and maps whose receipt is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from onboard.api.page import page_of
from onboard.api.service import Service, TheCaller, TheService
from onboard.downlink.plan import CHANGES, Held, Weights, first_left_out, plan
from onboard.jobs.highwater import read_mark
from onboard.jobs.map_store import MapRow
from onboard.jobs.published import AREAS, MAP_FILE, maps_of
from onboard.jobs.scene_states import PRIORITIES
from onboard.mapping.changes import CHANGES as CHANGES_PROPERTY
from onboard.mapping.changes import changes_file
from onboard.mapping.quicklook import QUICKLOOK
from onboard.mapping.stac import VECTOR_TYPES
from onboard.settings import Settings

router = APIRouter(tags=["downlink"])
_PAGE = 500
_MOST_WHOLE = 500
MOST_FILES = 1000
"""Files that an answer lists, 0.4 MB of JSON; those of 10,000 maps took 13 MB of the pass, in each plan anew."""

GroundHolds = Callable[[str, str], bool]
"""Whether the ground has given the receipt of a map, by id and SHA-256 of its map.tif."""


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


class LeftOutMap(BaseModel):
    """A map of which no raster is planned, not even a leading part."""

    map: str
    priority: str
    bytes: int = Field(description="the least that brings its map or a leading part, with what it needs")


class PlanAnswer(BaseModel):
    """A plan, in the order to fetch."""

    budget_bytes: int | None
    planned_bytes: int = Field(description="of the whole plan")
    planned_files: int = Field(description="of the whole plan; `items` lists its beginning, and the next plan goes on")
    planned_maps: int
    left_out: int = Field(description="maps without a receipt of which nothing fits")
    first_left_out: LeftOutMap | None = Field(
        description="the first map, in the plan's order, for which the bytes are not enough; less urgent ones may be "
        "planned all the same, and a station that wants the order kept asks for more bytes than its pass has"
    )
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
    rows, following = page_of(service.ledger.maps.page(after=since, limit=limit + 1, undelivered=True), limit)
    return UndeliveredAnswer(
        maps=[UndeliveredMap(map=row.id, sha256=str(row.assets[MAP_FILE]["sha256"])) for row in rows],
        next=following,
    )


@router.get("/downlink/plan")
def get_plan(
    service: TheService,
    caller: TheCaller,
    budget: Annotated[int | None, Query(alias="bytes", ge=0, le=2**62, description="of this pass")] = None,
    changes: Annotated[
        bool, Query(description="the station makes maps of earlier ones and changes.tif, where ONBOARD_CHANGES_FIRST")
    ] = False,
    skip: Annotated[int, Query(ge=0, le=2**62, description="files of the plan that are not listed again")] = 0,
    whole: Annotated[
        list[str], Query(description="ids of maps that are wanted whole all the same", max_length=_MOST_WHOLE)
    ] = [],  # noqa: B006 -- FastAPI copies it
) -> PlanAnswer:
    """Files to fetch within a budget of bytes: by priority, then by value for each byte."""
    caller.must_be("ground")
    rows: list[MapRow] = []
    while page := service.ledger.maps.page(after=rows[-1].sequence if rows else 0, limit=_PAGE, undelivered=True):
        rows += page
    # Both must want it: the setting, and a station that says it can make maps of changes.
    on_ground = ground_holds(service) if changes and service.settings.changes_first else None
    held = [held_of(row, None if row.id in whole else on_ground) for row in rows]
    weights = weights_of(service.settings)
    items = plan(held, budget, weights)
    waiting = first_left_out(held, items, weights)
    files = [
        PlannedFile(
            map=item.map, asset=item.asset, href=f"/maps/{item.map}/{item.asset}", offset=0, length=item.length,
            bytes=item.bytes, whole=item.whole, sha256=item.sha256, priority=item.priority, value=item.value,
            reason=item.reason, unfamiliar_share=item.unfamiliar,
        )
        for item in items[skip : skip + MOST_FILES]
    ]  # fmt: skip
    planned_maps = len({item.map for item in items})
    return PlanAnswer(
        budget_bytes=budget, planned_bytes=sum(item.length for item in items),
        planned_files=len(items), planned_maps=planned_maps, left_out=len(rows) - planned_maps,
        first_left_out=None if waiting is None else LeftOutMap(**asdict(waiting)), items=files,
    )  # fmt: skip


def weights_of(settings: Settings) -> Weights:
    """The settings' weights."""
    return Weights(
        rare=settings.weight_rarity, sure=settings.weight_confidence, age=settings.weight_age,
        base=settings.weight_base, quicklooks=settings.quicklook_share, guess=settings.unfamiliar_discount,
    )  # fmt: skip


def ground_holds(service: Service) -> GroundHolds:
    """By the ledger and, of maps that were erased since, by the receipts of its high-water mark."""
    # Read once a plan, from the disk: every process with a ledger adds to it.
    receipts = read_mark(service.settings.ledger_path).receipts

    def holds(map_id: str, sha256: str) -> bool:
        row = service.ledger.maps.get(map_id)
        if row is not None and row.delivered is not None and row.assets[MAP_FILE]["sha256"] == sha256:
            return True
        return receipts.get(map_id, (0, ""))[1] == sha256

    return holds


def held_of(row: MapRow, on_ground: GroundHolds | None = None) -> Held:
    """A map's row as the plan needs it.

    Args:
        row: of the ledger.
        on_ground: tells which maps the ground has; None where no file of changes may stand in for a map.
    """
    properties: dict[str, Any] = row.item["properties"]
    cover = properties["onboard:class_cover"]
    leading = row.assets["map.tif"].get("heads", [])
    changes = properties.get(f"onboard:{CHANGES_PROPERTY}") or {}
    rasters = {name: changes_file(name) for name in maps_of(row.item)}
    stands_in = (
        # docs/decisions/0014: all rasters of changes are here, they are shorter, the ground has the earlier map.
        on_ground is not None
        and changes.get("earlier") is not None
        and rasters.keys() | set(rasters.values()) <= row.assets.keys()
        and _bytes_of(row, rasters.values()) < _bytes_of(row, rasters)
        and on_ground(str(changes["earlier"]), str(changes["earlier_sha256"]))
    )
    # Where a map goes whole the ground can count the changes itself.
    left_out = rasters if stands_in else rasters.values()
    files = {name: facts for name, facts in row.assets.items() if name not in left_out}
    return Held(
        id=row.id,
        priority=row.priority,
        rank=PRIORITIES.index(row.priority),
        sequence=row.sequence,
        files={name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in files.items()},
        # Half a file of changes makes no map.
        leading=[] if stands_in else [(int(part["bytes"]), int(part["factor"])) for part in leading],
        further_maps=[name for name in (rasters.values() if stands_in else rasters) if name not in (MAP_FILE, CHANGES)],
        further_quicklooks=[name for name in files if name.endswith(f"-{QUICKLOOK}")],
        # Polygons: no receipt waits for them (docs/decisions/0014).
        optional=[name for name in files if name.endswith(tuple(VECTOR_TYPES))],
        since=str(changes["earlier"]) if stands_in else "",
        cover={str(entry["title"]): float(entry["share"]) for entry in cover},
        valid_px=sum(int(entry["pixels"]) for entry in cover),
        confidence=properties.get("onboard:mean_confidence"),
        areas=[str(area["name"]) for area in properties.get(AREAS, [])],
        unfamiliar=(properties.get("onboard:familiarity") or {}).get("share_unfamiliar"),
    )


def _bytes_of(row: MapRow, names: Iterable[str]) -> int:
    return sum(int(row.assets[name]["bytes"]) for name in names)
