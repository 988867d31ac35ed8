"""Telemetry: one snapshot, and a live stream of them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from onboard.api.paths import without_paths
from onboard.api.problems import documented
from onboard.api.service import Service, TheCaller, TheService
from onboard.jobs.timestamps import timestamp

router = APIRouter(tags=["telemetry"])
UNITS = {
    "power_w": "W", "energy_j": "J", "temperature_c": "Cel", "clock_hz": "Hz", "memory_bytes": "By", "load": "1",
    "over_current_events": "1", "throttle_state": "1",
}  # fmt: skip
"""By quantity, in UCUM's spelling."""
STALE_S = 5.0
"""Age at which a measurement is no longer that of now."""


class Value(BaseModel):
    """One reading: a value, or the reason why there is none."""

    quantity: str
    value: float | None
    unit: str = Field(description="in UCUM's spelling")
    reason: str
    source: str
    rail: str
    at: str


class Rail(BaseModel):
    """Energy of one rail since sampling began."""

    rail: str
    energy_j: float
    measured_s: float
    unmeasured_s: float = Field(description="gaps: nobody knows what was spent in them")
    mean_power_w: float | None
    peak_power_w: float | None


class Power(BaseModel):
    """The rail that covers most of the machine."""

    rail: str | None
    power_w: float | None
    idle_w: float | None = Field(description="measured by `onboard calibrate`")
    net_w: float | None = Field(description="power less idle power")
    reason: str = Field(description="why there is no value")
    mode: str | None = Field(description="power mode by its name")
    hottest_c: float | None
    throttling: bool | None = Field(description="null where nothing is heard of it")
    rails: list[Rail]


class GovernorAnswer(BaseModel):
    """State of the governor and its limits."""

    state: str
    why: str
    max_mean_power_w: float | None
    max_orbit_energy_j: float | None
    max_temperature_c: float | None


class Snapshot(BaseModel):
    """A snapshot: engine, progress, scenes, disk, power and readings."""

    at: dict[str, Any]
    engine: dict[str, Any]
    scene: str | None
    tiles_done: int
    tiles_all: int
    tiles_per_s: float | None = Field(description="over the last minute")
    tiles_per_s_1s: float | None = Field(description="over the last second")
    tiles_per_s_scene: float | None = Field(description="since this run of the scene began")
    pixels_per_s: float | None = Field(description="mapped pixels, halos not counted")
    stages_ms: dict[str, tuple[float, float]] = Field(description="p50 and p95 of read, infer and write, a batch")
    tiles_total: int
    scenes_total: int
    scenes: dict[str, int]
    disk: dict[str, int]
    power: Power
    governor: GovernorAnswer
    sources: dict[str, str] = Field(description="by name, what is wrong; empty where it measures")
    readings: list[Value]


@router.get("/telemetry")
def get_telemetry(service: TheService, caller: TheCaller) -> Snapshot:
    """One snapshot."""
    caller.must_be("telemetry", "ground")
    return snapshot(service)


@router.get(
    "/telemetry/stream",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}, "description": "a snapshot an event"}, **documented(429)},
)
async def get_stream(
    service: TheService,
    caller: TheCaller,
    every_s: Annotated[float, Query(ge=0.2, le=60)] = 1.0,
    count: Annotated[int | None, Query(ge=1, description="end after so many")] = None,
) -> Response:
    """Snapshots as server-sent events, until the client goes."""
    caller.must_be("telemetry", "ground")
    # Before the answer begins: afterwards a 429 could not be said any more.
    service.streams.take()
    return _Stream(service, every_s, count)


class _Stream(StreamingResponse):
    """Snapshots one after another; holds a slot that was taken for it.

    The slot goes back when the answer ends and not when its iterator does: an iterator that was never begun, for the
    client was gone already, has no end.
    """

    def __init__(self, service: Service, every_s: float, count: int | None) -> None:
        self._service, self._every_s, self._count = service, every_s, count
        headers = {"Cache-Control": "no-store"}
        super().__init__(self._events(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._service.streams.give()

    async def _events(self) -> AsyncIterator[str]:
        sent = 0
        while self._count is None or sent < self._count:
            if sent:
                await asyncio.sleep(self._every_s)
            # In a thread: it asks the ledger and the disk.
            latest = await run_in_threadpool(snapshot, self._service)
            yield f"id: {sent}\nevent: telemetry\ndata: {json.dumps(latest.model_dump(mode='json'))}\n\n"
            sent += 1


def snapshot(service: Service) -> Snapshot:
    """Of now, from what worker and sampling last said."""
    beat = service.heartbeats.last
    disk = shutil.disk_usage(service.settings.data_dir)
    settings = service.settings
    return Snapshot(
        at=timestamp(),
        engine={
            "state": beat.engine, "problem": without_paths(beat.engine_problem), "backend": beat.backend,
            "precision": beat.precision, "model": beat.model, "check_age_s": beat.checked_s_ago,
            "heartbeat_age_s": service.heartbeats.silent_s,
        },
        scene=beat.scene, tiles_done=beat.tiles_done, tiles_all=beat.tiles_all, tiles_per_s=beat.tiles_per_s,
        tiles_per_s_1s=beat.tiles_per_s_1s, tiles_per_s_scene=beat.tiles_per_s_scene, pixels_per_s=beat.pixels_per_s,
        stages_ms=beat.stages_ms, tiles_total=beat.tiles_total, scenes_total=beat.scenes_total,
        scenes=service.ledger.scenes.counts(),
        disk={"free_bytes": disk.free, "total_bytes": disk.total, "reserve_bytes": settings.disk_reserve_bytes},
        power=_power(service),
        governor=GovernorAnswer(
            state=beat.governor, why=beat.governor_why, max_mean_power_w=settings.max_mean_power_w,
            max_orbit_energy_j=settings.max_orbit_energy_j, max_temperature_c=settings.max_temperature_c,
        ),
        sources=dict(service.telemetry.last.sources), readings=_readings(service),
    )  # fmt: skip


def _power(service: Service) -> Power:
    message, stale = service.telemetry.last, _stale(service)
    watts = None if stale else message.main_power_w()
    rails = [
        Rail(
            rail=name.partition(":")[2], energy_j=joules or 0.0, measured_s=covered or 0.0, unmeasured_s=gap or 0.0,
            # Over the time that was measured: in gaps nobody knows what was spent.
            mean_power_w=joules / covered if joules is not None and covered else None, peak_power_w=peak,
        )
        for name, (joules, covered, gap, peak) in message.energy.items()
    ]  # fmt: skip
    return Power(
        rail=message.main.partition(":")[2] or None, power_w=watts, idle_w=message.idle_w,
        net_w=None if watts is None or message.idle_w is None else watts - message.idle_w,
        reason=stale or ("" if watts is not None else message.main_problem or "the rail was lost"),
        # An old state is no state, as an old value is no value.
        mode=None if stale else message.mode or None, hottest_c=None if stale else message.hottest_c,
        throttling=None if stale else message.throttling, rails=rails,
    )  # fmt: skip


def _stale(service: Service) -> str:
    """Why the last measurements are not those of now; empty where they are."""
    silent = service.telemetry.silent_s
    if silent is None:
        return "nothing was heard from the sampling process yet"
    return f"the sampling process has been silent for {silent:.0f} s" if silent > STALE_S else ""


def _readings(service: Service) -> list[Value]:
    message, stale = service.telemetry.last, _stale(service)
    at = datetime.fromtimestamp(message.utc_s, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    readings = []
    for quantity, rail, source, value, reason in message.readings:
        # An old value is no value: it would be taken for that of now.
        known = None if stale or value is None else float(value)
        why = "" if known is not None else stale or str(reason) or "no reason was given"
        unit = UNITS.get(str(quantity), "")
        readings.append(
            Value(quantity=str(quantity), value=known, unit=unit, reason=why, source=str(source), rail=str(rail), at=at)
        )
    # A quantity that nothing here measures has a row all the same: null, with the reason (docs/telemetry.md).
    missing = {"power_w": message.main_problem, "temperature_c": message.sources.get("thermal", "")}
    for quantity, why in missing.items():
        if not any(reading.quantity == quantity for reading in readings):
            reason = stale or why or "no source"
            readings.append(
                Value(quantity=quantity, value=None, unit=UNITS[quantity], reason=reason, source="", rail="", at=at)
            )
    return readings
