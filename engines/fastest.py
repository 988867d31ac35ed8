"""`--backend fastest`: measures which backend is fastest here, once, and remembers the result.

Two equal machines may choose differently, by chance or by load, so this is no default, and the STAC item records it.
`auto` chooses by a rule (engines/selection.py). The choice is remembered because a scene that one backend has begun
cannot be finished by another: its canvas belongs to the digest of the engine that began it. After a change of model,
runtime, processor or thread count it is measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engines.engine import Engine
from engines.files import replace_file, synced_folder
from engines.selection import PASSED_OVER, Choice, note_choice, reason_of, verified
from engines.verify import golden_tiles

log = logging.getLogger(__name__)
_CALLS = 3


@dataclass(frozen=True)
class Trial:
    """Result of one backend: seconds per tile (minimum of three calls), or the problem that excludes it."""

    backend: str
    seconds: float | None
    problem: str | None


def seconds_a_tile(engine: Engine) -> float:
    """Minimum of three calls on the golden tile, in seconds."""
    tiles = golden_tiles(engine, 1)
    took = []
    for _ in range(_CALLS):
        begin = time.perf_counter()
        engine.infer(tiles)
        took.append(time.perf_counter() - begin)
    # The least: other work on the machine can only add to a call.
    return min(took)


def open_fastest(
    openers: Mapping[str, Callable[[], Engine]],
    key: str,
    choices: Path,
    *,
    measure: Callable[[Engine], float] = seconds_a_tile,
) -> Engine:
    """Opens the backend remembered for `key`, else times all and remembers the fastest; always checks the golden tile.

    Args:
        openers: by backend name. A backend that cannot be opened or fails its golden tile is left out.
        key: digest of everything that the choice depends on, see `choice_key`.
        choices: JSON file of remembered choices, created if missing; if it cannot be written, the next opening
            measures again.
        measure: returns the seconds per tile of an open engine.

    Raises:
        OpeningRefused, BuildFailed, GoldenFailed, AcceptanceFailed: of the first backend, where none is left.
        InferenceFailed: a backend failed that may work at another try.
    """
    remembered = _remembered_backend(choices, key)
    if remembered is not None and remembered in openers:
        try:
            return _measured(openers[remembered], {})
        except PASSED_OVER as error:
            log.warning("%s, the fastest before, cannot be used: %s", remembered, error)
    if len(openers) == 1:
        return _measured(next(iter(openers.values())), {})
    trials, refusals = [], []
    for name, opener in openers.items():
        try:
            # One engine at a time: a board's memory need not hold two. The fastest is opened again below.
            with verified(opener()) as engine:
                trials.append(Trial(name, measure(engine), None))
        except PASSED_OVER as error:  # noqa: PERF203 - a few backends, each may refuse
            trials.append(Trial(name, None, str(error)))
            refusals.append(error)
    for trial in trials:
        log.info("backend %s: %s", trial.backend, trial.problem or f"{trial.seconds:.3f} s a tile")
    timed = [(trial.seconds, trial.backend) for trial in trials if trial.seconds is not None]
    if not timed:
        raise refusals[0]
    fastest = min(timed)[1]
    _remember_backend(choices, key, fastest)
    problems = {trial.backend: reason_of(trial.problem) for trial in trials if trial.problem is not None}
    return _measured(openers[fastest], problems)


def choice_key(**facts: str | int | None) -> str:
    """Digest of what a choice depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _measured(opener: Callable[[], Engine], passed_over: Mapping[str, str]) -> Engine:
    return note_choice(verified(opener()), Choice("measured", passed_over))


def _remembered_backend(choices: Path, key: str) -> str | None:
    try:
        stored = json.loads(choices.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = stored.get(key) if isinstance(stored, dict) else None
    return name if isinstance(name, str) else None


def _remember_backend(choices: Path, key: str, name: str) -> None:
    """Written before the backend is used, so that a map is finished by the same one after a power cut.

    If the disk is full or read-only, the only loss is another measurement later.
    """
    try:
        stored = json.loads(choices.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = {}
    stored = stored if isinstance(stored, dict) else {}
    try:
        choices.parent.mkdir(parents=True, exist_ok=True)
        synced_folder(choices.parent.parent)  # which has just got the folder's name, perhaps
        replace_file(choices, json.dumps({**stored, key: name}, indent=1).encode())
    except OSError as error:
        log.warning("the choice of %s cannot be saved: %s", name, error)
