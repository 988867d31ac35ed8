"""The power report: a table and a figure of power by rail, tiles per second and temperature, with throttling marked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from telemetry.discover import MODULE_RAILS
from telemetry.table import Table, TableError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP_STEPS = 3.0
PAPER = {"idle": 5.74, "work": 18.95}
"""Watts that the paper measured on an Orin NX, for comparison."""
# Okabe and Ito's palette: told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#555555"


@dataclass(frozen=True)
class RailFigures:
    """One rail.

    Attributes:
        idle_w, work_w: mean while nothing was mapped or the governor made work wait, and while something was mapped;
            None where that never was.
        net_w: their difference.
        energy_j: each row's mean by the time that it covers; of single samples, trapezoids between those less than
            three steps apart. ``unmeasured_s`` is the rest of the time.
    """

    rail: str
    mean_w: float
    peak_w: float
    idle_w: float | None
    work_w: float | None
    net_w: float | None
    energy_j: float
    measured_s: float
    unmeasured_s: float


@dataclass(frozen=True)
class Figures:
    """Everything in numbers; None is "not measured"."""

    seconds: float
    rows: int
    step_s: float
    rails: tuple[RailFigures, ...]
    main: str | None
    tiles: float | None
    tiles_per_s: float | None
    joules_per_tile: float | None
    coldest_c: float | None
    hottest_c: float | None
    throttled_s: float | None
    idle_is: str

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def figures_of(table: Table, *, idle_w: float | None = None) -> Figures:
    """The numbers of a table.

    Args:
        table: one row at least.
        idle_w: calibrated power of the main rail at rest; otherwise the mean of rows without work.

    Raises:
        TableError: there is nothing to report.
    """
    if not len(table):
        raise TableError("there is no row of history; let the service run, or ask for an earlier --since")
    # A single row has a step of 0.
    step = max(table.step_s, 1e-3)
    rails = [name for name in table.fields("power_w") if np.isfinite(table.mean(name)).any()]
    main = _main(rails)
    busy = table.mean("work:busy")
    ordered = sorted(rails, key=lambda name: (name != main, name))
    rail_figures = tuple(_rail(table, name, busy, idle_w if name == main else None) for name in ordered)
    speed = table.mean("work:tiles_per_s")
    tiles = _integral(table, "work:tiles_per_s")[0] if np.isfinite(speed).any() else None
    heat = [table.low(name) for name in table.fields("temperature_c")]
    hottest = [table.high(name) for name in table.fields("temperature_c")]
    held = _held_back(table)
    main_figures = next((figures for figures in rail_figures if figures.rail == (main or "").partition(":")[2]), None)
    # By parts of rows: a long one may hold pauses.
    worked = _integral(table, "work:busy")[0]
    return Figures(
        seconds=_running_s(table), rows=len(table), step_s=step, rails=rail_figures,
        main=None if main is None else main.partition(":")[2], tiles=tiles,
        tiles_per_s=tiles / worked if tiles is not None and worked > 0 else None,
        joules_per_tile=main_figures.energy_j / tiles if main_figures is not None and tiles else None,
        coldest_c=_extreme(heat, np.nanmin), hottest_c=_extreme(hottest, np.nanmax),
        throttled_s=None if held is None else float(table.covered_s[held].sum()),
        idle_is="calibrated" if idle_w is not None else "mean of the time without work",
    )  # fmt: skip


def text_of(figures: Figures) -> str:
    """The numbers as a table for people."""
    rows = f"{figures.rows:,} row{'' if figures.rows == 1 else 's'}"
    lines = [
        f"{figures.seconds:,.0f} s of running in {rows} of {figures.step_s:g} s",
        f"{'rail':<18}"
        + "".join(f"{name:>9}" for name in ("idle W", "work W", "net W", "mean W", "peak W"))
        + f"{'energy J':>12}{'unmeasured s':>14}",
    ]
    for rail in figures.rails:
        values = (rail.idle_w, rail.work_w, rail.net_w, rail.mean_w, rail.peak_w)
        cells = "".join(f"{'-' if value is None else format(value, '.2f'):>9}" for value in values)
        lines.append(f"{rail.rail:<18}{cells}{rail.energy_j:>12,.1f}{rail.unmeasured_s:>14,.0f}")
    if not figures.rails:
        lines.append("no power was measured: no source of power was found, or the rows are from before there was one")
    else:
        lines.append(f"idle: {figures.idle_is}; {figures.main or figures.rails[0].rail} is the rail that counts")
    speed = _labelled("tiles a second at work", figures.tiles_per_s, ".2f")
    lines.append(_labelled("tiles", figures.tiles, ",.0f") + "; " + speed)
    lines.append(_labelled("joules a tile", figures.joules_per_tile, ".2f"))
    span = (
        "temperature: not measured"
        if figures.hottest_c is None
        else f"temperature: {figures.coldest_c:.1f} to {figures.hottest_c:.1f} °C"
    )
    lines.append(span + "; " + _labelled("throttled", figures.throttled_s, ",.0f", " s"))
    return "\n".join(lines)


def draw(table: Table, out: Path, figures: Figures, *, paper: bool = False) -> tuple[Path, Path]:
    """Writes OUT.png and OUT.svg; gives their paths.

    Raises:
        TableError: matplotlib is missing, or the pictures cannot be written.
    """
    try:
        import matplotlib as mpl

        # Draws without a display.
        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise TableError(f"pictures need matplotlib: {sys.executable} -m pip install matplotlib") from None
    scale, unit = _time_unit(figures.seconds)
    end = _running_s(table) / scale
    # Equal histories give equal files: SVG would carry a random salt in its names, and a date.
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "x"}
    with plt.rc_context(style | {"text.parse_math": False}):  # a rail may be called anything
        figure, axes = plt.subplots(
            3, 1, figsize=(9, 6.4), sharex=True, height_ratios=(3, 1.2, 1.2), layout="constrained"
        )
        _draw_power(axes[0], table, scale, figures, paper=paper)
        _draw_speed(axes[1], table, scale, figures)
        _draw_heat(axes[2], table, scale)
        _shade_throttling(axes, table, scale)
        axes[2].set_xlabel(f"{unit} of running")
        axes[2].set_xlim(0, (end or 1.0) * 1.12)  # room for the names of lines
        paths = out.with_name(out.name + ".png"), out.with_name(out.name + ".svg")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            for path in paths:
                if path.exists() and not path.is_file():
                    raise TableError(f"{path} is no file; choose another --out")
            figure.savefig(paths[0], dpi=150)
            figure.savefig(paths[1], metadata={"Date": None})
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise TableError(f"{out}: the pictures cannot be written: {reason}") from None
        finally:
            plt.close(figure)
    return paths


def _draw_power(axes: Axes, table: Table, scale: float, figures: Figures, *, paper: bool) -> None:
    axes.set_ylabel("power, W")
    ends: list[tuple[float, str, str]] = []
    for number, rail in enumerate(figures.rails):
        name, colour = f"power_w:{rail.rail}", _COLOURS[number % len(_COLOURS)]
        bold = rail.rail == figures.main
        x, low, mean, high = _curve(table, scale, name)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, mean, color=colour, linewidth=1.6 if bold else 1.0)
        last = mean[np.isfinite(mean)]
        # At the mean of the last rows: the very last may be a spike.
        ends.append((float(np.nanmean(last[-20:])), rail.rail, colour))
        if bold:
            for value, text in ((rail.idle_w, "idle"), (rail.work_w, "work")):
                if value is not None:
                    axes.axhline(value, color=_GREY, linewidth=0.8, linestyle=(0, (4, 3)))
                    _left(axes, value, f"{text} {value:.2f} W")
    if paper:
        for text, value in PAPER.items():
            axes.axhline(value, color=_GREY, linewidth=0.6, linestyle=":")
            axes.annotate(
                f"paper, {text} {value} W", (0.5, value), xycoords=("axes fraction", "data"),
                xytext=(0, 2), textcoords="offset points", color=_GREY, fontsize=7.5, ha="center",
            )  # fmt: skip
    if not ends:
        axes.text(0.5, 0.5, "no power was measured", transform=axes.transAxes, ha="center", color=_GREY)
        axes.set_yticks([])
        return
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.08)
    _name_lines(axes, _running_s(table) / scale, ends)


def _draw_speed(axes: Axes, table: Table, scale: float, figures: Figures) -> None:
    axes.set_ylabel("tiles/s")
    x, _, mean, _ = _curve(table, scale, "work:tiles_per_s")
    if not np.isfinite(mean).any():
        axes.text(0.5, 0.5, "nothing was mapped", transform=axes.transAxes, ha="center", color=_GREY)
        axes.set_yticks([])
        return
    axes.fill_between(x, 0, mean, color=_COLOURS[2], alpha=0.35, linewidth=0)
    axes.plot(x, mean, color=_COLOURS[2], linewidth=1.0)
    axes.set_ylim(bottom=0)
    if figures.tiles_per_s is not None:
        axes.set_title(f"{figures.tiles_per_s:.2f} tiles/s while working", loc="left", fontsize=8.5, color=_GREY)


def _draw_heat(axes: Axes, table: Table, scale: float) -> None:
    axes.set_ylabel("heat, °C")
    ends: list[tuple[float, str, str]] = []
    names = sorted(table.fields("temperature_c"), key=lambda name: -float(np.nan_to_num(table.high(name)).max()))
    for number, name in enumerate(names[:3]):
        x, low, mean, high = _curve(table, scale, name)
        if not np.isfinite(mean).any():
            continue
        colour = _COLOURS[(1, 3, 4)[number]]
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, mean, color=colour, linewidth=1.0)
        ends.append((float(np.nanmean(mean[np.isfinite(mean)][-20:])), name.partition(":")[2], colour))
    if not ends:
        axes.text(0.5, 0.5, "no temperature was measured", transform=axes.transAxes, ha="center", color=_GREY)
        axes.set_yticks([])
        return
    _name_lines(axes, _running_s(table) / scale, ends)


def _shade_throttling(every: Any, table: Table, scale: float) -> None:
    held = _held_back(table)
    if held is None:
        return
    at, until = table.seconds / scale, (table.seconds + table.covered_s) / scale
    edges = np.flatnonzero(np.diff(np.r_[False, held, False].astype(int)))
    step = float(np.median(np.diff(at))) if len(at) > 1 else 0.0
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        rows = np.arange(begin, end)
        # A gap in the history within a throttled span is not shaded: nobody measured there.
        pieces = np.split(rows, np.flatnonzero(np.diff(at[rows]) > GAP_STEPS * step) + 1)
        for axes in every:
            for piece in pieces:
                axes.axvspan(at[piece[0]], until[piece[-1]], color="#B22222", alpha=0.12, linewidth=0)
        every[0].annotate(
            "throttled", (at[begin], 1), xycoords=("data", "axes fraction"), xytext=(2, -9),
            textcoords="offset points", fontsize=7.5, color="#B22222",
        )  # fmt: skip


def _held_back(table: Table) -> NDArray[np.bool_] | None:
    """Rows in which a cooling device held the machine back; None where nothing tells."""
    states = [table.high(name) for name in table.fields("throttle_state")]
    known = [state for state in states if np.isfinite(state).any()]
    if not known:
        return None
    held: NDArray[np.bool_] = np.nan_to_num(np.stack(known)).max(axis=0) > 0
    return held


def _name_lines(axes: Axes, end: float, ends: list[tuple[float, str, str]]) -> None:
    """Names at the lines' ends, moved apart where they would touch."""
    low, high = axes.get_ylim()
    # 10.5 points: a line of names at 8 points, in the unit of the axis.
    height = (high - low) * 10.5 / max(1.0, axes.bbox.height * 72 / axes.figure.dpi)
    places: list[float] = []
    for value, _, _ in sorted(ends):
        places.append(max(value, places[-1] + height) if places else value)
    down = max(0.0, places[-1] + height / 2 - high)
    for place, (_, text, colour) in zip(places, sorted(ends), strict=True):
        axes.annotate(
            text, (end, place - down), xytext=(4, 0), textcoords="offset points", color=colour, va="center",
            fontsize=8, annotation_clip=False,
        )  # fmt: skip


def _left(axes: Axes, value: float, text: str) -> None:
    axes.annotate(
        text, (0, value), xycoords=("axes fraction", "data"), xytext=(3, 3), textcoords="offset points",
        color=_GREY, fontsize=8, bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def _curve(
    table: Table, scale: float, field: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Time, minimum, mean and maximum to draw, with a NaN in each gap so that no line bridges it.

    A row of means is a level from its begin to its end: a slope to the next row would show what nobody measured.
    """
    rows, lengths, near = _lengths(table, field)
    x, gaps = table.seconds[rows], np.flatnonzero(~near) + 1
    columns = [table.low(field)[rows], table.mean(field)[rows], table.high(field)[rows]]
    if not _is_of_instants(table, field):
        ends = x + lengths if table.holds_means(field) else x
        begins = x if table.holds_means(field) else x - lengths
        x, columns = np.c_[begins, ends].ravel(), [np.repeat(values, 2) for values in columns]
        gaps = 2 * gaps
    middle = (x[gaps - 1] + x[gaps]) / 2
    low, mean, high = (np.insert(values, gaps, np.nan) for values in columns)
    return np.insert(x, gaps, middle) / scale, low, mean, high


def _rail(table: Table, name: str, busy: NDArray[np.float64], idle_w: float | None) -> RailFigures:
    power, weights = table.mean(name), table.covered_s
    joules, measured, gap = _integral(table, name)
    # A row of a minute may hold work and pauses: only rows of almost one kind count.
    idle = _mean(power, weights, busy < 0.1) if idle_w is None else idle_w
    work = _mean(power, weights, busy > 0.9)
    mean_w = _mean(power, weights, np.isfinite(power))
    return RailFigures(
        name.partition(":")[2], float(np.nanmean(power)) if mean_w is None else mean_w,
        float(np.nanmax(table.high(name))), idle, work,
        None if idle is None or work is None else work - idle, joules, measured, gap,
    )  # fmt: skip


def _integral(table: Table, field: str) -> tuple[float, float, float]:
    """A field over time: the sum, the seconds that it covers, and those that it does not."""
    rows, lengths, near = _lengths(table, field)
    y = table.mean(field)[rows]
    total, covered = float((y * lengths).sum()), float(lengths.sum())
    if _is_of_instants(table, field):
        spans = np.diff(table.seconds[rows])
        total, covered = float((((y[:-1] + y[1:]) / 2) * spans)[near].sum()), float(spans[near].sum())
    return total, covered, max(0.0, _running_s(table) - covered)


def _lengths(table: Table, field: str) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.bool_]]:
    """The rows that have a value, the seconds each stands for, and whether no gap is between one and the next."""
    rows = np.flatnonzero(np.isfinite(table.mean(field)))
    spans = np.diff(table.seconds[rows])
    # The field's own pace: where it is measured more seldom than rows are written, that is no gap.
    usual = float(np.median(spans)) if len(spans) else 0.0
    near: NDArray[np.bool_] = spans <= GAP_STEPS * max(table.step_s, usual, 1e-3)
    if table.holds_means(field):
        # A mean stands for its row, and for rows without a value up to the next one.
        own = table.covered_s[rows]
        return rows, np.r_[np.where(near & (np.diff(rows) > 1), spans, own[:-1]), own[-1:]], near
    # Of work, samples hold what was done since the one before (onboard/processes/sampling.py).
    return rows, np.r_[np.full(min(len(rows), 1), usual), np.where(near, spans, usual)], near


def _is_of_instants(table: Table, field: str) -> bool:
    return not table.holds_means(field) and not field.startswith("work:")


def _running_s(table: Table) -> float:
    """From the first row to the end of the last one; a row of one sample has no length."""
    holds_means = any(table.holds_means(field) for field in table.fields())
    return float(table.seconds[-1]) + (float(table.covered_s[-1]) if holds_means else 0.0)


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64], rows: NDArray[np.bool_]) -> float | None:
    """Of some rows, by their time."""
    rows = rows & np.isfinite(values)
    if not rows.any():
        return None
    # A single row of no known length still has its value.
    return (
        float(np.average(values[rows], weights=weights[rows]))
        if weights[rows].sum() > 0
        else float(values[rows].mean())
    )


def _extreme(columns: list[NDArray[np.float64]], pick: Any) -> float | None:
    finite = [column for column in columns if np.isfinite(column).any()]
    return float(pick([pick(column) for column in finite])) if finite else None


def _main(rails: list[str]) -> str | None:
    named = {name.partition(":")[2]: name for name in rails}
    for rail in (*MODULE_RAILS, "package-0"):
        if rail in named:
            return named[rail]
    return rails[0] if rails else None


def _time_unit(seconds: float) -> tuple[float, str]:
    units: Mapping[float, str] = {1.0: "seconds", 60.0: "minutes", 3600.0: "hours", 86400.0: "days"}
    fit = [length for length in units if seconds >= 3 * length]
    scale = max(fit, default=1.0)
    return scale, units[scale]


def _labelled(label: str, value: float | None, form: str, unit: str = "") -> str:
    return f"{label}: not measured" if value is None else f"{label}: {format(value, form)}{unit}"
