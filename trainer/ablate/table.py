"""Results of an ablation study as a Markdown table, and its learning curve as a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from trainer.ablate.rows import Row
from trainer.ablate.settings import AblateSettings

TABLE = "table.md"
CURVE = "curve.png"
CLEAR = 2.0
"""Smallest difference, in standard deviations, that counts."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds, in points of 100; the deviation of one seed is not known."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of figures in 0..1, at least one."""
        points = [100 * value for value in values]
        deviation = statistics.stdev(points) if len(points) > 1 else None
        return cls(statistics.fmean(points), deviation, len(points))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.deviation:.2f}" if self.deviation is not None else " (one seed)")

    def against(self, other: Spread) -> str:
        """The difference, in the deviation of a seed pooled over both; "none" under two of them."""
        if self.deviation is None or other.deviation is None:
            return "one seed"
        # The deviation of one seed, not that of the means: stricter by the root of the number of seeds.
        pooled = math.sqrt((self.deviation**2 + other.deviation**2) / 2)
        difference = self.mean - other.mean
        deviations = abs(difference) / pooled if pooled > 0 else math.inf
        text = f"{difference:+.2f}, {deviations:.1f} sd"
        return text if deviations >= CLEAR else f"none ({text})"

    def beats(self, other: Spread) -> bool | None:
        """Whether it is better by two pooled deviations; None where that cannot be told."""
        if self.deviation is None or other.deviation is None:
            return None
        pooled = math.sqrt((self.deviation**2 + other.deviation**2) / 2)
        return self.mean - other.mean >= CLEAR * pooled and self.mean > other.mean


def write_table(settings: AblateSettings, rows: Sequence[Row], folder: Path) -> str:
    """Writes ``folder``/table.md, and curve.png where the arms have places on an axis; gives the table's text."""
    text = table(settings, rows)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).write_text(text)
    if any(arm.x is not None for arm in settings.arms.values()):
        curve_picture(settings, rows, folder / CURVE)
    return text


def table(settings: AblateSettings, rows: Sequence[Row]) -> str:
    """Markdown: a line an arm, the verdict of the gate, and what the runs told of themselves."""
    by_arm = {arm: [row for row in rows if row.arm == arm] for arm in settings.arms}
    columns = list(settings.evaluate)
    spreads = {
        arm: {name: Spread.of([row.scores[name].miou for row in arm_rows]) for name in columns}
        for arm, arm_rows in by_arm.items()
        if arm_rows
    }
    head = ["arm", *(f"mIoU {name}" for name in columns), f"against {settings.against}", "seeds", "distilled: steps",
            "images", "minutes", "decoder: steps", "images", "minutes", ""]  # fmt: skip
    lines = [f"# {settings.name}\n", settings.about.strip() + "\n", _line(head), _line(["---"] * len(head))]
    lines += [_arm_line(settings, arm, by_arm[arm], spreads) for arm in settings.arms]
    parts = ["\n".join(lines), _gate(settings, spreads), _told(settings, by_arm)]
    return "\n\n".join(part for part in parts if part) + "\n"


def passed_gate(settings: AblateSettings, rows: Sequence[Row]) -> bool | None:
    """Whether the gate's arm beats the one compared with; None where there is no gate, or too few rows to tell."""
    first = next(iter(settings.evaluate))
    values = {
        arm: [row.scores[first].miou for row in rows if row.arm == arm] for arm in (settings.gate, settings.against)
    }
    if settings.gate is None or not all(values.values()):
        return None
    return Spread.of(values[settings.gate]).beats(Spread.of(values[settings.against]))


def _arm_line(settings: AblateSettings, arm: str, rows: Sequence[Row], spreads: dict[str, dict[str, Spread]]) -> str:
    title = settings.arms[arm].title
    if not rows:
        return _line([title, *["not run"] * len(settings.evaluate), *[""] * 9])
    first = next(iter(settings.evaluate))
    against = spreads.get(settings.against)
    difference = "" if arm == settings.against or against is None else spreads[arm][first].against(against[first])
    distilled = [row.distill for row in rows if row.distill is not None]
    cells = [
        title, *(str(spreads[arm][name]) for name in settings.evaluate), difference, str(len(rows)),
        *_means(distilled), *_means([row.finetune for row in rows]), _kind(settings, rows),
    ]  # fmt: skip
    return _line(cells)


def _means(stretches: Sequence[object]) -> list[str]:
    """Steps, images and minutes, means over the seeds; empty where there was no such run."""
    if not stretches:
        return ["", "", ""]
    steps, images, seconds = (
        statistics.fmean(float(getattr(row, name)) for row in stretches) for name in ("steps", "images", "seconds")
    )
    return [f"{steps:.0f}", f"{images:.0f}", f"{seconds / 60:.1f}"]


def _kind(settings: AblateSettings, rows: Sequence[Row]) -> str:
    """Whether the runs were long enough to be results."""
    short = [row for row in rows if row.distill is not None and row.distill.images < settings.least_images]
    return f"smoke: under {settings.least_images} images" if short else ""


def _gate(settings: AblateSettings, spreads: dict[str, dict[str, Spread]]) -> str:
    if settings.gate is None:
        return ""
    first = next(iter(settings.evaluate))
    if settings.gate not in spreads or settings.against not in spreads:
        return "Gate: not run yet."
    gate, against = spreads[settings.gate][first], spreads[settings.against][first]
    passed = gate.beats(against)
    if passed is None:
        return f"Gate: cannot be told from one seed ({gate.against(against)}; {gate} against {against})."
    text = f"the teacher's own features give {gate}, {settings.against} {against}: {gate.against(against)}"
    if passed:
        return f"Gate passed: {text}."
    return f"Gate NOT passed: {text}. Finding: nothing to distil; improve the teacher."


def _told(settings: AblateSettings, by_arm: dict[str, list[Row]]) -> str:
    """Metrics of the distillations, as means over the last twentieth of each run."""
    names = sorted({name for rows in by_arm.values() for row in rows if row.distill for name in row.distill.facts})
    if not names:
        return ""
    lines = ["Of the distillations, means over the last twentieth of the steps:\n",
             _line(["arm", "seed", *names]), _line(["---"] * (len(names) + 2))]  # fmt: skip
    for arm, rows in by_arm.items():
        for row in rows:
            if row.distill is not None:
                facts = [_fact(row.distill.facts.get(name)) for name in names]
                lines.append(_line([settings.arms[arm].title, str(row.seed), *facts]))
    return "\n".join(lines)


def _fact(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def curve_picture(settings: AblateSettings, rows: Sequence[Row], path: Path) -> None:
    """Draws mIoU over the arms' places: a point a seed, a line through the means, the axis logarithmic."""
    places = {arm: arm_settings.x for arm, arm_settings in settings.arms.items() if arm_settings.x is not None}
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in zip(settings.evaluate, ("#1f4e8c", "#c0504d", "#4c9f4c", "#8064a2"), strict=False):
        points = [(places[row.arm], 100 * row.scores[name].miou) for row in rows if row.arm in places]
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.35, markersize=4)
        means = [(x, statistics.fmean(y for at, y in points if at == x)) for x in sorted({at for at, _ in points})]
        axes.plot(*zip(*means, strict=True), color=colour, marker="o", label=name)
    # More tiles help along a logarithm, says the paper.
    axes.set_xscale("log")
    axes.set_xticks(sorted(places.values()), [f"{x:g}" for x in sorted(places.values())])
    axes.minorticks_off()
    axes.set_xlabel(settings.x_label)
    axes.set_ylabel("mIoU, points")
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)
