"""The rows of a matrix: one JSON file a run, which says how it was made and what it scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trainer.ablate.settings import AblateSettings


@dataclass(frozen=True)
class Stretch:
    """One run of the loop: optimiser steps, images seen, wall seconds; what else it told."""

    steps: int
    images: int
    seconds: float
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """Figures of one column: mean IoU, IoU by class (None: the class is not there), overall accuracy, mean F1."""

    miou: float
    iou: tuple[float | None, ...]
    overall_accuracy: float
    mf1: float


@dataclass(frozen=True)
class Row:
    """One arm under one seed.

    ``settings`` is the digest of both runs' settings: another digest is another run. ``evaluation`` is that of how the
    run was scored, see :func:`evaluation_of`; None in rows of a time when that was not written down.
    """

    arm: str
    seed: int
    commit: str
    settings: str
    distill: Stretch | None
    finetune: Stretch
    scores: Mapping[str, Score]
    evaluation: str | None = None

    def is_scored_by(self, settings: AblateSettings) -> bool:
        """Whether the scores are of the matrix's evaluation; a row that does not say is taken at its columns' names."""
        if self.evaluation is None:
            return set(self.scores) == set(settings.evaluate)
        return self.evaluation == evaluation_of(settings)

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Row:
        """From JSON."""
        told = json.loads(path.read_text())
        distill = told["distill"]
        scores = {name: Score(**score | {"iou": tuple(score["iou"])}) for name, score in told["scores"].items()}
        runs = {"distill": distill and Stretch(**distill), "finetune": Stretch(**told["finetune"])}
        return cls(**told | runs | {"scores": scores})


_LATER: dict[str, Any] = {
    "degrade": None, "sets": [], "gsd_m": None, "largest_enlargement": 1.6, "heads": {}, "label_stride": 1,
    "frozen_depthwise": False, "soft_weight": 0.5, "relative": None,
}  # fmt: skip
"""Settings that came after the first rows were made, with the values that leave everything as it was then: they count
in a digest only where they have others, so that those rows still stand."""


def digest_of(*settings: BaseModel | None) -> str:
    """Of what decides a run's result: not of where it runs, and a teacher's weights by what is in them."""
    told = [None if one is None else one.model_dump(mode="json", exclude={"machine", "name"}) for one in settings]
    return hashlib.sha256(json.dumps(_by_content(told), sort_keys=True).encode()).hexdigest()[:16]


def evaluation_of(settings: AblateSettings) -> str:
    """Digest of how runs are scored; apart from a run's own digest, for it takes no new run to score anew."""
    told = settings.model_dump(mode="json", include={"evaluate", "tile", "halo"})
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _by_content(told: Any) -> Any:
    """The same, with the path of every ``weights`` that are there replaced by the digest of their bytes."""
    if isinstance(told, list):
        return [_by_content(one) for one in told]
    if not isinstance(told, dict):
        return told
    kept = {key: value for key, value in told.items() if key not in _LATER or value != _LATER[key]}
    found = {key: _by_content(value) for key, value in kept.items()}
    if isinstance(weights := found.get("weights"), str) and (path := Path(weights)).exists():
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found["weights"] = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    return found
