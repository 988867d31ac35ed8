"""What the page asks for again and again, and what an operator may do."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.params import Path as PathParameter
from pydantic import BaseModel, ConfigDict

from ground.console.state import Console, TheConsole
from ground.passes import is_going_on

router = APIRouter()
_MOST_SCENES = 200
# As the satellite takes them (docs/service.md), so that the page needs no order of its own.
_ORDER = {"urgent": 0, "high": 1, "routine": 2}
SceneId = Annotated[str, PathParameter(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Turn(BaseModel):
    """Body of a change of priority."""

    model_config = ConfigDict(extra="forbid")

    priority: Literal["urgent", "high", "routine"]


# On the event loop, other than most of these functions: it starts the tasks that listen to the satellite.
@router.get("/api/live")
async def get_live(console: TheConsole, since: Annotated[int, Query(ge=0, le=2**53)] = 0) -> dict[str, Any]:
    """Link, snapshot and queue of now, and the points of the curves after a number."""
    satellite = console.satellite
    satellite.look()
    live, (link, problem) = satellite.live, satellite.contact
    return {
        "name": console.name, "url": satellite.url, "link": link, "problem": problem, "session": satellite.session,
        "silent_s": None if live.heard_s is None else round(time.monotonic() - live.heard_s, 1),
        "may_act": satellite.may_act, "maps_version": console.maps.version,
        "going_on": is_going_on(console.maps.root),
        "refused": list(dict.fromkeys(live.refused.values())),
        "snapshot": None if live.snapshot is None else live.snapshot.model_dump(),
        "ready": None if live.ready is None else live.ready.model_dump(),
        "scenes": _queue(console), "scenes_count": len(live.scenes),
        # Only new ones: a page asks every two seconds, and there is half an hour of them.
        "points": [point for point in satellite.points if point["number"] > since],
        "model": _model(console),
    }  # fmt: skip


@router.post("/api/scenes/{scene}/cancel")
async def post_cancel(scene: SceneId, console: TheConsole) -> dict[str, Any]:
    """Cancels a scene aboard; its file, its canvas and its map are erased there."""
    await console.satellite.cancel_scene(scene)
    live = console.satellite.live
    # At once: on a thin link the next list of scenes may be minutes away.
    live.scenes = [row for row in live.scenes if row.id != scene]
    return {"cancelled": scene}


@router.post("/api/scenes/{scene}/priority")
async def post_priority(scene: SceneId, turn: Turn, console: TheConsole) -> dict[str, Any]:
    """Gives a scene that waits aboard another turn."""
    changed = await console.satellite.change_priority(scene, turn.priority)
    return {"scene": changed.id, "state": changed.state, "priority": changed.priority}


def _queue(console: Console) -> list[dict[str, Any]]:
    """In the order in which the satellite takes them: what runs, then by priority, then by age; then what failed."""
    states = {"running": 0, "queued": 1}
    rows = sorted(
        console.satellite.live.scenes,
        key=lambda row: (states.get(row.state, 2), _ORDER.get(row.priority, 3), row.sequence),
    )
    return [row.model_dump() for row in rows[:_MOST_SCENES]]


def _model(console: Console) -> dict[str, Any] | None:
    """Model and classes of the newest map that says which it was made by."""
    # Of the newest ones only: a page asks every two seconds, and maps without a model in their item are few.
    for record in console.maps.records()[:50]:
        if record.facts.get("model"):
            heads = [
                {"name": row.head.name, "legend": [{"title": each.title, "color": each.color} for each in row.classes]}
                for row in record.heads
            ]
            return {**record.facts["model"], "map": record.id, "heads": heads}
    return None
