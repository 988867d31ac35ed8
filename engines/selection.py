"""`auto`: one backend by a rule, so that two machines of one kind make the same map.

The rule: of the backends whose runtime loads here and whose instruction set or device this machine has, and whose
precision the model's manifest accepts, the first in a fixed order that repeats the golden tile. Nothing is timed; who
wants the backend that is fastest here and now asks for it (`fastest`, engines/fastest.py).
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engines.engine import Engine
from engines.errors import AcceptanceFailed, BuildFailed, EngineError, GoldenFailed, OpeningRefused, one_line
from engines.verify import verify_accepted, verify_golden

log = logging.getLogger(__name__)
PASSED_OVER = (OpeningRefused, BuildFailed, GoldenFailed, AcceptanceFailed)
"""What passes a backend over: it cannot be had, or computes wrong. One that fails otherwise may work at the next try,
and is not given up for another one."""
_X86_64 = ("x86_64", "amd64")
# Measured on x86-64 only (README, "Precisions and backends"): tiles/s of 3.61, 1.73 and 1.60 for dubai-lite, and 3.44
# for its INT8 form on OpenVINO where ONNX Runtime does 1.19. On other processors nobody measured OpenVINO.
_ORDER_X86_64 = ("tensorrt", "openvino-bf16", "openvino", "onnxruntime")
_ORDER_ELSEWHERE = ("tensorrt", "onnxruntime", "openvino-bf16", "openvino")
_REASON_CHARACTERS = 120


@dataclass(frozen=True)
class Choice:
    """How the backend of an engine was chosen; the item of every map says it.

    Attributes:
        how: "named" by the user, by "rule", or "measured" on this machine.
        passed_over: backends that the rule or the measurement would rather have taken, and why they were not.
    """

    how: str = "named"
    passed_over: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"chosen": self.how, "passed_over": dict(self.passed_over)}


def choice_of(engine: Engine) -> Choice:
    """How the engine's backend was chosen; "named" where nothing else was noted."""
    choice = getattr(engine, "choice", None)
    return choice if isinstance(choice, Choice) else Choice()


def note_choice(engine: Engine, choice: Choice) -> Engine:
    """The same engine, which now says how it was chosen."""
    engine.choice = choice  # type: ignore[attr-defined]
    return engine


def rule_order(machine: str | None = None) -> tuple[str, ...]:
    """Backends, the one to be preferred first, for a processor as `platform.machine` names it (default: this one)."""
    return _ORDER_X86_64 if (machine or platform.machine()).lower() in _X86_64 else _ORDER_ELSEWHERE


def open_by_rule(openers: Mapping[str, Callable[[], Engine]], passed_over: Mapping[str, str]) -> Engine:
    """Opens the first backend that opens and repeats the golden tile.

    Args:
        openers: by name, in the rule's order.
        passed_over: backends that come before some of these and are not here, and why.

    Raises:
        OpeningRefused, BuildFailed, GoldenFailed, AcceptanceFailed: of the first backend, where none is left.
        InferenceFailed: a backend failed that may work at another try; no other takes its place.
    """
    reasons, errors = dict(passed_over), []
    for name, opener in openers.items():
        try:
            engine = _verified_or_again(opener)
        except PASSED_OVER as error:
            log.warning("backend %s is passed over: %s", name, error)
            reasons[name] = reason_of(error)
            errors.append(error)
            continue
        order = rule_order()
        before = order[: order.index(name)] if name in order else ()
        return note_choice(engine, Choice("rule", {other: reasons[other] for other in before if other in reasons}))
    raise errors[0]


def verified(engine: Engine) -> Engine:
    """The same engine, held to its manifest's acceptance and its golden tile; closed where it fails.

    Raises:
        AcceptanceFailed, GoldenFailed, InferenceFailed: see engines.verify.
    """
    try:
        verify_accepted(engine)
        verify_golden(engine)
    except BaseException:
        engine.close()
        raise
    return engine


def _verified_or_again(opener: Callable[[], Engine]) -> Engine:
    """A bit that flipped in memory must not choose the backend: what computes wrong is opened from disk once more."""
    try:
        return verified(opener())
    except GoldenFailed as error:
        log.warning("%s; opened once more", error)
        return verified(opener())


def reason_of(error: EngineError | str) -> str:
    """Why a backend was passed over, short enough for an item that goes through the link."""
    text = one_line(error) if isinstance(error, EngineError) else " ".join(error.split())
    return text if len(text) <= _REASON_CHARACTERS else text[: _REASON_CHARACTERS - 3] + "..."
