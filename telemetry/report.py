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
        energy_j: trapezoid over rows less than three steps apart; ``unmeasured_s`` is the rest of the time.
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
    tiles = _integral(table.seconds, speed, step)[0] if np.isfinite(speed).any() else None
    heat = [table.low(name) for name in table.fields("temperature_c")]
    hottest = [table.high(name) for name in table.fields("temperature_c")]
    held = _held_back(table)
    main_figures = next((figures for figures in rail_figures if figures.rail == (main or "").partition(":")[2]), None)
    worked = float(np.nansum(busy[np.isfinite(speed)]))  # rows, in parts: a long row may hold pauses
    return Figures(
        seconds=float(table.seconds[-1]), rows=len(table), step_s=step, rails=rail_figures,
        main=None if main is None else main.partition(":")[2], tiles=tiles,
        tiles_per_s=float(np.nansum(speed)) / worked if worked > 0 else None,
        joules_per_tile=main_figures.energy_j / tiles if main_figures is not None and tiles else None,
        coldest_c=_extreme(heat, np.nanmin), hottest_c=_extreme(hottest, np.nanmax),
        throttled_s=None if held is None else float(held.sum() * step),
        idle_is="calibrated" if idle_w is not None else "mean of the time without work",
    )  # fmt: skip


def text_of(figures: Figures) -> str:
    """The numbers as a table for people."""
    lines = [
        f"{figures.seconds:,.0f} s of running in {figures.rows:,} rows of {figures.step_s:g} s",
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
    at = table.seconds / scale
    # Equal histories give equal files: SVG would carry a random salt in its names, and a date.
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "x"}
    with plt.rc_context(style | {"text.parse_math": False}):  # a rail may be called anything
        figure, axes = plt.subplots(
            3, 1, figsize=(9, 6.4), sharex=True, height_ratios=(3, 1.2, 1.2), layout="constrained"
        )
        _draw_power(axes[0], table, at, figures, paper=paper)
        _draw_speed(axes[1], table, at, figures)
        _draw_heat(axes[2], table, at)
        _shade_throttling(axes, table, at)
        axes[2].set_xlabel(f"{unit} of running")
        right = at[-1] if len(at) > 1 and at[-1] > 0 else 1.0
        axes[2].set_xlim(0, right * 1.12)  # room for the names of lines
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


def _draw_power(axes: Axes, table: Table, at: NDArray[np.float64], figures: Figures, *, paper: bool) -> None:
    axes.set_ylabel("power, W")
    ends: list[tuple[float, str, str]] = []
    for number, rail in enumerate(figures.rails):
        name, colour = f"power_w:{rail.rail}", _COLOURS[number % len(_COLOURS)]
        bold = rail.rail == figures.main
        x, low, mean, high = _broken(table, at, name)
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
    _name_lines(axes, at, ends)


def _draw_speed(axes: Axes, table: Table, at: NDArray[np.float64], figures: Figures) -> None:
    axes.set_ylabel("tiles/s")
    x, _, mean, _ = _broken(table, at, "work:tiles_per_s")
    if not np.isfinite(mean).any():
        axes.text(0.5, 0.5, "nothing was mapped", transform=axes.transAxes, ha="center", color=_GREY)
        axes.set_yticks([])
        return
    axes.fill_between(x, 0, mean, color=_COLOURS[2], alpha=0.35, linewidth=0)
    axes.plot(x, mean, color=_COLOURS[2], linewidth=1.0)
    axes.set_ylim(bottom=0)
    if figures.tiles_per_s is not None:
        axes.set_title(f"{figures.tiles_per_s:.2f} tiles/s while working", loc="left", fontsize=8.5, color=_GREY)


def _draw_heat(axes: Axes, table: Table, at: NDArray[np.float64]) -> None:
    axes.set_ylabel("heat, °C")
    ends: list[tuple[float, str, str]] = []
    names = sorted(table.fields("temperature_c"), key=lambda name: -float(np.nan_to_num(table.high(name)).max()))
    for number, name in enumerate(names[:3]):
        x, low, mean, high = _broken(table, at, name)
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
    _name_lines(axes, at, ends)


def _shade_throttling(every: Any, table: Table, at: NDArray[np.float64]) -> None:
    held = _held_back(table)
    if held is None:
        return
    edges = np.flatnonzero(np.diff(np.r_[False, held, False].astype(int)))
    step = float(np.median(np.diff(at))) if len(at) > 1 else 0.0
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        inside = at[begin:end]
        # A gap in the history within a throttled span is not shaded: nobody measured there.
        pieces = np.split(inside, np.flatnonzero(np.diff(inside) > GAP_STEPS * step) + 1)
        for axes in every:
            for piece in pieces:
                axes.axvspan(piece[0], piece[-1] + step, color="#B22222", alpha=0.12, linewidth=0)
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


def _name_lines(axes: Axes, at: NDArray[np.float64], ends: list[tuple[float, str, str]]) -> None:
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
            text, (at[-1], place - down), xytext=(4, 0), textcoords="offset points", color=colour, va="center",
            fontsize=8, annotation_clip=False,
        )  # fmt: skip


def _left(axes: Axes, value: float, text: str) -> None:
    axes.annotate(
        text, (0, value), xycoords=("axes fraction", "data"), xytext=(3, 3), textcoords="offset points",
        color=_GREY, fontsize=8, bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def _broken(
    table: Table, at: NDArray[np.float64], field: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Time, least, mean and most, with a NaN in each gap so that no line bridges it.

    Rows without a value are left out first: a field that is measured more seldom than rows are written is no gap.
    """
    low, mean, high = table.low(field), table.mean(field), table.high(field)
    measured = np.isfinite(mean)
    x, low, mean, high = at[measured], low[measured], mean[measured], high[measured]
    if len(x) < 3:
        return x, low, mean, high
    gaps = np.flatnonzero(np.diff(x) > GAP_STEPS * np.median(np.diff(x))) + 1
    middle = (x[gaps - 1] + x[gaps]) / 2
    return (np.insert(x, gaps, middle), *(np.insert(values, gaps, np.nan) for values in (low, mean, high)))  # type: ignore[return-value]


def _rail(table: Table, name: str, busy: NDArray[np.float64], idle_w: float | None) -> RailFigures:
    power = table.mean(name)
    joules, measured, gap = _integral(table.seconds, power, max(table.step_s, 1e-3))
    # A row of a minute may hold work and pauses: only rows of almost one kind count.
    idle = _mean(power[busy < 0.1]) if idle_w is None else idle_w
    work = _mean(power[busy > 0.9])
    return RailFigures(
        name.partition(":")[2], float(np.nanmean(power)), float(np.nanmax(table.high(name))), idle, work,
        None if idle is None or work is None else work - idle, joules, measured, gap,
    )  # fmt: skip


def _integral(seconds: NDArray[np.float64], values: NDArray[np.float64], step: float) -> tuple[float, float, float]:
    """Trapezoid over neighbours that are close enough: the sum, the seconds it covers, and those it does not."""
    measured = np.isfinite(values)
    x, y = seconds[measured], values[measured]
    spans = np.diff(x)
    # The field's own pace: where it is measured more seldom than rows are written, that is no gap.
    usual = float(np.median(spans)) if len(spans) else step
    near = spans <= GAP_STEPS * max(step, usual)
    total = float(seconds[-1] - seconds[0])
    covered = float(spans[near].sum())
    return float((((y[:-1] + y[1:]) / 2) * spans)[near].sum()), covered, max(0.0, total - covered)


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


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
