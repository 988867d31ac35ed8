"""Whether the power limits let the next batch begin, and what heartbeat and events say of it."""

from __future__ import annotations

import time

from onboard.jobs.ledger import Ledger
from onboard.jobs.timestamps import is_synchronised
from onboard.power.governor import EVENT_STATES, Governor, Measurement, ModeLadder, limits_of
from onboard.power.governor_store import GovernorStore
from onboard.power.receiver import TelemetryReceiver
from onboard.processes.heartbeat import HeartbeatWriter
from onboard.settings import Settings


class PowerGate:
    """The governor with its measurements, its state on disk and the power mode that it asks for; one thread.

    Args:
        settings: of the service.
        telemetry: measurements of the sampling process.
        heartbeat: takes the governor's state and the wanted power mode.
        ledger: takes events.

    Raises:
        OptionsRefused: the limits in the settings contradict each other.
    """

    def __init__(
        self, settings: Settings, telemetry: TelemetryReceiver, heartbeat: HeartbeatWriter, ledger: Ledger
    ) -> None:
        self._telemetry, self._heartbeat, self._ledger = telemetry, heartbeat, ledger
        self._governor = Governor(limits_of(settings), seconds_of_day=_seconds_of_day)
        self._store = GovernorStore(settings.telemetry_dir, self._governor)
        self._modes = ModeLadder([name.strip() for name in settings.power_modes.split(",") if name.strip()])
        self._event_state = ""

    def may_work(self, *, urgent: bool) -> bool:
        """Whether the next batch may begin now; ``urgent`` work may overdraw the limits by their margin."""
        self._take_measurement()
        now_s = time.monotonic()
        decision = self._governor.decide(now_s, urgent=urgent)
        mode = self._modes.wanted(decision, now_s)
        heartbeat = self._heartbeat.state
        if (decision.state, decision.why, mode) != (heartbeat.governor, heartbeat.governor_why, heartbeat.wanted_mode):
            self._heartbeat.change(governor=decision.state, governor_why=decision.why, wanted_mode=mode)
        # Pacing comes and goes every few seconds by design: it is no event.
        state = decision.state if decision.state in EVENT_STATES else ""
        if state != self._event_state:
            self._event_state = state
            text = f"work waits: {decision.why}" if state else "work goes on without restriction"
            self._ledger.events.log("warning" if state else "info", f"governor-{state or 'free'}", text)
        return decision.work

    def _take_measurement(self) -> None:
        if self._telemetry.silent_s is None:
            return
        message = self._telemetry.last
        if self._governor.idle_w is None and message.idle_w is not None:
            self._governor.set_idle_power(message.idle_w)
        # Before the measurement is added: the first message restores the state that it continues.
        self._store.update(message, message.monotonic_s)
        self._governor.add_measurement(Measurement(message.monotonic_s, message.main_power_w(), message.hottest_c))


def _seconds_of_day() -> float | None:
    """UTC; None while the clock is not synchronised: quiet hours kept by a wrong clock would be quiet at any hour."""
    return time.time() % 86400 if is_synchronised() else None
