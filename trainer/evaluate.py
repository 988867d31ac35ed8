"""Accuracy of a packaged model on whole scenes, mapped by the pipeline that flies."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from engines.manifest import Evaluation, Manifest
from engines.open import open_engine
from onboard.mapping.run import MapRequest, map_scene
from trainer.data.labelled import DATASETS, data_root, scene_paths
from trainer.errors import SettingsRefused
from trainer.metrics import Confusion, Scores

DATASET_TITLES = {"dubai": "Dubai scenes (MBRSC and Humans in the Loop, CC0)"}
"""Name of each data set in manifests and cards."""


@dataclass(frozen=True)
class Evaluated:
    """Scores by scene number, and of all their pixels together."""

    scenes: Mapping[int, Scores]
    pooled: Scores


def evaluate(
    models: Iterable[tuple[Path, Sequence[int]]], dataset: str, *, root: Path | None = None, threads: int | None = None
) -> Evaluated:
    """Map scenes of a data set whole and count every labelled pixel.

    Args:
        models: (model folder, the scenes it maps); more than one where scenes are held out in turn, each mapped by the
            model that has not seen it.
        dataset: name of the data set; its classes must be the model's.
        root: folder of the data sets.
        threads: of the engine.

    Raises:
        DataMissing: a scene is not there.
        SettingsRefused: a model has other classes than the data set.
        EngineError, OnboardError: as the pipeline raises them.
    """
    classes = len(DATASETS[dataset])
    pooled = Confusion(classes)
    scores = {}
    for folder, numbers in models:
        _check_classes(Manifest.load(folder), dataset, folder)
        with tempfile.TemporaryDirectory(prefix="evaluate-") as out, open_engine(folder, threads=threads) as engine:
            for number in numbers:
                image, label = scene_paths(data_root(root), dataset, number)
                summary = map_scene(MapRequest(scene=image, out=Path(out)), engine)
                confusion = Confusion(classes)
                confusion.add(_first_band(label), _first_band(summary.map_path))
                scores[number] = confusion.scores()
                pooled.merge(confusion)
    return Evaluated(scenes=scores, pooled=pooled.scores())


def evaluation_row(scores: Scores, *, dataset: str, split: str, notes: str = "") -> Evaluation:
    """The manifest's form of some scores."""
    names = [item.name for item in DATASETS[dataset]]
    return Evaluation(
        data_set=DATASET_TITLES[dataset],
        split=split,
        per_class_iou={
            name: None if math.isnan(iou) else round(float(iou), 4) for name, iou in zip(names, scores.iou, strict=True)
        },
        miou=round(scores.miou, 4),
        oa=round(scores.overall_accuracy, 4),
        mf1=round(scores.mf1, 4),
        notes=notes,
    )


def with_evaluation(manifest: Manifest, row: Evaluation) -> Manifest:
    """The manifest with a row in place of an earlier one of the same data set and split."""
    kept = [old for old in manifest.evaluation if (old.data_set, old.split) != (row.data_set, row.split)]
    return manifest.model_copy(update={"evaluation": (*kept, row)})


def table(evaluated: Evaluated, dataset: str) -> str:
    """The figures as text, one line a scene and one for all."""
    names = [item.name for item in DATASETS[dataset]]
    lines = [" ".join(["scene ", *(f"{name:>10}" for name in names), "   mIoU     OA    mF1"])]
    rows = [*((str(number), scores) for number, scores in evaluated.scenes.items()), ("all", evaluated.pooled)]
    for name, scores in rows:
        ious = " ".join(f"{iou:10.4f}" for iou in scores.iou)
        lines.append(f"{name:<6} {ious} {scores.miou:6.4f} {scores.overall_accuracy:6.4f} {scores.mf1:6.4f}")
    return "\n".join(lines)


def _check_classes(manifest: Manifest, dataset: str, folder: Path) -> None:
    given = [(item.code, item.name) for item in manifest.classes]
    wanted = [(item.code, item.name) for item in DATASETS[dataset]]
    if given != wanted:
        raise SettingsRefused(str(folder), f"its classes are {given}, those of {dataset} are {wanted}")


def _first_band(path: Path) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # compared pixel by pixel, wherever it lies
        with rasterio.open(path, driver="GTiff") as source:
            band: NDArray[np.uint8] = source.read(1)
    return band
