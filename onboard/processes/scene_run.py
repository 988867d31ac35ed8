"""One scene's run in the worker: when it yields, and what its map's item says of energy and temperature."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onboard.errors import MappingStopped
from onboard.jobs.ledger import Ledger
from onboard.jobs.scene_store import SceneRow
from onboard.jobs.scheduler import SceneScheduler
from onboard.mapping.control import MapObserver, StopPolicy
from onboard.power.receiver import TelemetryReceiver
from onboard.power.scene_energy import SceneEnergy
from onboard.processes.engine_guard import EngineGuard
from onboard.processes.heartbeat import HeartbeatWriter
from onboard.processes.power_gate import PowerGate

CompareAreas = Callable[[Sequence[Mapping[str, Any]], str], Sequence[Mapping[str, Any]]]
"""Called with the rows of a map's areas and its time."""
GATE_S = 0.5
"""Between two questions to the power gate while work waits."""
PUBLISHING_S = 3600.0
"""Longest time without a batch after the last tile: overviews and compression of the map."""


@dataclass(frozen=True)
class SceneStopPolicy(StopPolicy):
    """Waits for the power gate, and stops a run for a cancellation, an urgent scene, or an engine that is due.

    Attributes:
        row: the scene that runs.
        stop: set when the service stops.
    """

    row: SceneRow
    stop: threading.Event
    ledger: Ledger
    guard: EngineGuard
    scheduler: SceneScheduler
    gate: PowerGate
    heartbeat: HeartbeatWriter
    telemetry: TelemetryReceiver
    energy: SceneEnergy

    def before_batch(self) -> None:
        """See :meth:`StopPolicy.before_batch`."""
        # Batches beat from here on: what was granted for the preparation ends.
        self.heartbeat.suspend_watchdog(0)
        self._look()
        while not self.gate.may_work(urgent=self.row.priority == "urgent"):
            self.stop.wait(GATE_S)
            # A cancellation or an urgent scene does not wait until there is power again.
            self._look()

    def _look(self) -> None:
        self.heartbeat.beat()
        self.energy.take(self.telemetry.last)
        if self.stop.is_set():
            raise MappingStopped("the service stops")
        # The ledger is how other processes speak to this run; each question is one read of an index, from memory.
        if self.ledger.scenes.state_of(self.row.id) != "running":
            raise MappingStopped("it was cancelled")
        # First, since a scene that waited aside may fit now and be the more urgent one.
        self.scheduler.review(self.guard.engine.manifest)
        if self.ledger.scenes.more_urgent_waits(self.row.priority):
            raise MappingStopped("something more urgent waits")
        if self.guard.reopen_due():
            raise MappingStopped("the engine is opened afresh")


@dataclass
class SceneObserver(MapObserver):
    """Writes repairs as events and adds energy and temperature to the item.

    Attributes:
        compare_areas: adds what earlier maps showed of the areas of interest.
        measured: the properties added to the item, once it is written.
    """

    row: SceneRow
    ledger: Ledger
    heartbeat: HeartbeatWriter
    telemetry: TelemetryReceiver
    energy: SceneEnergy
    compare_areas: CompareAreas | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)

    def repaired(self, kind: str, text: str) -> None:
        """See :meth:`MapObserver.repaired`."""
        self.ledger.events.log("warning", kind, text, self.row.id)

    def compared_areas(self, rows: Sequence[Mapping[str, Any]], time: str) -> Sequence[Mapping[str, Any]]:
        """See :meth:`MapObserver.compared_areas`."""
        return rows if self.compare_areas is None else self.compare_areas(rows, time)

    def before_mapping(self, *, tiles: int, pixels: int) -> None:
        """See :meth:`MapObserver.before_mapping`."""
        # Of this scene: tiles have another shape for each, and share what their number widens their halos by.
        self.heartbeat.tile_pixels = pixels / tiles

    def before_publishing(self) -> None:
        """See :meth:`MapObserver.before_publishing`."""
        # Not when the engine was checked, which happens between batches too: an engine that hangs after a check must
        # fall silent at once.
        self.heartbeat.suspend_watchdog(PUBLISHING_S)

    def item_properties(self, *, tiles: int, area_m2: float | None) -> Mapping[str, Any]:
        """See :meth:`MapObserver.item_properties`."""
        self.energy.take(self.telemetry.last)
        self.measured = self.energy.facts(tiles=tiles, area_m2=area_m2)
        return self.measured
