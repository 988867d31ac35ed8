"""Rows of the telemetry's Parquet files, thinned while they are read, so that a long history takes little memory.

Rows that follow one another are joined to one while they lie in the same block of running time. What is kept of each:
means by the time that they cover, highest values, and the energy up to it, which is exact at any length of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# As aboard (docs/telemetry.md): energies here and in an item agree.
GAP_STEPS = 3.0
"""Steps of a file between two rows beyond which nothing was measured."""
# 13 MB of float64 with the most columns that are read.
BATCH_ROWS = 1 << 14
MOST_FILE_ROWS = 50_000_000
_MOST_COLUMNS = 100
_FIXED = ("tick", "utc_s")
_SAMPLES = "samples"
# A row of means with fewer samples than its neighbours was cut by a start or an end of the service: telemetry/table.py.
_PARTIAL, _FEWEST_SAMPLES = 0.75, 8
_LARGEST = 1e15
_CLOCK_SET = (946_684_800.0, 4_102_444_800.0)
"""Years 2000 to 2100: a board whose clock was never set says 1970."""


class Damaged(Exception):
    """The file cannot be used; the message says why."""


@dataclass(frozen=True)
class Rows:
    """Some rows in the order in which they were measured.

    Attributes:
        epoch: number of the history aboard that they are of; running time begins again in each.
        step_s: seconds a row, as the file says; gaps are judged by it.
        widest_s: longest time that a row stands for: the step, or the block.
        utc_s: what the clock aboard said, NaN where it cannot have been set.
        seconds: of running.
        count: rows of the file in each row.
        covered_s: time that each stands for: from its begin on where it holds means, else up to its sample.
        values: by column name, NaN where nothing was measured.
        joules, measured_s: by column name of a rail's mean: energy of the row, and the time it covers; where every
            sample has a row, from the row before on.
        ends: by the same name, where every sample has a row: (seconds, watts, position) of the first row and (seconds,
            watts) of the last one that have a value.
        until_s: seconds of running of the last row of the file.
    """

    epoch: int
    step_s: float
    widest_s: float
    utc_s: Floats
    seconds: Floats
    count: Floats
    covered_s: Floats
    values: dict[str, Floats]
    joules: dict[str, Floats]
    measured_s: dict[str, Floats]
    ends: dict[str, tuple[tuple[float, float, int], tuple[float, float]]]
    until_s: float = -np.inf

    def __len__(self) -> int:
        return len(self.seconds)

    def thinned(self, block_s: float) -> Rows:
        """The rows of each block of so many seconds as one row; 0 for all rows."""
        if len(self) < 2 or block_s <= self.widest_s:
            return self
        # By running time, which rises: the clock may jump. Cut also where the clock was set, as a row has one or none.
        blocks = np.floor(self.seconds / block_s)
        is_set = np.isfinite(self.utc_s)
        begins = np.r_[0, 1 + np.flatnonzero((np.diff(blocks) != 0) | (np.diff(is_set.astype(np.int8)) != 0))]
        if len(begins) == len(self):
            return self
        middle = (begins + np.r_[begins[1:], len(self)] - 1) // 2  # its clock is one that was, not a mean over a jump
        covered = np.add.reduceat(self.covered_s, begins)
        ends = {
            name: ((first[0], first[1], int(np.searchsorted(begins, first[2], side="right")) - 1), last)
            for name, (first, last) in self.ends.items()
        }
        return replace(
            self, utc_s=self.utc_s[middle], seconds=self.seconds[middle], covered_s=covered,
            widest_s=block_s, count=np.add.reduceat(self.count, begins),
            values={name: self._joined(name, begins) for name in self.values},
            joules={name: np.add.reduceat(column, begins) for name, column in self.joules.items()},
            measured_s={name: np.add.reduceat(column, begins) for name, column in self.measured_s.items()}, ends=ends,
        )  # fmt: skip

    def _joined(self, name: str, begins: NDArray[Any]) -> Floats:
        column = self.values[name]
        there = np.isfinite(column)
        # reduceat knows no NaN to pass over: -inf stands for it, and a block of these alone is NaN again.
        if name.endswith(".max"):
            highest: Floats = np.maximum.reduceat(np.where(there, column, -np.inf), begins)
            return np.where(np.isfinite(highest), highest, np.nan)
        # By time: rows at the border of two steps are of different length.
        weights = np.where(there, self.covered_s, 0.0)
        total = np.add.reduceat(weights, begins)
        sums = np.add.reduceat(np.where(there, column, 0.0) * weights, begins)
        return np.where(total > 0, sums / np.where(total > 0, total, 1.0), np.nan)


def read_rows(path: Path, epoch: int, block_s: float, after_s: float = -np.inf) -> list[Rows]:
    """Rows of a file behind so many seconds of running, thinned batch by batch.

    Raises:
        Damaged: it cannot be read, or is no history.
        ImportError: pyarrow is missing.
    """
    # Batch by batch: a file of a month at 1 s is never in memory as a whole.
    return [rows.thinned(block_s) for rows in _batches(path, epoch, after_s)]


def _batches(path: Path, epoch: int, after_s: float) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Each of these options spends time to save memory: pre_buffer alone would hold all columns of a row group.
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False, buffer_size=1 << 16) as file:
            if file.metadata.num_rows > MOST_FILE_ROWS:
                raise Damaged(f"has more than {MOST_FILE_ROWS:,} rows")
            names = [name for name in file.schema_arrow.names if name in (*_FIXED, _SAMPLES) or _is_drawn(name)]
            if any(name not in names for name in _FIXED):
                raise Damaged("is no history: it has no columns tick and utc_s")
            step_s = _step_of(file.schema_arrow.metadata or {})
            names = [*_FIXED, *[name for name in names if name not in _FIXED][:_MOST_COLUMNS]]
            for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                columns = {name: _numbers(batch.column(name)) for name in names}
                if rows := _rows(columns, epoch, step_s, after_s):
                    yield rows
    # MemoryError too: a damaged header may name any number of bytes.
    except (OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, pa.ArrowException) as error:
        raise Damaged("cannot be read as Parquet") from error


def _step_of(metadata: dict[bytes, bytes]) -> float:
    """Seconds a row, as `ground telemetry` writes it; 0 where each sample has its own row, or none is said."""
    try:
        step_s = float(metadata.get(b"step_s", b"0"))
    except ValueError:
        return 0.0
    return step_s if 0 < step_s < 1e6 else 0.0


def _is_drawn(name: str) -> bool:
    """A folder that was pulled with --step 0 has every sample, without its least and most."""
    if name.endswith(".min") or len(name) > 200:
        return False
    return name.startswith("power_w:") or (name.startswith(("temperature_c:", "work:")) and not _is_unused(name))


def _is_unused(name: str) -> bool:
    is_heat = name.startswith("temperature_c:")
    if not is_heat and not name.startswith(("work:busy", "work:tiles_per_s")):
        return True
    return name.endswith(".mean" if is_heat else ".max")


def _numbers(column: Any) -> Floats:
    numbers = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    with np.errstate(invalid="ignore"):
        # Infinity and absurd values too: one of them would make each mean and sum around it useless.
        return np.where(np.abs(numbers) <= _LARGEST, numbers, np.nan)


def _rows(columns: dict[str, Floats], epoch: int, step_s: float, after_s: float) -> Rows | None:
    with np.errstate(invalid="ignore"):
        known = columns["tick"] / 1e3 > after_s  # not of NaN
    if not known.any():
        return None
    columns = {name: column[known] for name, column in columns.items()}
    seconds, utc_s = columns.pop("tick") / 1e3, columns.pop("utc_s")
    low, high = _CLOCK_SET
    with np.errstate(invalid="ignore"):
        utc_s = np.where((utc_s >= low) & (utc_s <= high), utc_s, np.nan)
    samples = columns.pop(_SAMPLES, np.full(len(seconds), np.nan))
    means = [name for name in columns if name.endswith(".mean")]
    # Of every sample one value: it is mean and peak at once, so that the rest knows one form.
    for name in [name for name in columns if not name.endswith((".mean", ".max"))]:
        column = columns.pop(name)
        columns |= {f"{name}.{part}": column for part in ("mean", "max")}
    spans = np.diff(seconds)
    if not step_s:
        step_s = max(float(np.median(spans)), 1e-3) if len(spans) else 1.0
    # At most a step: a gap is covered by no row.
    limits = np.r_[spans, step_s] if means else np.r_[step_s, spans]
    covered = np.clip(limits, 1e-3, step_s) * (_share_sampled(samples) if means else 1.0)
    until_s = float(seconds.max())
    rows = Rows(epoch, step_s, step_s, utc_s, seconds, np.ones(len(seconds)), covered, columns, {}, {}, {}, until_s)
    for name in columns:
        if name.startswith("power_w:") and name.endswith(".mean"):
            (_add_up if name in means else _integrate)(rows, name)
    return rows


def _share_sampled(samples: Floats) -> Floats:
    """Part of each row's time that was sampled, 1 where the numbers of samples do not tell."""
    around = np.pad(np.nan_to_num(samples), 1)
    usual = np.maximum(around[:-2], around[2:])
    with np.errstate(invalid="ignore"):
        is_cut = (usual >= _FEWEST_SAMPLES) & (samples > 0) & (samples < _PARTIAL * usual)
    return np.where(is_cut, samples / np.where(is_cut, usual, 1.0), 1.0)


def _add_up(rows: Rows, name: str) -> None:
    """Energy of rows of means: each by its time, and by that of rows without a value up to the next one."""
    there = np.flatnonzero(np.isfinite(rows.values[name]))
    if not len(there):
        return
    lengths, spans = rows.covered_s[there], np.diff(rows.seconds[there])
    is_wide = (np.diff(there) > 1) & (spans > 0) & (spans <= GAP_STEPS * rows.step_s)
    lengths[:-1] = np.where(is_wide, spans, lengths[:-1])
    joules, measured = np.zeros(len(rows)), np.zeros(len(rows))
    joules[there], measured[there] = rows.values[name][there] * lengths, lengths
    rows.joules[name], rows.measured_s[name] = joules, measured


def _integrate(rows: Rows, name: str) -> None:
    """Energy by trapezoids between neighbours with a value that are near enough by the file's own step."""
    there = np.flatnonzero(np.isfinite(rows.values[name]))
    if not len(there):
        return
    seconds, watts = rows.seconds[there], rows.values[name][there]
    spans = np.diff(seconds)
    # A gap adds neither energy nor time that was measured: it is unknown, not zero watts.
    spans = np.where((spans > 0) & (spans <= GAP_STEPS * rows.step_s), spans, 0.0)
    joules, measured = np.zeros(len(rows)), np.zeros(len(rows))
    joules[there[1:]] = spans * (watts[:-1] + watts[1:]) / 2
    measured[there[1:]] = spans
    rows.joules[name], rows.measured_s[name] = joules, measured
    first = (float(seconds[0]), float(watts[0]), int(there[0]))
    rows.ends[name] = (first, (float(seconds[-1]), float(watts[-1])))


def joined(parts: Sequence[Rows]) -> Rows:
    """All of them as one, with the energy between each and the next of the same epoch, and with a time for each row.

    Args:
        parts: in the order in which they were measured; not empty.
    """

    def column(name: str, of: str, missing: float) -> Floats:
        columns = (getattr(part, of).get(name) for part in parts)
        return np.concatenate(
            [np.full(len(part), missing) if own is None else own for part, own in zip(parts, columns, strict=True)]
        )

    names = list(dict.fromkeys(name for part in parts for name in part.values))
    rails = list(dict.fromkeys(name for part in parts for name in part.joules))
    joules = {name: column(name, "joules", 0.0) for name in rails}
    measured = {name: column(name, "measured_s", 0.0) for name in rails}
    for name in rails:
        _add_between(parts, name, joules[name], measured[name])
    epochs = np.concatenate([np.full(len(part), part.epoch) for part in parts])
    seconds = np.concatenate([part.seconds for part in parts])
    utc_s = placed(np.concatenate([part.utc_s for part in parts]), seconds, epochs)
    return Rows(
        0, max(part.step_s for part in parts), max(part.widest_s for part in parts), utc_s, seconds,
        np.concatenate([part.count for part in parts]), np.concatenate([part.covered_s for part in parts]),
        {name: column(name, "values", np.nan) for name in names},
        joules, measured, {},
    )  # fmt: skip


def _add_between(parts: Sequence[Rows], name: str, joules: Floats, measured: Floats) -> None:
    before: Rows | None = None
    begin = 0
    for part in parts:
        if name in part.ends:
            second, watts, position = part.ends[name][0]
            if before is not None and before.epoch == part.epoch:
                last_second, last_watts = before.ends[name][1]
                span = second - last_second
                # By the coarser step of both: files of --step 1s and --step 1m lie beside each other.
                if 0 < span <= GAP_STEPS * max(part.step_s, before.step_s):
                    joules[begin + position] += span * (watts + last_watts) / 2
                    measured[begin + position] += span
            before = part
        begin += len(part)


def placed(utc_s: Floats, seconds: Floats, epochs: NDArray[Any]) -> Floats:
    """A time for each row: where the clock was not set, by running time from the next row whose clock was.

    A board sets its clock some time after it starts, so that row is of the same run; where none follows, the row
    before counts. A history in which no clock was ever set lies where its running time lies, from 1970 on.
    """
    good = np.flatnonzero(np.isfinite(utc_s))
    bad = np.flatnonzero(~np.isfinite(utc_s))
    if not len(bad):
        return utc_s
    out = utc_s.copy()
    if not len(good):
        out[bad] = seconds[bad]
        return out
    at = np.searchsorted(good, bad)
    after = good[np.minimum(at, len(good) - 1)]
    before = good[np.maximum(at - 1, 0)]
    follows = (at < len(good)) & (epochs[after] == epochs[bad])
    leads = (at > 0) & (epochs[before] == epochs[bad])
    # The best first: a set clock behind it in the same run, then one before it, then any neighbour.
    anchor = np.where(follows, after, np.where(leads, before, np.where(at < len(good), after, before)))
    same = epochs[anchor] == epochs[bad]
    out[bad] = utc_s[anchor] + np.where(same, seconds[bad] - seconds[anchor], 0.0)
    return out
