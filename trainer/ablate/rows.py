"""Results of an ablation study: one JSON file per run, with its settings and scores."""

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
    """One run of the training loop: optimiser steps, images, wall-clock seconds, and further values it recorded."""

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
        """Writes it as JSON by one rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        # Several processes may share a folder of results: a reader sees no half a row.
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Row:
        """From JSON."""
        document = json.loads(path.read_text())
        distill = document["distill"]
        scores = {name: Score(**score | {"iou": tuple(score["iou"])}) for name, score in document["scores"].items()}
        runs = {"distill": distill and Stretch(**distill), "finetune": Stretch(**document["finetune"])}
        return cls(**document | runs | {"scores": scores})


_LATER: dict[str, Any] = {
    "degrade": None, "sets": [], "gsd_m": None, "largest_enlargement": 1.6, "heads": {}, "label_stride": 1,
    "frozen_depthwise": False, "soft_weight": 0.5, "relative": None, "fresh_heads": [], "neck": None,
}  # fmt: skip
"""Settings added after the first rows were made, with their neutral values. A neutral value is left out of a digest, so
that the digests of those rows stay valid."""


def digest_of(*settings: BaseModel | None) -> str:
    """Digest of the settings that decide a run's result: without the machine, and with weights by their content."""
    # Where a run runs and what it is called change no weight.
    excluded = {"machine", "name"}
    documents = [None if item is None else item.model_dump(mode="json", exclude=excluded) for item in settings]
    return hashlib.sha256(json.dumps(_by_content(documents), sort_keys=True).encode()).hexdigest()[:16]


def evaluation_of(settings: AblateSettings) -> str:
    """Digest of how runs are scored; apart from a run's own digest, for it takes no new run to score anew."""
    document = settings.model_dump(mode="json", include={"evaluate", "tile", "halo"})
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def _by_content(document: Any) -> Any:
    """The same settings, with the path of existing ``weights`` replaced by the digests of their files."""
    if isinstance(document, list):
        return [_by_content(item) for item in document]
    if not isinstance(document, dict):
        return document
    # Rows are kept over versions: a setting that did not exist then counts only where it is used.
    by_content = {
        key: _by_content(value) for key, value in document.items() if key not in _LATER or value != _LATER[key]
    }
    if isinstance(weights := by_content.get("weights"), str) and (path := Path(weights)).exists():
        # By content: the same weights in another place are the same teacher, and other weights in this place are not.
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        by_content["weights"] = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    return by_content
