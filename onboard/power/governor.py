"""The governor: keeps limits on mean power, energy per orbit, peak power, temperature and hours by pauses of work.

It takes measurements (power of the main rail, the hottest zone) and decides before each batch whether to go on. It
knows nothing of the board: the power of work and of rest it learns from the measurements.

Mean power is kept by a store of joules that fills with the allowed power and empties with the measured one; work waits
while it is empty. A small store keeps any window close to its mean; that work and rest take turns no faster than
``least_period_s`` is a rule of its own. An orbit's allotment is watched to the end of the orbit: what rest will still
take is set aside first. Without power readings only heat and time are left to go by, and it says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from onboard.errors import OptionsRefused
from onboard.settings import Settings

_SPAN = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")
GOVERNOR_STATES = ("off", "working", "pacing", "orbit", "peak", "hot", "quiet", "blind")
"""States of a :class:`Decision`."""
EVENT_STATES = ("orbit", "hot", "peak", "quiet", "blind")
"""Those that are written as events; "pacing" comes and goes by design."""
STALE_S = 5.0
"""Age at which a measurement is none."""
# A larger store lets bursts through at the start of a window; a smaller one asks for turns that are shorter than
# least_period_s allows (docs/decisions/0006).
STORE_SHARE = 0.008
"""Of a window's energy: how far the store may carry work above the mean."""
HYSTERESIS_K = 2.0
"""Below the hot limit at which work goes on, where no other is set."""
_SMOOTH_S = 3.0
_DAY_S = 86400.0
_ASSUMED_REST_SHARE = 0.7
_LEARN_S = 60.0
"""Time constant of the estimates of what work and rest take."""


RESTS_NOW = "; it rests now"
_WORKING, _WORKING_IN_PART = ("off", "working"), "blind"


@dataclass(frozen=True)
class Limits:
    """Limits of the platform; None is no limit.

    Attributes:
        mean_w: watts over any ``window_s`` seconds.
        peak_w: watts at any moment.
        orbit_j: joules an orbit of ``orbit_s`` seconds.
        hot_c: temperature at which work stops; cool_c: at which it goes on.
        quiet: spans of the day (UTC, seconds since midnight) without work.
        safe_duty: share of time worked while what a limit needs cannot be read.
        least_period_s: of one turn of work and rest together.
        urgent_margin: share by which urgent scenes may overdraw mean and orbit.
    """

    mean_w: float | None = None
    window_s: float = 600.0
    peak_w: float | None = None
    orbit_j: float | None = None
    orbit_s: float = 5700.0
    hot_c: float | None = None
    cool_c: float | None = None
    quiet: Sequence[tuple[float, float]] = ()
    safe_duty: float = 0.25
    least_period_s: float = 20.0
    urgent_margin: float = 0.1

    @property
    def by_power(self) -> bool:
        """Whether any limit needs power to be measured."""
        return self.mean_w is not None or self.peak_w is not None or self.orbit_j is not None

    @property
    def any(self) -> bool:
        """Whether there is anything to govern."""
        return self.by_power or self.hot_c is not None or bool(self.quiet)


@dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes:
        at_s: monotonic seconds.
        power_w: of the main rail, None where nothing measures it.
        hottest_c: of all zones, None likewise.
    """

    at_s: float
    power_w: float | None = None
    hottest_c: float | None = None


@dataclass(frozen=True)
class Decision:
    """Whether to work now.

    Attributes:
        work: go on with the next batch.
        state: "off" (nothing to keep), "working", "pacing" (mean power), "orbit", "peak", "hot", "quiet", "blind"
            (what a limit needs cannot be read; a fixed duty cycle takes its place).
        why: for people; empty while working.
    """

    work: bool
    state: str
    why: str = ""


def makes_wait(state: str, why: str) -> bool:
    """Whether work waits by a decision of this state and reason, as a heartbeat carries them."""
    if state == _WORKING_IN_PART:
        return why.endswith(RESTS_NOW)
    return state not in _WORKING


@dataclass
class Governor:
    """Decides before each batch; one thread.

    Attributes:
        limits: to keep.
        idle_w: what rest takes, if it was measured before; learned otherwise.
        seconds_of_day: UTC; None while the clock is not to be trusted, when quiet spans cannot be kept.
    """

    limits: Limits
    idle_w: float | None = None
    seconds_of_day: Callable[[], float | None] = lambda: None
    _last: Measurement | None = field(default=None, init=False)
    _power: tuple[float, float] | None = field(default=None, init=False)
    _store_j: float = field(default=0.0, init=False)
    _orbit_began_s: float | None = field(default=None, init=False)
    _orbit_j: float = field(default=0.0, init=False)
    _work_w: float | None = field(default=None, init=False)
    _rest_w: float | None = field(default=None, init=False)
    _working: bool = field(default=True, init=False)
    _since_s: float | None = field(default=None, init=False)
    _heat: tuple[float, float] | None = field(default=None, init=False)
    _hot: bool = field(default=False, init=False)
    _peaked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._rest_w = self.idle_w
        # Neither full nor empty: nobody knows what was drawn before.
        self._store_j = self._store_most_j / 2

    def set_idle_power(self, watts: float) -> None:
        """Sets the calibrated power at rest, watts; without it the governor learns it."""
        self.idle_w = watts
        if self._rest_w is None:
            self._rest_w = watts

    def add_measurement(self, new: Measurement) -> None:
        """Adds a measurement; one older than the last is ignored."""
        if self._last is not None and new.at_s <= self._last.at_s:
            return
        self._last = new
        if new.power_w is not None:
            if self._power is not None:
                before_s, before_w = self._power
                span = new.at_s - before_s
                # Over a silence the power is taken to have been the larger of both ends: it errs on the safe side.
                mean_w = (before_w + new.power_w) / 2 if span <= STALE_S else max(before_w, new.power_w)
                self._account(mean_w, span, new.at_s)
                self._learn(new.power_w, span, new.at_s)
            self._power = (new.at_s, new.power_w)
        if self._orbit_began_s is None:
            self._orbit_began_s = new.at_s
        limits = self.limits
        if limits.hot_c is not None and new.hottest_c is not None:
            self._update_temperature(new.at_s, new.hottest_c, limits.hot_c)
        if limits.peak_w is not None and new.power_w is not None:
            self._peaked = new.power_w > limits.peak_w or (self._peaked and not self._rested(new.at_s))

    def state(self, now_s: float) -> dict[str, float | None]:
        """State for the next worker: a restart must not begin an orbit's energy budget anew."""
        began = now_s if self._orbit_began_s is None else self._orbit_began_s
        return {
            "orbit_s": now_s - began, "orbit_j": self._orbit_j, "store_j": self._store_j,
            "rest_w": self._rest_w, "work_w": self._work_w,
        }  # fmt: skip

    def resume(self, state: Mapping[str, float | None], silent_s: float, now_s: float) -> None:
        """Continues from the saved state of an earlier worker; for the time between, the power of work is assumed."""
        self._rest_w = state["rest_w"] if self._rest_w is None else self._rest_w
        self._work_w = state["work_w"]
        self._orbit_began_s = now_s - (state["orbit_s"] or 0.0) - silent_s
        self._orbit_j, self._store_j = state["orbit_j"] or 0.0, state["store_j"] or 0.0
        # The largest power that is known: the time that nobody counted is taken for work.
        assumed = [watts for watts in (self._work_w, self._rest_w, self.limits.mean_w) if watts is not None]
        self._account(max(assumed, default=0.0), silent_s, now_s)

    def decide(self, now_s: float, *, urgent: bool = False) -> Decision:
        """Whether to work now; ``urgent`` work may overdraw by the margin."""
        decision = self._wanted(now_s, urgent)
        if self._since_s is None:
            self._since_s, self._working = now_s, decision.work
        half_s = self.limits.least_period_s / 2
        # Only matters of pace finish their turn. Heat, peak, quiet hours and a spent orbit stop work at once.
        is_held = decision.state in ("pacing", "blind", "working") and now_s - self._since_s < half_s
        if decision.work != self._working:
            if is_held:
                why = "" if self._working else f"rests {half_s:.0f} s at least"
                return Decision(self._working, "working" if self._working else "pacing", why)
            self._working, self._since_s = decision.work, now_s
        return decision

    @property
    def fresh(self) -> bool:
        """Whether any measurement has come yet."""
        return self._last is not None

    def _wanted(self, now_s: float, urgent: bool) -> Decision:
        """The decision by the limits alone, strictest first, without the minimum length of a turn."""
        if not self.limits.any:
            return Decision(True, "off")
        stopped = self._stopped(now_s)
        if stopped is not None:
            return stopped
        if (missing := self._unseen(now_s)) is not None:
            # An allotment that was spent is still spent.
            spent = self._orbit_over(now_s, urgent)
            return self._blind(now_s, missing) if spent is None else Decision(False, "orbit", spent)
        return self._over_budget(now_s, urgent) or Decision(True, "working")

    def _stopped(self, now_s: float) -> Decision | None:
        """Quiet hours, heat and peak: no turn is finished for them."""
        if (text := self._quiet()) is not None:
            return Decision(False, "quiet", text)
        if self._hot and self._heat is not None and now_s - self._heat[0] <= STALE_S:
            return Decision(False, "hot", f"over {self.limits.hot_c:g} °C, waiting to cool")
        if self._peaked and self._sees_power(now_s):
            return Decision(False, "peak", f"over {self.limits.peak_w:g} W")
        return None

    def _over_budget(self, now_s: float, urgent: bool) -> Decision | None:
        limits = self.limits
        if (text := self._orbit_over(now_s, urgent)) is not None:
            return Decision(False, "orbit", text)
        if limits.mean_w is None:
            return None
        overdraft = limits.urgent_margin * limits.mean_w * limits.window_s if urgent else 0.0
        threshold = 0.0
        if not self._working:
            # Until what half a turn of work takes has gathered, or half the store: turns last as long as that allows.
            turn_j = ((self._work_w or 0.0) - limits.mean_w) * limits.least_period_s / 2
            threshold = min(0.95 * self._store_most_j, max(turn_j, self._store_most_j / 2))
        if self._store_j > threshold - overdraft:
            return None
        return Decision(False, "pacing", f"mean of {limits.mean_w:g} W is reached")

    def _sees_power(self, now_s: float) -> bool:
        return self._power is not None and now_s - self._power[0] <= STALE_S

    def _quiet(self) -> str | None:
        now = self.seconds_of_day() if self.limits.quiet else None
        if now is None:
            return None
        for begin, end in self.limits.quiet:
            if begin <= now < end or (end < begin and (now >= begin or now < end)):
                return f"until {int(end // 3600):02d}:{int(end % 3600 // 60):02d} UTC"
        return None

    def _unseen(self, now_s: float) -> str | None:
        """The quantity that a limit needs and that is not measured now; None where all are."""
        if self.limits.by_power and not self._sees_power(now_s):
            return "power"
        if self.limits.hot_c is not None and (self._heat is None or now_s - self._heat[0] > STALE_S):
            return "heat"
        return None

    def _blind(self, now_s: float, missing: str) -> Decision:
        period, duty = self.limits.least_period_s, self.limits.safe_duty
        # So long that the shorter of work and rest lasts half a period: `decide` holds each of them for that time.
        period = max(period, period / 2 / max(min(duty, 1 - duty), 1e-6)) if 0 < duty < 1 else period
        work = math.fmod(now_s, period) < duty * period
        text = f"{missing} cannot be read: {100 * duty:g} % of the time is worked"
        return Decision(work, "blind", text if work else f"{text}{RESTS_NOW}")

    def _orbit_over(self, now_s: float, urgent: bool) -> str | None:
        limits = self.limits
        if limits.orbit_j is None or self._orbit_began_s is None:
            return None
        left_s = max(0.0, limits.orbit_s - (now_s - self._orbit_began_s))
        allowed = limits.orbit_j * (1 + limits.urgent_margin if urgent else 1)
        work_w = self._work_w or 0.0
        # Until rest is measured its power is assumed high: work stops early once, and then the power of rest is known.
        rest_w = _ASSUMED_REST_SHARE * work_w if self._rest_w is None else self._rest_w
        left_j = allowed - self._orbit_j - rest_w * left_s
        # Going on costs what is drawn until the next measurement; beginning again should be worth a turn.
        over = left_j <= max(0.0, work_w - rest_w) * (STALE_S if self._working else limits.least_period_s)
        return f"the orbit's {limits.orbit_j:g} J are spent, {left_s:.0f} s left" if over else None

    @property
    def _store_most_j(self) -> float:
        return STORE_SHARE * (self.limits.mean_w or 0.0) * self.limits.window_s

    def _update_temperature(self, at_s: float, heat_c: float, hot_c: float) -> None:
        """Smooths the sensor's noise, which would otherwise stop work early, and keeps the hysteresis."""
        # After a silence the old value says nothing: the new one counts alone.
        if self._heat is not None and at_s - self._heat[0] <= STALE_S:
            share = 1 - math.exp((self._heat[0] - at_s) / _SMOOTH_S)
            heat_c = self._heat[1] + share * (heat_c - self._heat[1])
        self._heat = (at_s, heat_c)
        cool_c = hot_c - HYSTERESIS_K if self.limits.cool_c is None else self.limits.cool_c
        self._hot = heat_c >= hot_c or (self._hot and heat_c > cool_c)

    def _account(self, watts: float, span_s: float, now_s: float) -> None:
        limits = self.limits
        if limits.mean_w is not None:
            # Of a silence that is longer than a window only the window counts: no later one holds more of it.
            counted_s = min(span_s, limits.window_s)
            self._store_j = min(self._store_most_j, self._store_j + (limits.mean_w - watts) * counted_s)
        if self._orbit_began_s is not None:
            self._orbit_j += watts * span_s
            # A silence may span orbits: the new one has only the energy that fell into it.
            while now_s - self._orbit_began_s >= limits.orbit_s:
                over = now_s - self._orbit_began_s - limits.orbit_s
                self._orbit_began_s += limits.orbit_s
                self._orbit_j = watts * min(over, limits.orbit_s)

    def _learn(self, watts: float, span_s: float, now_s: float) -> None:
        """Learns the power of work and of rest, once a state has lasted long enough."""
        # Readings lag: just after a change they still show the state before.
        if self._since_s is None or now_s - self._since_s < 3.0:
            return
        share = 1 - math.exp(-min(span_s, 1.0) / _LEARN_S)  # after a silence one reading is still one reading
        if self._working:
            self._work_w = watts if self._work_w is None else self._work_w + share * (watts - self._work_w)
        else:
            self._rest_w = watts if self._rest_w is None else self._rest_w + share * (watts - self._rest_w)

    def _rested(self, now_s: float) -> bool:
        return not self._working and now_s - (self._since_s or now_s) >= self.limits.least_period_s / 2


@dataclass
class ModeLadder:
    """Which power mode to ask for: a step down when heat or peak stop work too often, a step up after a long calm.

    Attributes:
        modes: by name, strongest first; empty: none is ever asked for.
        patience: stops within ``calm_s`` that bring a step down.
        calm_s: without a stop, after which a step up is tried.
    """

    modes: Sequence[str]
    patience: int = 3
    calm_s: float = 600.0
    _step: int = field(default=0, init=False)
    _stops: list[float] = field(default_factory=list, init=False)
    _state: str = field(default="", init=False)
    _since_s: float | None = field(default=None, init=False)

    def wanted(self, decision: Decision, now_s: float) -> str:
        """The mode to ask for now; empty: leave it as it is."""
        if not self.modes:
            return ""
        if self._since_s is None:
            self._since_s = now_s
        # The beginning of a stop counts, not its length.
        if decision.state in ("hot", "peak") and decision.state != self._state:
            self._stops = [at for at in self._stops if now_s - at <= self.calm_s] + [now_s]
            if len(self._stops) >= self.patience and self._step < len(self.modes) - 1:
                # Counted anew on each step: the weaker mode has to show by itself whether it is enough.
                self._step, self._stops, self._since_s = self._step + 1, [], now_s
        elif self._step and now_s - max([self._since_s, *self._stops]) > self.calm_s:
            self._step, self._since_s = self._step - 1, now_s
        self._state = decision.state
        return self.modes[self._step]


def limits_of(settings: Settings) -> Limits:
    """As the service's settings have them.

    Raises:
        OptionsRefused: the quiet spans cannot be read, or the limits cannot be kept by their own numbers.
    """
    limits = Limits(
        settings.max_mean_power_w, settings.power_window_s, settings.max_power_w, settings.max_orbit_energy_j,
        settings.orbit_s, settings.max_temperature_c, settings.resume_temperature_c,
        quiet_spans(settings.quiet_hours), settings.safe_duty, settings.min_duty_period_s, settings.urgent_margin,
    )  # fmt: skip
    if limits.cool_c is not None and (limits.hot_c is None or limits.cool_c >= limits.hot_c):
        raise OptionsRefused(
            f"ONBOARD_RESUME_TEMPERATURE_C is {limits.cool_c:g}", "set it below ONBOARD_MAX_TEMPERATURE_C"
        )
    if limits.mean_w is not None and limits.least_period_s > limits.window_s / 10:
        remedy = "a tenth of ONBOARD_POWER_WINDOW_S at most, or the mean cannot be kept within 2 %"
        raise OptionsRefused(f"ONBOARD_MIN_DUTY_PERIOD_S is {limits.least_period_s:g}", remedy)
    return limits


def quiet_spans(text: str) -> tuple[tuple[float, float], ...]:
    """Of "HH:MM-HH:MM,...": seconds of the day; a span may pass midnight.

    Raises:
        OptionsRefused: it is none.
    """
    spans = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _SPAN.fullmatch(part)
        if match is None or int(match[1]) > 23 or int(match[2]) > 59 or int(match[4]) > 59:
            raise OptionsRefused(f"ONBOARD_QUIET_HOURS has {part!r}", "give spans like 06:00-07:30,22:00-01:00")
        begin, end = (60.0 * (60 * int(match[at]) + int(match[at + 1])) for at in (1, 3))
        # No time of day is behind 24:00: a span until 24:30 would end half an hour early. One without length is none.
        if end > _DAY_S or begin == end:
            remedy = "end a span at another time than it begins, 24:00 at the latest; past midnight write 23:00-00:30"
            raise OptionsRefused(f"ONBOARD_QUIET_HOURS has {part!r}", remedy)
        spans.append((begin, end))
    return tuple(spans)
