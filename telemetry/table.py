"""History as a table of columns, read from the service's pages or from Parquet."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXED = ("tick", "utc_s", "samples")
STEP = "step_s"
"""Column of the seconds a row, where the source says them: files of several steps lie beside each other."""
LONGEST_NAME = 200
LARGEST = 1e15
"""Of what is measured here nothing is larger: clocks are some 10^9 Hz, memory some 10^12 bytes."""
# Up to here JSON readers with 64-bit floats keep whole numbers exact.
_LARGEST_TICK = 1 << 53
_PARTS = (".min", ".mean", ".max")
# A row of fewer samples than its neighbours was cut by a start or an end of the service. One sample more or less says
# nothing: samples come when the machine has time for them.
_PARTIAL, _FEWEST_SAMPLES = 0.75, 8
# `ground telemetry` names its files EPOCH-FIRST-LAST: a history that is lost aboard is begun anew, at tick zero.
_FILE = re.compile(r"(\d{3})-\d{15}-\d{15}\.parquet")
_LONGEST_STEP_S = 1e6
_STEPS_APART = 4
"""Between two histories: the distance is not known, and beyond three steps no energy is counted (report.py)."""


class TableError(ValueError):
    """A file that is no history, or a package that is missing; the message says what to do."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        columns: "tick" (int64, ms of running, rising), "utc_s" (what the clock said), "samples", and each field: plain
            where every sample has a row, else as FIELD.min, FIELD.mean and FIELD.max; NaN where nothing was measured.
            A row of means begins at its tick. "step_s" is there where the source says how long its rows are.
    """

    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["tick"])

    def fields(self, quantity: str | None = None) -> list[str]:
        """Names of fields, of one quantity if asked."""
        names = dict.fromkeys(_base(name) for name in self.columns if name not in (*FIXED, STEP))
        return [name for name in names if quantity is None or name.partition(":")[0] == quantity]

    def mean(self, field: str) -> NDArray[np.float64]:
        """Of a field; NaN all along where there is none."""
        return self._part(field, ".mean")

    def low(self, field: str) -> NDArray[np.float64]:
        """Minimum of each row."""
        return self._part(field, ".min")

    def high(self, field: str) -> NDArray[np.float64]:
        """Maximum of each row."""
        return self._part(field, ".max")

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Seconds of running since the first row."""
        ticks = np.asarray(self.columns["tick"], np.float64)
        return (ticks - ticks[0]) / 1e3 if len(ticks) else ticks

    @property
    def step_s(self) -> float:
        """Usual time between two rows; of a single one its length, 0 where that is not known."""
        if len(self) > 1:
            return float(np.median(np.diff(self.seconds)))
        return float(self.columns[STEP][0]) if len(self) and STEP in self.columns else 0.0

    def holds_means(self, field: str) -> bool:
        """Whether a row holds the mean over its time; else the value of one sample."""
        return f"{field}.mean" in self.columns

    @property
    def covered_s(self) -> NDArray[np.float64]:
        """Seconds that a row of means stands for, from its tick on: its step, less where the service ran for a part."""
        steps = np.full(len(self), self.step_s)
        given = np.asarray(self.columns.get(STEP, np.zeros(len(self))), np.float64)
        steps = np.where(given > 0, given, steps)
        # Samples a second, as rows of a minute and of a second may follow one another.
        rate = np.asarray(self.columns["samples"], np.float64) / np.maximum(steps, 1e-3)
        around = np.pad(rate, 1)
        usual = np.maximum(around[:-2], around[2:])
        is_cut = (usual * steps >= _FEWEST_SAMPLES) & (rate < _PARTIAL * usual)
        covered = steps * np.where(is_cut, rate / np.where(is_cut, usual, 1.0), 1.0)
        return np.minimum(covered, np.r_[np.diff(self.seconds), np.inf]) if len(self) else covered

    def with_step(self, step_s: object) -> Table:
        """The same with the seconds a row; what is no length of time says nothing."""
        # type() and not isinstance: True is an int.
        if type(step_s) not in (int, float) or not 0 < float(step_s) < _LONGEST_STEP_S:  # type: ignore[arg-type]
            return self
        return Table({**self.columns, STEP: np.full(len(self), float(step_s))})  # type: ignore[arg-type]

    def _part(self, field: str, part: str) -> NDArray[np.float64]:
        values = self.columns.get(field + part, self.columns.get(field))
        return np.full(len(self), np.nan) if values is None else np.asarray(values, np.float64)

    @classmethod
    def of_json(cls, columns: Mapping[str, Sequence[float | None]]) -> Table:
        """Of the columns of a page.

        Raises:
            TableError: they are none.
        """
        if not isinstance(columns, Mapping) or not all(name in columns for name in FIXED):
            raise TableError("this is no page of history: columns tick, utc_s and samples are missing")
        # Names come over the network, and go to terminals and into pictures.
        for name in columns:
            if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
                raise TableError(f"this is no page of history: {str(name)[:50]!r} is no name of a column")
        table = {
            name: _ticks(values) if name == "tick" else _numbers(name, values)
            for name, values in columns.items() if name != STEP
        }  # fmt: skip
        if any(len(values) != len(table["tick"]) for values in table.values()):
            raise TableError("this is no page of history: its columns have different lengths")
        return cls(table)

    @classmethod
    def joined(cls, tables: Iterable[Table]) -> Table:
        """One after the other, in the order of their ticks; a field that one lacks is NaN there.

        Where two overlap, as files that were fetched twice do, the rows of the one that begins first count.
        """
        parts = sorted((table for table in tables if len(table)), key=lambda table: int(table.columns["tick"][0]))
        parts = _without_repeats(parts)
        if not parts:
            return cls({name: np.zeros(0) for name in FIXED})
        names = dict.fromkeys(name for part in parts for name in part.columns)
        return cls(
            {
                name: np.concatenate([part.columns.get(name, np.full(len(part), np.nan)) for part in parts])
                for name in names
            }
        )

    @classmethod
    def read_parquet(cls, path: Path) -> Table:
        """Of a file, or of every .parquet in a folder; histories that were begun anew follow one another, with a gap.

        Raises:
            TableError: it cannot be read.
        """
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise TableError(f"Parquet needs pyarrow: {sys.executable} -m pip install pyarrow") from None
        files = sorted(part for part in path.rglob("*.parquet") if part.is_file()) if path.is_dir() else [path]
        # Neither a pipe nor a device: reading one may never end.
        if files == [path] and not path.is_file():
            raise TableError(f"{path} is no file; name a Parquet file, or a folder of them")
        if not files:
            raise TableError(
                f"{path} has no .parquet file; pull history with `ground telemetry` first: "
                "its first row comes a minute after the service started"
            )
        histories: dict[str, list[Table]] = {}
        for file in files:
            try:
                read = pq.ParquetFile(file).read()
                step_s = _step_of(read.schema.metadata or {})
                columns = {name: read[name].to_pylist() for name in read.column_names}
            except (OSError, ValueError, TypeError, KeyError, OverflowError, pa.ArrowException) as error:
                raise TableError(f"{file} cannot be read as Parquet: {' '.join(str(error).split())}") from None
            try:
                match = _FILE.fullmatch(file.name)
                histories.setdefault(match[1] if match else "000", []).append(cls.of_json(columns).with_step(step_s))
            except TableError as error:
                raise TableError(f"{file}: {error}") from None
        return cls.joined(_apart([cls.joined(histories[epoch]) for epoch in sorted(histories)]))


def _apart(histories: Sequence[Table]) -> list[Table]:
    """Each with its ticks behind those of the one before."""
    placed: list[Table] = []
    gap = int(1000 * _STEPS_APART * max([1.0, *(table.step_s for table in histories)]))
    for table in filter(len, histories):
        ticks = table.columns["tick"]
        shift = placed[-1].columns["tick"][-1] + gap - ticks[0] if placed else 0
        placed.append(Table({**table.columns, "tick": ticks + shift}))
    return placed


def _without_repeats(parts: Sequence[Table]) -> list[Table]:
    """Tables that follow one another, without the rows that an earlier one reaches over."""
    kept: list[Table] = []
    last = None
    for part in parts:
        ticks = part.columns["tick"]
        new = part if last is None else Table({name: col[ticks > last] for name, col in part.columns.items()})
        if len(new):
            kept.append(new)
            last = new.columns["tick"][-1]
    return kept


def _step_of(metadata: Mapping[bytes, bytes]) -> float:
    """Seconds a row, as `ground telemetry` writes it; 0 where each sample has its own row, or none is said."""
    try:
        return float(metadata.get(b"step_s", b"0"))
    except ValueError:
        return 0.0


def _base(name: str) -> str:
    for part in _PARTS:
        if name.endswith(part):
            return name.removesuffix(part)
    return name


def _ticks(values: Any) -> NDArray[np.int64]:
    """Rising whole numbers.

    Raises:
        TableError: they are none.
    """
    # Not isinstance: True is an int.
    whole = isinstance(values, Sequence) and all(type(value) is int and abs(value) <= _LARGEST_TICK for value in values)
    ticks = np.array(values if whole else [], np.int64)
    if not whole or (np.diff(ticks) <= 0).any():
        raise TableError("this is no page of history: its ticks are no rising whole numbers")
    return ticks


def _numbers(name: str, values: Any) -> NDArray[Any]:
    """Numbers, NaN where there is none; what cannot have been measured counts as none.

    Raises:
        TableError: they are no numbers.
    """
    try:
        if isinstance(values, (str, bytes)) or any(isinstance(value, (str, bytes, bool)) for value in values):
            raise TypeError
        numbers = np.array([np.nan if value is None else float(value) for value in values], np.float64)
    # OverflowError: whole numbers of JSON have no bound.
    except (TypeError, ValueError, OverflowError):
        raise TableError(f"this is no page of history: column {name} has more than numbers in it") from None
    # Written so that NaN and infinity fail.
    numbers[~(np.abs(numbers) <= LARGEST)] = np.nan
    if name == "samples" and np.isfinite(numbers).all():
        return numbers.astype(np.int64)
    return numbers
