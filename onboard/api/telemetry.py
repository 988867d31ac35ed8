"""Telemetry, metrics, health, events: a first cut on what the worker's heartbeat and the sources say."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CollectorRegistry, GaugeMetricFamily, InfoMetricFamily
from pydantic import BaseModel

from onboard.api.service import Service, TheCaller, TheService
from onboard.jobs.moment import moment
from telemetry.discover import sources
from telemetry.readings import Reading

router = APIRouter(tags=["telemetry"])


class Value(BaseModel):
    """One reading: a value, or the reason why there is none."""

    quantity: str
    value: float | None
    reason: str
    source: str
    rail: str
    at: str


class Snapshot(BaseModel):
    """How the satellite's mapper is."""

    at: dict[str, Any]
    engine: dict[str, Any]
    scene: str | None
    tiles_done: int
    tiles_all: int
    tiles_per_s: float | None
    tiles_total: int
    scenes_total: int
    scenes: dict[str, int]
    disk: dict[str, int]
    readings: list[Value]


class Health(BaseModel):
    """Whether it can map, and if not, why."""

    status: str
    problems: list[str]


@router.get("/telemetry")
def get_telemetry(service: TheService, caller: TheCaller) -> Snapshot:
    """One snapshot."""
    caller.must_be("telemetry", "ground")
    return _snapshot(service)


@router.get("/events")
def get_events(
    service: TheService,
    caller: TheCaller,
    since: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """What an operator should know, in its order."""
    caller.must_be("telemetry", "ground")
    rows = service.ledger.events(after=since, limit=limit)
    return {"events": [asdict(row) for row in rows], "next": rows[-1].sequence if len(rows) == limit else None}


@router.get("/metrics", response_class=Response)
def get_metrics(service: TheService, caller: TheCaller) -> Response:
    """For Prometheus."""
    caller.must_be("telemetry")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(_snapshot(service), service))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/health/live")
def get_live() -> Health:
    """The API answers; no token needed."""
    return Health(status="live", problems=[])


@router.get("/health/ready", responses={503: {"model": Health}})
def get_ready(service: TheService) -> Response:
    """Whether scenes are mapped now; no token needed, nothing secret in it."""
    problems = _problems(service)
    status = "ready" if not problems else "starting" if service.beats.last.engine == "starting" else "not ready"
    answer = Health(status=status, problems=problems)
    return JSONResponse(answer.model_dump(), 503 if problems else 200)


def _problems(service: Service) -> list[str]:
    beat, silent = service.beats.last, service.beats.silent_s
    if silent is None:
        return ["the worker has not been heard of yet"]
    found = []
    if silent > service.settings.heartbeat_timeout_s:
        found.append(f"the worker has been silent for {silent:.0f} s")
    if beat.engine != "ready":
        found.append(f"the engine is {beat.engine}: scenes are taken and wait")
    if shutil.disk_usage(service.settings.data_dir).free < service.settings.reserve:
        found.append("less room than the reserve is left: scenes are not taken")
    return found


def _snapshot(service: Service) -> Snapshot:
    beat = service.beats.last
    disk = shutil.disk_usage(service.settings.data_dir)
    return Snapshot(
        at=moment(),
        engine={
            "state": beat.engine, "problem": beat.engine_problem, "backend": beat.backend,
            "precision": beat.precision, "model": beat.model, "checked_s_ago": beat.checked_s_ago,
            "heard_s_ago": service.beats.silent_s,
        },
        scene=beat.scene, tiles_done=beat.tiles_done, tiles_all=beat.tiles_all, tiles_per_s=beat.tiles_per_s,
        tiles_total=beat.tiles_total, scenes_total=beat.scenes_total, scenes=service.ledger.counts(),
        disk={"free_bytes": disk.free, "total_bytes": disk.total, "reserve_bytes": service.settings.reserve},
        readings=[_value(reading) for source in sources() for reading in _read(source)],
    )  # fmt: skip


def _read(source: Any) -> list[Reading]:
    """Its readings, or the one reason why it has none."""
    found: list[Reading] = source.read()
    if found:
        return found
    state = source.state()
    quantity = "temperature_c" if state.name == "thermal" else "power_w"
    return [Reading(quantity, None, state.name, "", reason=state.problem or "it gives nothing")]


def _value(reading: Reading) -> Value:
    at = reading.at.utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Value(
        quantity=reading.quantity, value=reading.value, reason=reading.reason, source=reading.source,
        rail=reading.rail, at=at,
    )  # fmt: skip


class _Metrics:
    """One snapshot as Prometheus collects it; what nobody measured is absent, never zero."""

    def __init__(self, snapshot: Snapshot, service: Service) -> None:
        self.snapshot, self.service = snapshot, service

    def collect(self) -> Any:
        told = self.snapshot
        yield _gauge("onboard_engine_ready", "Whether an engine that computes right is in service.",
                     float(told.engine["state"] == "ready"))  # fmt: skip
        yield _gauge("onboard_tiles_per_second", "Tiles mapped, over the last minute.", told.tiles_per_s)
        yield _gauge("onboard_worker_tiles", "Tiles mapped by this worker since it started.", told.tiles_total)
        yield _gauge("onboard_worker_scenes", "Scenes mapped by this worker since it started.", told.scenes_total)
        yield _gauge("onboard_disk_free_bytes", "Free on the data folder's disk.", told.disk["free_bytes"])
        scenes = GaugeMetricFamily("onboard_scenes", "Scenes in the ledger.", labels=["state"])
        for state, count in told.scenes.items():
            scenes.add_metric([state], count)
        yield scenes
        info = InfoMetricFamily("onboard_engine", "The engine in service.")
        info.add_metric([], {key: str(told.engine[key]) for key in ("backend", "precision", "model")})
        yield info
        for quantity, name, text in (
            ("power_w", "onboard_power_watts", "Power of a rail."),
            ("temperature_c", "onboard_temperature_celsius", "Temperature of a zone."),
        ):
            family = GaugeMetricFamily(name, text, labels=["source", "rail"])
            for reading in told.readings:
                if reading.quantity == quantity and reading.value is not None:
                    family.add_metric([reading.source, reading.rail], reading.value)
            yield family


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], float(value))
    return family
