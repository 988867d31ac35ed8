from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from engines.engine import Prediction
from engines.errors import AnswerChanged, ConstantsChanged
from engines.integrity.constants_watch import constants_watch
from engines.integrity.page_scrub import HEAP, HEAP_LOOKS, OWN, PageChange, PageScrub
from engines.testing import IdentityEngine
from onboard.processes.engine_guard import CheckSchedule, EngineGuard
from onboard.settings import Settings
from telemetry.sources.nvml import ecc_state

pytestmark = pytest.mark.own_process


class OnCpu(IdentityEngine):
    """An engine that counts as one whose constants lie in this process."""

    def __init__(self) -> None:
        super().__init__(tile_size=32)
        self.backend = "onnxruntime"
        self.constants = np.random.default_rng(1).normal(size=1 << 20)


class OnGpu(IdentityEngine):
    def __init__(self) -> None:
        super().__init__(tile_size=32)
        self.backend = "tensorrt"


class Guarded:
    """A guard over engines of a kind, with its clock and its events."""

    def __init__(self, kind: type[IdentityEngine] = OnCpu, **schedule: float | int | None) -> None:
        self.now, self.events, self.engines = 0.0, [], []  # type: ignore[var-annotated]
        self.kind = kind
        self.guard = EngineGuard(
            self._open, CheckSchedule(**{"period_s": 600.0, **schedule}),  # type: ignore[arg-type]
            log_event=lambda *event: self.events.append(event), clock=lambda: self.now,
        )  # fmt: skip

    def _open(self) -> IdentityEngine:
        self.engines.append(self.kind())
        return self.engines[-1]  # type: ignore[no-any-return]


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    guarded = Guarded()
    guarded.guard.open()
    yield guarded
    guarded.guard.close()


def hit(engine: IdentityEngine) -> None:
    assert isinstance(engine, OnCpu)
    engine.constants.view(np.uint64)[600_000] ^= np.uint64(1 << 40)


def test_small_pieces_are_watched_unless_the_setting_says_otherwise() -> None:
    assert Settings().memory_scrub_small
    for given, off in (({}, set()), ({"scrub_small": False}, {HEAP})):
        guard = Guarded(**given).guard  # type: ignore[arg-type]
        assert guard._scrub is not None
        assert guard._scrub.off == off


def test_a_constant_that_changed_has_the_engine_opened_again(guarded: Guarded) -> None:
    guarded.guard.scrub()
    hit(guarded.engines[0])
    with pytest.raises(ConstantsChanged, match="1 pages of its constants changed in memory, 1 of them by one bit"):
        guarded.guard.scrub()
    with pytest.raises(RuntimeError, match="no engine is open"):
        guarded.guard.engine  # noqa: B018
    guarded.guard.open()
    guarded.guard.check()
    assert len(guarded.engines) == 2
    ((_, kind, text),) = guarded.events
    assert kind == "pages-dropped"
    assert "answered right: 1 pages like" in text, "an identity's answer does not depend on it; it was found again"


def test_the_check_before_publishing_looks_at_the_constants_too(guarded: Guarded) -> None:
    hit(guarded.engines[0])
    with pytest.raises(ConstantsChanged):
        guarded.guard.check()


def test_any_other_answer_than_the_first_takes_the_engine_out_of_service(guarded: Guarded) -> None:
    engine = guarded.engines[0]
    whole = engine.infer

    def infer(tiles: np.ndarray) -> object:
        answer = whole(tiles)
        answer.classes[0, 5, 5] ^= 1
        return answer

    engine.infer = infer
    with pytest.raises(AnswerChanged):
        guarded.guard.check()


def test_checks_are_due_by_tiles_by_time_and_by_age() -> None:
    guarded = Guarded(period_tiles=10, scrub_s=5.0, reopen_s=3600.0)
    guarded.guard.open()
    assert not guarded.guard.check_due()
    guarded.guard.note_tiles(10, (32, 32))
    assert guarded.guard.check_due()
    guarded.guard.check()
    assert not guarded.guard.check_due()
    guarded.now += 5
    assert guarded.guard.scrub_due()
    guarded.guard.scrub()
    assert not guarded.guard.scrub_due()
    guarded.now += 600
    assert guarded.guard.check_due()
    assert not guarded.guard.reopen_due()
    guarded.now += 3600
    assert guarded.guard.reopen_due()
    guarded.guard.open()
    assert not guarded.guard.reopen_due()


def test_a_false_alarm_has_the_engine_opened_once_and_the_page_dropped() -> None:
    """The engine answers right before and after: what changed says nothing, and is not to alarm again."""
    guarded = Guarded()
    guarded.guard.open()
    for engine in range(2):
        constants = guarded.engines[engine].constants
        for _ in range(2):
            guarded.guard.scrub()  # in the first looks what is no single bit is dropped in silence
        constants[300_000:300_400] += 1.0  # as memory that was taken for constant and is written to
        if engine == 0:
            with pytest.raises(ConstantsChanged):
                guarded.guard.scrub()
            guarded.guard.open()
    guarded.guard.scrub()
    (event,) = guarded.events
    assert event[:2] == ("warning", "pages-dropped")
    assert "watched no more" in event[2]
    hit(guarded.engines[1])
    with pytest.raises(ConstantsChanged):
        guarded.guard.scrub()


class BySide(IdentityEngine):
    """As runtimes do, it packs weights when it first meets a shape of tiles, and each shape has a buffer of its own."""

    sides: tuple[int, ...] = (256, 512)

    def __init__(self) -> None:
        super().__init__(tile_size=512, tile_sides=self.sides)
        self.backend = "onnxruntime"
        # What an opening leaves in memory that it reserves is not zero.
        self.buffers = np.ones((1024, 1024, 4), np.uint64)
        self.packed: dict[tuple[int, int], np.ndarray] = {}
        # The end of a class map: one class wherever there is ground.
        self.last = np.ones(1 << 16, np.uint64)

    def infer(self, tiles: np.ndarray) -> Prediction:
        height, width = tiles.shape[2:]
        self.packed.setdefault((height, width), np.random.default_rng(height + width).normal(size=1 << 18))
        place = (height > 256) * 2 + (width > 256)
        self.buffers[256 * place : 256 * place + 256] = zlib.crc32(tiles.tobytes())
        self.last[:] = 1 if tiles.std() > 20 else 5
        return super().infer(tiles)


def test_tiles_of_another_shape_are_no_alarm() -> None:
    guarded = Guarded(BySide)
    guarded.guard.open()
    for _ in range(2):
        guarded.guard.scrub()
    for height, width in ((256, 512), (512, 256), (256, 256), (512, 512)):
        guarded.engines[0].infer(np.full((1, 3, height, width), 7, np.uint8))
        guarded.guard.check()
    assert guarded.events == []


class OfManySides(BySide):
    """At its opening it meets squares alone: pairs of five sides would take long."""

    sides = (256, 320, 384, 448, 512)


def flip(engine: IdentityEngine) -> None:
    """One bit of what was packed for squares of 256."""
    assert isinstance(engine, OfManySides)
    engine.packed[256, 256].view(np.uint64)[100_000] ^= np.uint64(1 << 40)


def test_a_shape_of_tiles_that_comes_later_is_met_before_its_first_tile() -> None:
    guarded = Guarded(OfManySides)
    guarded.guard.open()
    engine = guarded.engines[0]
    for _ in range(2):
        guarded.guard.scrub()  # the first looks drop what is no single bit in silence
    assert (256, 512) not in engine.packed
    for height, width in ((256, 512), (512, 320), (256, 512)):
        for _ in range(2):
            guarded.guard.note_tiles(1, (height, width))
            engine.infer(np.full((1, 3, height, width), 7, np.uint8))
            guarded.guard.check()
    assert guarded.events == []
    flip(engine)
    with pytest.raises(ConstantsChanged):
        guarded.guard.scrub()


def test_small_blocks_are_watched_after_a_new_shape_as_they_were_before() -> None:
    guarded = Guarded(OfManySides)
    guarded.guard.open()
    scrub = guarded.guard._scrub
    assert scrub is not None
    for _ in range(HEAP_LOOKS):
        guarded.guard.scrub()
    assert scrub._heap_settling == 0
    guarded.guard.note_tiles(1, (256, 512))
    assert scrub._heap_settling == 0


def test_what_changed_before_a_shape_is_met_is_not_forgotten_with_it() -> None:
    guarded = Guarded(OfManySides)
    guarded.guard.open()
    flip(guarded.engines[0])
    with pytest.raises(ConstantsChanged):
        guarded.guard.note_tiles(1, (256, 512))


@pytest.mark.parametrize("shape", [(256, 256), (512, 256), (512, 512)])
def test_weights_packed_for_tiles_of_another_shape_are_watched(shape: tuple[int, int]) -> None:
    guarded = Guarded(BySide)
    guarded.guard.open()
    engine = guarded.engines[0]
    engine.infer(np.full((1, 3, *shape), 7, np.uint8))
    engine.packed[shape].view(np.uint64)[100_000] ^= np.uint64(1 << 40)
    with pytest.raises(ConstantsChanged, match="1 of them by one bit"):
        guarded.guard.scrub()


def test_a_scrub_that_never_stops_alarming_goes_off(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = itertools.count()

    def changed(scrub: PageScrub, *_: object) -> PageChange | None:
        if OWN in scrub.off:
            return None
        content = np.random.default_rng(next(seeds)).integers(1, 2**63, (1, 512), dtype=np.uint64)
        return PageChange((4096,), (OWN,), 1, content)

    monkeypatch.setattr(PageScrub, "changed", changed)
    guarded, opened = Guarded(), 0
    guarded.guard.open()
    for opened in range(100):  # noqa: B007
        try:
            guarded.guard.scrub()
            break
        except ConstantsChanged:
            guarded.guard.open()
    assert opened == 5
    assert "this memory is watched no more" in guarded.events[-1][2]


def test_constants_on_a_gpu_are_said_to_be_unwatched_once() -> None:
    guarded = Guarded(OnGpu)
    guarded.guard.open()
    guarded.guard.open()
    assert not guarded.guard.scrub_due()
    guarded.guard.check()
    (severity, kind, text) = guarded.events[0]
    assert (severity, kind, len(guarded.events)) == ("info", "constants-unwatched", 1)
    assert "TensorRT gives no address" in text
    assert ecc_state() in text
    assert "is not known" in str(constants_watch(IdentityEngine(tile_size=32), None).unavailable)


def test_a_scrub_that_is_off_looks_at_nothing() -> None:
    guarded = Guarded(scrub_s=0.0)
    guarded.guard.open()
    hit(guarded.engines[0])
    assert not guarded.guard.scrub_due()
    guarded.guard.check()
