"""Events: an ordered log of what an operator should know, acknowledged by the ground."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from onboard.api.bodies import documented_json, json_body
from onboard.api.page import page_of
from onboard.api.problems import documented
from onboard.api.service import TheCaller, TheService
from onboard.jobs.event_log import Event

router = APIRouter(tags=["events"])


class EventAnswer(BaseModel):
    """One event."""

    sequence: int
    severity: str = Field(description="info, warning or error")
    kind: str
    scene: str | None = Field(description="id of the scene it is about; null where it is about none")
    text: str
    at: dict[str, Any] = Field(description="when, by every clock there is")


class EventsAnswer(BaseModel):
    """A page of events."""

    events: list[EventAnswer]
    next: int | None = Field(description="`since` of the next page, null at the end")
    acknowledged: int = Field(description="sequence number up to which the ground has them")


class Acknowledgement(BaseModel):
    """Number up to which the ground has the events."""

    model_config = ConfigDict(extra="forbid")

    # SQLite's integers end at 2**63 - 1. A larger one would be Python's OverflowError, and a 500.
    until: int = Field(ge=0, le=2**62, description="sequence number of the last event that is stored")


@router.get("/events")
def get_events(
    service: TheService,
    caller: TheCaller,
    since: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> EventsAnswer:
    """Events after a sequence number, in their order."""
    caller.must_be("telemetry", "ground")
    rows, following = page_of(service.ledger.events.page(after=since, limit=limit + 1), limit)
    return EventsAnswer(
        events=[_answer(row) for row in rows],
        next=following,
        acknowledged=service.ledger.events.acknowledged(),
    )


def _answer(row: Event) -> EventAnswer:
    return EventAnswer(
        sequence=row.sequence, severity=row.severity, kind=row.kind, scene=row.about, text=row.text, at=dict(row.at)
    )  # fmt: skip


@router.post("/events/acknowledged", responses=documented(400, 413), openapi_extra=documented_json(Acknowledgement))
def post_acknowledged(
    known: Annotated[Acknowledgement, Depends(json_body(Acknowledgement, "ground"))], service: TheService
) -> Acknowledgement:
    """The ground stores events up to a sequence number; gives the highest that was ever said."""
    return Acknowledgement(until=service.ledger.events.acknowledge(known.until))
