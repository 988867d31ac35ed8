"""Runs every arm of an ablation study for every seed; runs that are already finished are skipped."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.metrics import Scores
from trainer.ablate.rows import Row, Score, Stretch, digest_of, evaluation_of
from trainer.ablate.score import confusion_of
from trainer.ablate.settings import AblateSettings
from trainer.ablate.table import passed_gate
from trainer.config import FinetuneSettings
from trainer.data.scene_cache import scenes_of
from trainer.distill.settings import DistillSettings
from trainer.distill.task import DistillTask, open_tiles
from trainer.errors import SettingsRefused
from trainer.finetune.task import LandCoverTask, segmenter_of
from trainer.models.segmenter import Segmenter
from trainer.training.checkpoint import checkout_commit, has_checkpoint, load_weights, read_average, read_facts
from trainer.training.loop import Run, fabric_of, run_to_end
from trainer.training.record import read_record

log = logging.getLogger(__name__)


def run_matrix(
    settings: AblateSettings, work: Path, results: Path, *, past_gate: bool = False, only: Sequence[str] = ()
) -> list[Row]:
    """Runs every arm with the first seed, then with the next, so that a first table is there early.

    With a gate, its arm and the arm it must beat are run first, with all seeds. If the gate is not passed, the other
    arms are not run, because there is nothing to distil.

    Args:
        settings: the study.
        work: folder of checkpoints and pictures. Runs are named by the digest of the settings that decide their result:
            a changed setting starts a new run, and arms or studies with equal settings share one.
        results: folder of the rows, small files to keep.
        past_gate: run the other arms even if the gate is not passed.
        only: arms to run, whatever the gate says; empty for all. Several processes can share a study this way.

    Raises:
        SettingsRefused: the matrix has no such arm.
        TrainerError: see its tree.
    """
    if unknown := [arm for arm in only if arm not in settings.arms]:
        known = ", ".join(settings.arms)
        raise SettingsRefused("arms", f"{settings.name} has no arm {', '.join(unknown)}; there are {known}")
    if only:
        return [
            _row(settings, arm, seed, work, results / f"{arm}-{seed}.json") for seed in settings.seeds for arm in only
        ]
    first = [] if settings.gate is None else [settings.against, settings.gate]
    rest = [arm for arm in settings.arms if arm not in first]
    rows = []
    for arms in (first, rest):
        for seed in settings.seeds:
            rows += [_row(settings, arm, seed, work, results / f"{arm}-{seed}.json") for arm in arms]
        if arms is first and not past_gate and passed_gate(settings, rows) is False:
            log.info("the gate is not passed: the other arms are not run (--past-gate runs them)")
            break
    return rows


def read_rows(settings: AblateSettings, results: Path) -> list[Row]:
    """The existing rows of the study's arms and seeds; rows scored by another evaluation are left out."""
    paths = [results / f"{arm}-{seed}.json" for arm in settings.arms for seed in settings.seeds]
    rows = []
    for path in paths:
        if not path.is_file():
            continue
        row = Row.read(path)
        if row.is_scored_by(settings):
            rows.append(row)
        else:
            log.info("%s, seed %d: left out, scored by another evaluation: run the matrix again", row.arm, row.seed)
    return rows


def _row(settings: AblateSettings, arm: str, seed: int, work: Path, path: Path) -> Row:
    distill = settings.distill_of(arm, seed=seed)
    # By digest: arms that distil alike share one run.
    encoder = None if distill is None else work / f"distill-{digest_of(distill)}"
    finetune = settings.finetune_of(arm, seed=seed, encoder=encoder)
    # The encoder is a path in `work`, which may lie elsewhere next time; its settings are in the digest already.
    digest = digest_of(distill, finetune.model_copy(update={"encoder": None}))
    folder = work / f"finetune-{digest}"
    stands = Row.read(path) if path.is_file() else None
    # A row of other settings is made anew and replaced only when the new one is there.
    if stands is not None and stands.settings == digest:
        if stands.is_scored_by(settings):
            log.info("%s, seed %d: done already", arm, seed)
            return stands
        if _is_at_end(folder, stands):
            log.info("%s, seed %d: another evaluation, scored again", arm, seed)
            return _written(replace(stands, scores=_scores(settings, finetune, folder)), settings, path)
    log.info("%s, seed %d", arm, seed)
    taught = None if distill is None or encoder is None else _distilled(distill, encoder)
    fitted = _finetuned(finetune, folder)
    row = Row(
        arm=arm, seed=seed, commit=checkout_commit(), settings=digest, distill=taught, finetune=fitted,
        scores=_scores(settings, finetune, folder),
    )  # fmt: skip
    return _written(row, settings, path)


def _is_at_end(folder: Path, row: Row) -> bool:
    """Whether the weights that a row was scored with still exist."""
    return has_checkpoint(folder) and bool(read_facts(folder).get("step") == row.finetune.steps)


def _written(row: Row, settings: AblateSettings, path: Path) -> Row:
    row = replace(row, evaluation=evaluation_of(settings))
    row.write(path)
    log.info("%s, seed %d: %s", row.arm, row.seed, {name: round(score.miou, 4) for name, score in row.scores.items()})
    return row


def _distilled(settings: DistillSettings, folder: Path) -> Stretch:
    tiles: Sequence[NDArray[np.uint8]] = open_tiles(settings)
    run = run_to_end(settings, DistillTask(settings, tiles), folder, fabric_of(settings))
    rows = read_record(folder)
    # Single steps are noisy: the last twentieth stands for the end.
    last = rows[-max(1, len(rows) // 20) :]
    facts: dict[str, object] = {"tiles": len(tiles)}
    for name in rows[0]:
        if name in {"student", "teacher", "alignment", "r"} or name.startswith("r2_"):
            facts[name] = round(float(np.mean([float(row[name]) for row in last])), 5)
    if "stage" in rows[0]:
        facts["stage_steps"] = dict(Counter(row["stage"] for row in rows))
    return _stretch(run, facts)


def _finetuned(settings: FinetuneSettings, folder: Path) -> Stretch:
    scenes = scenes_of(settings.data, classes=settings.model.classes)
    run = run_to_end(settings, LandCoverTask(settings, scenes), folder, fabric_of(settings))
    last = [float(row["total"]) for row in read_record(folder)[-20:]]
    return _stretch(run, {"total": round(float(np.mean(last)), 5)})


def _stretch(run: Run, facts: dict[str, object]) -> Stretch:
    return Stretch(steps=run.step, images=run.images, seconds=round(run.seconds, 1), facts=facts)


def _scores(settings: AblateSettings, finetune: FinetuneSettings, folder: Path) -> dict[str, Score]:
    network = segmenter_of(finetune)
    load_weights(network, read_average(folder), folder)
    scores = {}
    for name, images in settings.evaluate.items():
        scores[name] = _scored(settings, network, finetune, images)
    return scores


def _scored(settings: AblateSettings, network: Segmenter, finetune: FinetuneSettings, names: tuple[str, ...]) -> Score:
    scenes = scenes_of(finetune.data.model_copy(update={"names": names}), classes=finetune.model.classes)
    confusion = confusion_of(network, scenes, classes=finetune.model.classes, tile=settings.tile, halo=settings.halo)
    return score_of(confusion.scores())


def score_of(scores: Scores) -> Score:
    """The figures of a row."""
    return Score(
        miou=round(scores.miou, 5),
        iou=tuple(None if np.isnan(value) else round(float(value), 5) for value in scores.iou),
        overall_accuracy=round(scores.overall_accuracy, 5),
        mf1=round(scores.mf1, 5),
    )
