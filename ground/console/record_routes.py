"""What the station has on record: curves, events, passes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from ground.console.events import merged
from ground.console.history import NoHistory
from ground.console.state import Console, TheConsole
from ground.console.wire import Refused
from ground.passes import is_going_on, read_passes

router = APIRouter()
Seconds = Annotated[float | None, Query(ge=-1e12, le=1e12, allow_inf_nan=False)]
_MOST_LISTED = 200


class Until(BaseModel):
    """Body of an acknowledgement."""

    model_config = ConfigDict(extra="forbid")

    until: int = Field(ge=0, le=2**62)


@router.get("/api/curves")
def get_curves(
    console: TheConsole,
    begin: Seconds = None,
    end: Seconds = None,
    last: Annotated[float | None, Query(gt=0, le=1e12, allow_inf_nan=False)] = None,
    points: Annotated[int, Query(ge=10, le=2000)] = 600,
    orbit_s: Annotated[float | None, Query(ge=60, le=1e6)] = None,
) -> dict[str, Any]:
    """Curves of what was pulled, thinned to so many points; ``last``: of so many seconds up to the newest row."""
    try:
        if console.history is None:
            raise NoHistory("no folder of telemetry was named; start with --telemetry FOLDER")
        curves = console.history.curves(begin, end, points, orbit_s or console.orbit_s, last_s=last)
    except NoHistory as error:
        return {"problem": str(error)}
    return {"problem": "", "orbit_s": orbit_s or console.orbit_s, "governor": _governor(console), **curves}


@router.get("/api/events")
def get_events(
    console: TheConsole,
    severity: Annotated[str, Query(max_length=20)] = "",
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> dict[str, Any]:
    """A page of events, the newest first: those that are stored, and in a pass those that the satellite has beside."""
    rows = merged(console.events.stored(), console.satellite.live.events)
    acknowledged = console.events.acknowledged
    wanted = [
        (row, stored) for row, stored in rows
        if (before is None or row.sequence < before) and (not severity or row.severity == severity)
    ]  # fmt: skip
    return {
        "count": len(rows), "acknowledged": acknowledged,
        "waiting": sum(row.sequence > acknowledged and row.severity != "info" for row, _ in rows),
        "newest": rows[0][0].sequence if rows else None,
        "events": [row.row() | {"stored": stored} for row, stored in wanted[:limit]],
        "more": len(wanted) > limit,
    }  # fmt: skip


# Here first, then aboard: a link that fails must not undo what the operator has seen.
@router.post("/api/events/acknowledged")
async def post_acknowledged(said: Until, console: TheConsole) -> dict[str, Any]:
    """An operator has seen events up to a number; kept here, and told to the satellite as far as they are stored."""
    newest = merged(console.events.stored(), console.satellite.live.events)
    if not newest or said.until > newest[0][0].sequence:
        raise HTTPException(409, "there is no event of this number yet")
    try:
        until = console.events.acknowledge(said.until)
    except OSError as error:
        raise HTTPException(507, f"the acknowledgement cannot be written: {error.strerror}") from None
    # Only up to what is stored here: aboard, acknowledged events are the first to be removed.
    told, stored = "", [row.sequence for row in console.events.stored() if row.sequence <= until]
    if stored and console.satellite.contact[0] == "up":
        try:
            await console.satellite.acknowledge(stored[-1])
        except Refused as error:
            told = str(error)
    return {"acknowledged": until, "problem": told}


@router.get("/api/passes")
def get_passes(
    console: TheConsole,
    offset: Annotated[int, Query(ge=0, le=10**7)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> dict[str, Any]:
    """A page of the passes of the log, the newest first, what is here, and what is coming."""
    root, records = console.maps.root, console.maps.records()
    passes = read_passes(root)
    coming = []
    for record in records:
        for name in record.files:
            # Its size is asked for anew: a part grows without a change of its folder's time, which the index goes by.
            path = console.maps.path(record, name) if name.endswith(".part") else None
            if path is not None:
                file = name.split(".")[0]
                coming.append({"map": record.id, "title": record.title, "file": file, "bytes": _size(path)})
    live, going_on = console.satellite.live, is_going_on(root)
    # After a pass, and in it, the plan is another one.
    console.satellite.look_for("plan", anew=going_on != console.was_going_on)
    console.was_going_on = going_on
    return {
        "going_on": going_on, "passes": [row.model_dump() for row in passes[::-1][offset : offset + limit]],
        "count": len(passes), "maps": sum(record.state == "whole" for record in records),
        "coarse": sum(record.state == "coarse" for record in records),
        "bytes": sum(sum(record.files.values()) for record in records), "coming": coming[:_MOST_LISTED],
        "coming_count": len(coming),
        "plan": None if live.plan is None or console.satellite.contact[0] != "up" else {
            "bytes": live.plan.planned_bytes, "left_out": live.plan.left_out,
            "files": live.plan.planned_files or len(live.plan.items),
            "maps": live.plan.planned_maps or len({item.map for item in live.plan.items}),
            "items": [item.model_dump() for item in live.plan.items[:_MOST_LISTED]],
        },
    }  # fmt: skip


def _size(path: Any) -> int:
    try:
        return int(path.stat().st_size)
    except OSError:
        return 0


def _governor(console: Console) -> list[dict[str, Any]]:
    """What the governor did, from its events: a state each, and when it began."""
    rows = [row.row() for row in console.events.stored() if row.kind.startswith("governor-")]
    return [
        {"utc": row["utc"], "state": row["kind"].removeprefix("governor-"), "text": row["text"]} for row in rows[-500:]
    ]
