"""Opens the engine, checks it while it works, and takes it out of service when it computes wrong.

The golden tile with its tolerance decides at the opening. From then on the engine is compared with itself: its answer
to a packed tile, byte for byte, and the pages of memory that hold its constants.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

from engines.engine import Engine, Tiles
from engines.errors import ConstantsChanged, EngineError
from engines.integrity.constants_watch import constants_watch
from engines.integrity.page_alarms import AlarmHistory
from engines.integrity.page_scrub import HEAP, ConstantsWatch, PageScrub
from engines.integrity.self_check import MOST_SHAPES, SelfCheck, first_shapes, of_shapes
from engines.verify import GoldenCheck, golden_tiles, verify_golden
from onboard.mapping.control import EngineHealth
from onboard.settings import Settings
from telemetry.sources.nvml import ecc_state

log = logging.getLogger(__name__)
Open = Callable[[], Engine]
LogEvent = Callable[[str, str, str], object]
_SETTLING_LOOKS = 2
"""Looks at the pages, with real tiles between them, in which what still changes is forgotten."""


@dataclass(frozen=True)
class CheckSchedule:
    """When an engine is checked while it works.

    Attributes:
        period_s: seconds between two checks of its answer.
        period_tiles: tiles between two.
        scrub_s: seconds between two looks at its constants in memory; 0 for none.
        scrub_small: whether that includes small pieces, which lie among memory that may change for good reasons.
        reopen_s: age at which it is opened afresh; None for never.
        batch: tiles in one call, as in service.
    """

    period_s: float
    period_tiles: int = 128
    scrub_s: float = 10.0
    scrub_small: bool = True
    reopen_s: float | None = None
    batch: int = 1

    @classmethod
    def of(cls, settings: Settings) -> CheckSchedule:
        """As the service's settings have it."""
        return cls(
            period_s=60 * settings.engine_check_minutes, period_tiles=settings.engine_check_tiles,
            scrub_s=settings.memory_scrub_s, scrub_small=settings.memory_scrub_small, batch=settings.batch,
            reopen_s=None if settings.engine_reopen_hours is None else 3600 * settings.engine_reopen_hours,
        )  # fmt: skip


class EngineGuard(EngineHealth):
    """Owns the engine of one worker; used on the thread that drives it.

    Args:
        open_engine: opens and verifies an engine (digest of the file, then the golden tile).
        schedule: when it is checked.
        verify: the check at the opening.
        prepare: loads the runtime, so that its own objects are not taken for the engine's.
        log_event: takes events: severity, kind, text.
        on_pass: called when the engine was found right, at its opening or by :meth:`check`.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        open_engine: Open,
        schedule: CheckSchedule,
        *,
        verify: Callable[[Engine], GoldenCheck | None] = verify_golden,
        prepare: Callable[[], object] = lambda: None,
        log_event: LogEvent = lambda _severity, _kind, _text: None,
        on_pass: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open, self._schedule, self._verify, self._clock = open_engine, schedule, verify, clock
        self._prepare, self.log_event, self.on_pass = prepare, log_event, on_pass
        self._scrub = _page_scrub() if schedule.scrub_s > 0 else None
        if self._scrub is not None and not schedule.scrub_small:
            self._scrub.off.add(HEAP)
        self._alarms = AlarmHistory(clock)
        self._engine: Engine | None = None
        self._self_check: SelfCheck | None = None
        self._watch: ConstantsWatch | None = None
        self._opened = self._checked = self._scrubbed = clock()
        self._tiles = 0
        # Of tiles that the engine in service has met; the largest is the last.
        self._shapes: list[tuple[int, int]] = []
        self._reported_unwatched = False

    @property
    def engine(self) -> Engine:
        """The engine in service.

        Raises:
            RuntimeError: there is none; open it first.
        """
        if self._engine is None:
            raise RuntimeError("no engine is open")
        return self._engine

    def open(self) -> Engine:
        """Opens it afresh from disk, in place of one that is open.

        Raises:
            EngineError: it cannot be opened, or does not compute what the reference does.
        """
        self.close()  # first: a board's memory need not hold two engines
        # The runtime's libraries come first: what they allocate when they are loaded is none of the engine's constants.
        self._prepare()
        # Inside, the opening allocates in new memory only, so its pages can be told apart (docs/radiation.md).
        with self._scrub.opening() if self._scrub is not None else nullcontext():
            engine = self._open()
            try:
                self._verify(engine)
                # The golden tile said that this is the model. From here on the engine's own first answer counts.
                self._self_check = SelfCheck.of(engine)
                if constants_watch(engine, self._scrub) is self._scrub:
                    # A runtime packs weights and moves buffers when it meets a shape of tiles: now, in watched memory.
                    # Black ones: the end of a class map has a page of its own, and two pictures may end in one class.
                    self._shapes = first_shapes(engine.tile_sides)
                    for tiles in of_shapes(np.zeros_like(self._self_check.tiles), self._shapes):
                        engine.infer(tiles)
            except BaseException:
                engine.close()
                raise
        try:
            self._learn(engine)
        except BaseException:
            engine.close()
            raise
        self._engine, self._tiles = engine, 0
        self._opened = self._checked = self._scrubbed = self._clock()
        self.on_pass()
        return engine

    def note_tiles(self, count: int, shape: tuple[int, int]) -> None:
        """Counts tiles that are about to be inferred; has the engine meet their shape where it is a new one.

        Raises:
            EngineError: as :meth:`scrub`.
        """
        self._tiles += count
        if shape not in self._shapes:
            self._meet(shape)

    def check_due(self) -> bool:
        """Whether the last check is long enough ago."""
        plan = self._schedule
        return self._tiles >= plan.period_tiles or self._clock() - self._checked >= plan.period_s

    def scrub_due(self) -> bool:
        """Whether the last look at its constants is long enough ago."""
        is_watched = self._watch is not None and self._watch.unavailable is None
        return is_watched and self._clock() - self._scrubbed >= self._schedule.scrub_s

    def reopen_due(self) -> bool:
        """Whether the engine is old enough to be opened afresh."""
        age_s = self._schedule.reopen_s
        return age_s is not None and self._clock() - self._opened >= age_s

    def check(self) -> None:
        """Compares its constants and its answer with those of its opening.

        Raises:
            EngineError: they differ; it is out of service until it is opened again.
        """
        self.scrub()
        self._check_answer()
        self.on_pass()

    def scrub(self) -> None:
        """Compares its constants with those of its opening.

        Raises:
            ConstantsChanged: some differ; it is out of service until it is opened again.
            EngineError: its answer differs as well, or it failed.
        """
        engine = self.engine
        # The watch asks for answers: in small blocks a change counts only if it stays while known shapes are inferred.
        change = None if self._watch is None else self._watch.changed(*self._smaller_ones(), self._check_answer)
        if change is not None:
            # A right answer says that the change may be no fault: the alarm is noted, the engine goes all the same.
            self._alarms.note(change, answers_right=self._answers_right())
            self.close()
            raise ConstantsChanged(engine.backend, pages=len(change.addresses), flips=change.single_bit)
        self._scrubbed = self._clock()

    def close(self) -> None:
        """Takes it out of service."""
        if self._scrub is not None:
            self._scrub.close()
        self._watch = None
        self._shapes = []
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _answers_right(self) -> bool:
        try:
            self._check_answer()
        except EngineError:
            return False
        return True

    def _meet(self, shape: tuple[int, int]) -> None:
        """Has the engine infer two pictures of a new shape of tiles, and stops watching what that writes to.

        What a runtime packs for this shape alone is not watched: it came after the opening.
        """
        check = self._self_check
        if self._scrub is None or self._watch is not self._scrub or check is None:
            return
        # First: what changed until now is not of the new shape's making.
        self.scrub()
        height, width = shape
        for tiles in (np.zeros_like(check.tiles), self._golden(self.engine)):
            self._infer(tiles[:, :, :height, :width])
        self._check_answer()
        # The scans to come are as strict as they were: scenes of ever new shapes would have small blocks never watched.
        self._scrub.learn(None, code=False)
        # The last of the squares stays the last: `_smaller_ones` leaves it to the check.
        self._shapes.insert(0, shape)

    def _smaller_ones(self) -> list[Callable[[], object]]:
        """One inference of the check tile for each shape of tiles below the largest, the newest first."""
        shapes = [] if self._self_check is None else of_shapes(self._self_check.tiles, self._shapes[:-1][:MOST_SHAPES])
        return [partial(self._infer, tiles) for tiles in shapes]

    def _golden(self, engine: Engine) -> Tiles:
        """In batches as in service."""
        return golden_tiles(engine, min(self._schedule.batch, engine.max_batch))

    def _infer(self, tiles: Tiles) -> None:
        try:
            self.engine.infer(tiles)
        except EngineError:
            self.close()
            raise

    def _check_answer(self) -> None:
        try:
            if self._self_check is not None:
                self._self_check.check(self.engine)
        except EngineError:
            self.close()
            raise
        self._checked, self._tiles = self._clock(), 0

    def _learn(self, engine: Engine) -> None:
        """Has it infer tiles of several kinds and finds what held still."""
        check = self._self_check
        if check is not None and not check.exact:
            text = f"{engine.backend} does not repeat itself bit for bit; it is held to {check.least_agreement:.4%}"
            self.log_event("warning", "engine-inexact", text)
        self._watch = constants_watch(engine, self._scrub)
        # Once a worker, not at each opening: it is a property of the backend.
        if self._schedule.scrub_s > 0 and self._watch.unavailable is not None and not self._reported_unwatched:
            self._reported_unwatched = True
            ecc = f"; error correction of the GPU's memory: {ecc_state()}" if engine.backend == "tensorrt" else ""
            self.log_event("info", "constants-unwatched", f"{self._watch.unavailable}{ecc}")
        # A GPU's watch reads no pages: there is nothing to settle.
        if self._scrub is None or self._watch is not self._scrub or check is None:
            return
        # Different tiles, in batches as in service: what an inference writes to is forgotten now and raises no alarm.
        # Not the content of the opening: what only one shape writes to would be written alike and pass as constant.
        for tiles in of_shapes(self._golden(engine), self._shapes):
            engine.infer(tiles)
            self._scrub.learn(code=False)
        engine.infer(check.tiles)
        self._scrub.learn(_SETTLING_LOOKS)
        log.info("weights in memory are checked against bit flips (%.1f MB)", self._scrub.watched_bytes / 1e6)
        if (explanation := self._alarms.settle(self._scrub)) is not None:
            self.log_event("warning", "pages-dropped", explanation)


def _page_scrub() -> PageScrub | None:
    """None where the system has no /proc."""
    try:
        return PageScrub()
    except OSError:
        return None
