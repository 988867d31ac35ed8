"""`fastest`: the backend that is fastest here and repeats the reference, measured once and then kept to.

Two machines of one kind may choose differently, by chance or by load: only who asks for it gets it, and the item says
so. `auto` chooses by a rule (engines/selection.py). Kept, because a scene half mapped by one backend is not finished by
another: its canvas belongs to the digest of the engine that began it. A change of model, runtime, processor or threads
asks anew.
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
from engines.files import write_durably
from engines.selection import PASSED_OVER, Choice, note_choice, reason_of, verified
from engines.verify import golden_tiles

log = logging.getLogger(__name__)
_CALLS = 3


@dataclass(frozen=True)
class Trial:
    """What one backend did: seconds a tile (least of three calls), or why it is out."""

    backend: str
    seconds: float | None
    problem: str | None


def seconds_a_tile(engine: Engine) -> float:
    """Least of three calls on the golden tile."""
    tiles = golden_tiles(engine, 1)
    took = []
    for _ in range(_CALLS):
        begin = time.perf_counter()
        engine.infer(tiles)
        took.append(time.perf_counter() - begin)
    return min(took)


def open_fastest(
    openers: Mapping[str, Callable[[], Engine]],
    key: str,
    choices: Path,
    *,
    measure: Callable[[Engine], float] = seconds_a_tile,
) -> Engine:
    """Opens the backend kept for `key`, else tries all and keeps the fastest; golden-checked either way.

    Args:
        openers: by name; one that cannot be opened (not here, built for another board, damaged) or fails its golden
            tile is out.
        key: of everything that the choice depends on.
        choices: JSON file, made if missing; where it cannot be written, the next opening measures again.
        measure: seconds a tile of an open engine.

    Raises:
        OpeningRefused, BuildFailed, GoldenFailed, AcceptanceFailed: of the first backend, where none is left.
        InferenceFailed: a backend failed that may work at another try.
    """
    kept = _kept(choices, key)
    if kept is not None and kept in openers:
        try:
            return _measured(openers[kept], {})
        except PASSED_OVER as error:
            log.warning("%s was the fastest and is out: %s", kept, error)
    if len(openers) == 1:
        return _measured(next(iter(openers.values())), {})
    trials, refusals = [], []
    for name, opener in openers.items():
        try:
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
    _keep(choices, key, fastest)
    problems = {trial.backend: reason_of(trial.problem) for trial in trials if trial.problem is not None}
    return _measured(openers[fastest], problems)


def choice_key(**facts: str | int | None) -> str:
    """Digest of what a choice depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _measured(opener: Callable[[], Engine], passed_over: Mapping[str, str]) -> Engine:
    return note_choice(verified(opener()), Choice("measured", passed_over))


def _kept(choices: Path, key: str) -> str | None:
    try:
        told = json.loads(choices.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = told.get(key) if isinstance(told, dict) else None
    return name if isinstance(name, str) else None


def _keep(choices: Path, key: str, name: str) -> None:
    """Before it is used, so that maps begun with it are ended with it after a power cut.

    A disk that is full or read-only costs another measurement later, nothing else.
    """
    try:
        told = json.loads(choices.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    told = told if isinstance(told, dict) else {}
    try:
        choices.parent.mkdir(parents=True, exist_ok=True)
        write_durably(choices, json.dumps({**told, key: name}, indent=1).encode())
    except OSError as error:
        log.warning("the choice of %s cannot be kept: %s", name, error)
