"""Metrics for Prometheus, in OpenMetrics' names; a quantity without a measurement is absent, never zero."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics

from onboard.api.service import Service, TheCaller, TheService
from onboard.api.telemetry import Snapshot, snapshot
from onboard.power.governor import GOVERNOR_STATES

router = APIRouter(tags=["telemetry"])
_BY_QUANTITY = {
    "power_w": ("onboard_power_watts", "Power of a rail."),
    "temperature_c": ("onboard_temperature_celsius", "Temperature of a zone."),
    "clock_hz": ("onboard_clock_hertz", "Clock of a processor."),
    "load": ("onboard_load_ratio", "Load of a processor, 0 to 1."),
    "memory_bytes": ("onboard_memory_bytes", "Memory."),
    "throttle_state": ("onboard_throttle_state", "Steps by which a cooling device holds the machine back."),
}


@router.get("/metrics", response_class=Response)
def get_metrics(request: Request, service: TheService, caller: TheCaller) -> Response:
    """For Prometheus: OpenMetrics where it is asked for, the older text form otherwise."""
    caller.must_be("telemetry")
    # One a request: the default registry adds figures of this process; auto_describe would collect twice.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(snapshot(service), service))
    if "application/openmetrics-text" in request.headers.get("accept", ""):
        text = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return Response(text, media_type=openmetrics.CONTENT_TYPE_LATEST)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Metrics:
    """One snapshot as Prometheus collects it."""

    def __init__(self, latest: Snapshot, service: Service) -> None:
        self.latest, self.service = latest, service

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        yield from self._work()
        yield from self._measured()
        yield from self._governor()

    def _work(self) -> Iterator[Metric]:
        latest = self.latest
        ready = float(latest.engine["state"] == "ready")
        yield _gauge("onboard_engine_ready", "Whether an engine that computes right is in service.", ready)
        yield _gauge("onboard_tiles_per_second", "Tiles mapped, over the last minute.", latest.tiles_per_s)
        yield _gauge("onboard_pixels_per_second", "Pixels mapped, over the last minute.", latest.pixels_per_s)
        # The library appends _total to the names of counters.
        yield _counter("onboard_tiles", "Tiles mapped by this worker since it started.", latest.tiles_total)
        yield _counter("onboard_worker_scenes", "Scenes mapped by this worker since it started.", latest.scenes_total)
        yield _gauge("onboard_disk_free_bytes", "Free on the data folder's disk.", latest.disk["free_bytes"])
        scenes = GaugeMetricFamily("onboard_scenes", "Scenes in the ledger.", labels=["state"])
        for state, count in latest.scenes.items():
            scenes.add_metric([state], count)
        yield scenes
        stages = GaugeMetricFamily(
            "onboard_stage_seconds", "Time of a stage for a batch, over the last 256.", labels=["stage", "percentile"]
        )  # no summary: a label called quantile belongs to those
        for stage, (p50, p95) in latest.stages_ms.items():
            stages.add_metric([stage, "50"], p50 / 1e3)
            stages.add_metric([stage, "95"], p95 / 1e3)
        yield stages
        info = InfoMetricFamily("onboard_engine", "The engine in service.")
        info.add_metric([], {key: str(latest.engine[key]) for key in ("backend", "precision", "model")})
        yield info

    def _measured(self) -> Iterator[Metric]:
        latest = self.latest
        for quantity, (name, text) in _BY_QUANTITY.items():
            family = GaugeMetricFamily(name, text, labels=["source", "rail"])
            for reading in latest.readings:
                if reading.quantity == quantity and reading.value is not None:
                    family.add_metric([reading.source, reading.rail], reading.value)
            yield family
        events = CounterMetricFamily("onboard_over_current_events", "Over-current events.", labels=["kind"])
        for reading in latest.readings:
            if reading.quantity == "over_current_events" and reading.value is not None:
                events.add_metric([reading.rail], reading.value)
        yield events
        sources = {(reading.quantity, reading.rail): reading.source for reading in latest.readings}
        energy = CounterMetricFamily("onboard_energy_joules", "Energy measured.", labels=["source", "rail"])
        gaps = CounterMetricFamily("onboard_energy_gap_seconds", "Seconds not measured.", labels=["source", "rail"])
        for rail in latest.power.rails:
            source = sources.get(("power_w", rail.rail), "")
            energy.add_metric([source, rail.rail], rail.energy_j)
            gaps.add_metric([source, rail.rail], rail.unmeasured_s)
        yield energy
        yield gaps
        yield from self._main_rail(sources)
        up = GaugeMetricFamily("onboard_source_up", "Whether a source measures.", labels=["source"])
        for name, problem in latest.sources.items():
            up.add_metric([name], float(not problem))
        yield up
        yield _gauge("onboard_idle_power_watts", "Calibrated power at rest.", latest.power.idle_w)

    def _main_rail(self, sources: dict[tuple[str, str], str]) -> Iterator[Metric]:
        """The rail that covers most of the machine, by names that are the same on every board."""
        power = self.latest.power
        watts = GaugeMetricFamily("onboard_main_power_watts", "Power of the main rail.", labels=["source", "rail"])
        joules = CounterMetricFamily(
            "onboard_main_energy_joules", "Energy of the main rail.", labels=["source", "rail"]
        )
        labels = [sources.get(("power_w", power.rail or ""), ""), power.rail or ""]
        if power.power_w is not None:
            watts.add_metric(labels, power.power_w)
        for rail in power.rails:
            if rail.rail == power.rail:
                joules.add_metric(labels, rail.energy_j)
        yield watts
        yield joules

    def _governor(self) -> Iterator[Metric]:
        governor = self.latest.governor
        states = StateSetMetricFamily("onboard_governor_state", "What the governor does.")
        states.add_metric([], {state: state == governor.state for state in GOVERNOR_STATES})
        yield states
        yield _gauge("onboard_power_budget_watts", "Mean power that is allowed.", governor.max_mean_power_w)
        yield _gauge("onboard_orbit_budget_joules", "Energy an orbit that is allowed.", governor.max_orbit_energy_j)


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], float(value))
    return family


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text)
    family.add_metric([], float(value))
    return family
