"""Reports of an evaluation: text, Markdown, JSON, and the confusion matrix as a picture."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.metrics import Scores
from trainer.evaluate.bootstrap import BLOCK, LEVEL, Interval, Intervals
from trainer.evaluate.evaluation import Evaluated

_SHOWN = 20  # images with a row of their own in text and Markdown; the JSON has them all


@dataclass(frozen=True)
class Report:
    """The report of one evaluation.

    Attributes:
        model: name and version, or several where images were held out in turn.
        split: what was evaluated, in words.
        intervals: of the bootstrap, if it was asked for.
    """

    model: str
    split: str
    evaluated: Evaluated
    intervals: Intervals | None = None

    def write(self, folder: Path) -> None:
        """Write evaluation.json, evaluation.md and confusion.png into ``folder``, which is made where missing."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
        (folder / "evaluation.md").write_text(self.markdown(), encoding="utf-8")
        draw_confusion(self, folder / "confusion.png")

    def as_json(self) -> dict[str, Any]:
        """JSON-able form; a figure that does not exist is null."""
        description, confusion = self.evaluated.description, self.evaluated.confusion
        names = [item.name for item in description.classes]
        report: dict[str, Any] = {
            "model": self.model,
            "set": {"name": description.name, "title": description.title, "licence": description.licence},
            "split": self.split,
            "all": _figures(self.evaluated.pooled, names),
            "images": {name: _figures(scores, names) for name, scores in self.evaluated.images.items()},
            "confusion": {"rows": "truth", "columns": ["no_data", *names], "pixels": confusion.counts[1:].tolist()},
        }
        if self.intervals is not None:
            report["bootstrap"] = {
                "level": LEVEL,
                "block_px": BLOCK,
                "blocks": self.intervals.blocks,
                "draws": self.intervals.draws,
                "seed": self.intervals.seed,
                "miou": _bounds(self.intervals.miou),
                "iou": {name: _bounds(bounds) for name, bounds in zip(names, self.intervals.iou, strict=True)},
            }
        return report

    def text(self) -> str:
        """The figures as a table of plain text, one line an image and one for all."""
        names = [item.name for item in self.evaluated.description.classes]
        rows = self._rows()
        label = max(len(name) for name, _ in rows)
        lines = [" ".join([" " * label, *(f"{name[:11]:>11}" for name in names), "  mIoU     OA    mF1"])]
        for name, scores in rows:
            ious = " ".join(f"{iou:11.4f}" for iou in scores.iou)
            lines.append(f"{name:<{label}} {ious} {scores.miou:.4f} {scores.overall_accuracy:.4f} {scores.mf1:.4f}")
        if self.intervals is not None:
            lines.append(f"mIoU {self.evaluated.pooled.miou:.3f}, {LEVEL:.0%} interval {_told(self.intervals.miou)}")
        return "\n".join(lines)

    def markdown(self) -> str:
        """The figures as Markdown, with the notes needed to interpret them."""
        evaluated, classes = self.evaluated, self.evaluated.description.classes
        pooled = evaluated.pooled
        spread = self.intervals
        head = "| class | IoU | F1 | share of labels |" + (f" {LEVEL:.0%} interval of IoU |" if spread else "")
        lines = [
            f"# {self.model} on {evaluated.description.title}, {self.split}\n",
            f"Images: {len(evaluated.images)}, mapped by the pipeline that flies; {pooled.pixels:,} labelled pixels; "
            "one confusion matrix over all of them. A labelled pixel mapped as no data is an error.\n",
            f"**mIoU {pooled.miou:.4f}**"
            + (f" ({LEVEL:.0%} interval {_told(spread.miou)})" if spread else "")
            + f", OA {pooled.overall_accuracy:.4f}, mF1 {pooled.mf1:.4f}\n",
            head,
            "|" + "---|" * (head.count("|") - 1),
        ]
        # Row 0 of the matrix is unlabelled.
        shares = evaluated.confusion.counts[1:].sum(axis=1) / max(pooled.pixels, 1)
        for index, item in enumerate(classes):
            row = [item.title, _figure(pooled.iou[index]), _figure(pooled.f1[index]), f"{shares[index]:.1%}"]
            lines.append("| " + " | ".join([*row, _told(spread.iou[index])] if spread else row) + " |")
        if spread:
            lines.append(
                f"\nIntervals: {spread.blocks} blocks of {BLOCK} pixels resampled {spread.draws} times with "
                f"replacement (seed {spread.seed}). They say how much the figures hang on which parts of these images "
                "were counted, not what other places would give."
            )
        lines += ["\n| image | mIoU | OA | mF1 | labelled pixels |", "|---|---|---|---|---|"]
        lines += [
            f"| {name} | {_figure(scores.miou)} | {_figure(scores.overall_accuracy)} | {_figure(scores.mf1)} "
            f"| {scores.pixels:,} |"
            for name, scores in self._rows()
        ]
        return "\n".join([*lines, "\n![confusion matrix](confusion.png)\n"])

    def _rows(self) -> list[tuple[str, Scores]]:
        images = list(self.evaluated.images.items())
        return [*(images if len(images) <= _SHOWN else []), ("all", self.evaluated.pooled)]


def draw_confusion(report: Report, path: Path) -> None:
    """PNG: of each true class (row), the share that was mapped as each class (column)."""
    from matplotlib.figure import Figure

    titles = [item.title for item in report.evaluated.description.classes]
    counts = report.evaluated.confusion.counts[1:]
    unmapped = counts[:, 0].any()
    counts, columns = (counts, ["no data", *titles]) if unmapped else (counts[:, 1:], titles)
    totals = report.evaluated.confusion.counts[1:].sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    side = 2.4 + 0.75 * len(titles)
    figure = Figure(figsize=(side + 0.75 * int(unmapped) + 1.0, side), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        if totals[row]:
            axes.text(
                column, row, f"{100 * share:.1f}", ha="center", va="center", fontsize=9,
                color="white" if share > 0.6 else "black",
            )  # fmt: skip
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    labels = [
        f"{title}\n{total / max(totals.sum(), 1):.1%} of labels" for title, total in zip(titles, totals, strict=True)
    ]
    axes.set_yticks(range(len(titles)), labels)
    axes.set_xlabel("mapped as")
    axes.set_ylabel("truth")
    where = f"{report.evaluated.description.name}, {report.split}"
    figures = f"% of each true class, mIoU {report.evaluated.pooled.miou:.3f}"
    axes.set_title(f"{report.model} on {where}\n{figures}", fontsize=10)
    figure.savefig(path)


def _figures(scores: Scores, names: list[str]) -> dict[str, Any]:
    return {
        "miou": _known(scores.miou),
        "oa": _known(scores.overall_accuracy),
        "mf1": _known(scores.mf1),
        "pixels": scores.pixels,
        "iou": {name: _known(float(iou)) for name, iou in zip(names, scores.iou, strict=True)},
        "f1": {name: _known(float(f1)) for name, f1 in zip(names, scores.f1, strict=True)},
    }


def _bounds(interval: Interval) -> dict[str, float | None]:
    return {name: _known(value) for name, value in asdict(interval).items()}


def _known(value: float) -> float | None:
    # JSON has no NaN.
    return None if math.isnan(value) else round(value, 6)


def _figure(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"


def _told(interval: Interval) -> str:
    return "none" if math.isnan(interval.low) else f"{interval.low:.3f} to {interval.high:.3f}"
