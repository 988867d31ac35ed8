"""`--backend auto`: chooses the backend by a fixed rule, so that two equal machines make the same map.

The rule: the first backend in a fixed order whose runtime loads here, whose instruction set or device this machine
has, whose precision the model's manifest accepts, and which reproduces the golden tile. Nothing is timed; `--backend
fastest` (engines/fastest.py) measures.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engines.cpu import has_fast_bfloat16
from engines.engine import Engine
from engines.errors import AcceptanceFailed, BuildFailed, EngineError, GoldenFailed, OpeningRefused, one_line
from engines.verify import verify_accepted, verify_golden

log = logging.getLogger(__name__)
PASSED_OVER = (OpeningRefused, BuildFailed, GoldenFailed, AcceptanceFailed)
"""Errors after which the next backend is tried: this one is unavailable, or computes wrong. After any other error a
retry may work, so no other backend is chosen."""
_X86_64 = ("x86_64", "amd64")
# Measured on x86-64 only (docs/models.md): tiles/s of 3.61, 1.73 and 1.60 for dubai-lite, and 3.44
# for its INT8 form on OpenVINO where ONNX Runtime does 1.19. On other processors nobody measured OpenVINO.
_ORDER_X86_64 = ("tensorrt", "openvino-bf16", "openvino", "onnxruntime")
# Where bfloat16 is slower than FP32 it comes last.
_ORDER_SLOW_BFLOAT16 = ("tensorrt", "openvino", "onnxruntime", "openvino-bf16")
_ORDER_ELSEWHERE = ("tensorrt", "onnxruntime", "openvino-bf16", "openvino")
_REASON_CHARACTERS = 120


@dataclass(frozen=True)
class Choice:
    """How the backend of an engine was chosen; recorded in the STAC item of every map.

    Attributes:
        how: "named" by the user, by "rule", or "measured" on this machine.
        passed_over: backends that were preferred but not usable, each with the reason.
    """

    how: str = "named"
    passed_over: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"chosen": self.how, "passed_over": dict(self.passed_over)}


def choice_of(engine: Engine) -> Choice:
    """How the engine's backend was chosen; "named" unless `note_choice` recorded something else."""
    choice = getattr(engine, "choice", None)
    return choice if isinstance(choice, Choice) else Choice()


def note_choice(engine: Engine, choice: Choice) -> Engine:
    """Records on the engine how it was chosen; returns it."""
    engine.choice = choice  # type: ignore[attr-defined]
    return engine


def rule_order(machine: str | None = None) -> tuple[str, ...]:
    """Backends in order of preference, for a processor as `platform.machine` names it (default: this machine's)."""
    if (machine or platform.machine()).lower() not in _X86_64:
        return _ORDER_ELSEWHERE
    return _ORDER_X86_64 if has_fast_bfloat16() else _ORDER_SLOW_BFLOAT16


def open_by_rule(openers: Mapping[str, Callable[[], Engine]], passed_over: Mapping[str, str]) -> Engine:
    """Opens the first backend that can be opened and reproduces the golden tile.

    Args:
        openers: by name, in the rule's order.
        passed_over: backends that are not usable here, each with the reason.

    Raises:
        OpeningRefused, BuildFailed, GoldenFailed, AcceptanceFailed: of the first backend, where none is left.
        InferenceFailed: a backend failed that may work at another try; no other takes its place.
    """
    reasons, errors = dict(passed_over), []
    for name, opener in openers.items():
        try:
            engine = _verified_or_again(opener)
        except PASSED_OVER as error:
            log.warning("backend %s is skipped: %s", name, error)
            reasons[name] = reason_of(error)
            errors.append(error)
            continue
        order = rule_order()
        # Only those that were preferred: what stands behind the choice was never tried.
        before = order[: order.index(name)] if name in order else ()
        return note_choice(engine, Choice("rule", {other: reasons[other] for other in before if other in reasons}))
    raise errors[0]


def verified(engine: Engine) -> Engine:
    """Checks the engine against its manifest's acceptance and its golden tile; returns it, or closes it and raises.

    Raises:
        AcceptanceFailed, GoldenFailed, InferenceFailed: see engines.verify.
    """
    try:
        # The recorded figures first: they need no inference.
        verify_accepted(engine)
        verify_golden(engine)
    except BaseException:
        engine.close()
        raise
    return engine


def _verified_or_again(opener: Callable[[], Engine]) -> Engine:
    """Opens once more from disk if the golden tile fails: a bit flip in memory must not decide the choice."""
    try:
        return verified(opener())
    # Not AcceptanceFailed: that verdict is in the manifest, and reading it again changes nothing.
    except GoldenFailed as error:
        log.warning("%s; opened once more", error)
        return verified(opener())


def reason_of(error: EngineError | str) -> str:
    """Why a backend was passed over, cut to a length that suits a STAC item sent over the downlink."""
    text = one_line(error) if isinstance(error, EngineError) else " ".join(error.split())
    return text if len(text) <= _REASON_CHARACTERS else text[: _REASON_CHARACTERS - 3] + "..."
