"""What a run measured, step by step: metrics.csv, TensorBoard's files, and the curves as a picture."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from trainer.errors import CheckpointNotWritten

METRICS = "metrics.csv"
CURVES = "curves.png"
DRAWN = 4000
"""Rows that the curves are drawn of, evenly spread: the paper's run has three million steps."""


class Record:
    """One row a step in ``folder``/metrics.csv, flushed, and the same for TensorBoard.

    A resumed run drops the rows after its checkpoint: those steps are made again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS
        self._names = _cut_after(self._path, step)
        self._file = self._path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, self._names)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._last = (0.0, 0)

    def add(self, step: int, facts: Mapping[str, Any], *, seconds: float) -> None:
        """Appends a step; ``facts`` have the same names at every step, None where nothing is known."""
        row: dict[str, Any] = {"step": step, "seconds": round(seconds, 3), **facts}
        elapsed, images = seconds - self._last[0], facts["images"] - self._last[1]
        row["images_per_s"] = round(images / elapsed, 3) if elapsed > 0 and self._last[1] else None
        self._last = (seconds, facts["images"])
        if not self._names:
            self._names = list(row)
            self._writer.fieldnames = self._names
            self._writer.writeheader()
        self._writer.writerow({name: "" if value is None else value for name, value in row.items()})
        self._file.flush()
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(name, value, step)

    def draw(self) -> None:
        """Draws every curve into ``folder``/curves.png."""
        from trainer.curves import curves_picture

        self._file.flush()
        curves_picture(read_record(self.folder, most=DRAWN), self.folder / CURVES)

    def close(self) -> None:
        """Closes the files; a full disk has been told of by then. TensorBoard's thread has ended afterwards."""
        closes = [self._file.close, self._board.close]
        if self._board.file_writer is not None:
            closes.append(self._board.file_writer.close)  # a board whose flush fails leaves its writer open
        for close in closes:
            with suppress(OSError):
                close()


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What is written into a run's folder beside its checkpoints.

    Raises:
        CheckpointNotWritten: the disk is full or failed.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointNotWritten(error.filename or path, error.strerror or str(error)) from error


def read_record(folder: Path, *, most: int | None = None) -> list[dict[str, str]]:
    """The rows of ``folder``/metrics.csv, whole ones only; none where there is no file.

    Of more than ``most`` rows only every n-th is given, and only so many are ever in memory.
    """
    path = folder / METRICS
    if not path.is_file():
        return []
    every = 1
    if most is not None:
        with path.open(newline="") as file:
            every = max(1, -(-sum(1 for _ in file) // most))
    with path.open(newline="") as file:
        return list(_whole(chain(islice(file, 1), islice(file, every - 1, None, every))))


def _whole(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    return (row for row in csv.DictReader(lines) if None not in row.values() and None not in row)


def _cut_after(path: Path, step: int) -> list[str]:
    """Drops the rows after a step, and gives the columns' names; none where no row is left.

    The file is there whole, before or after.
    """
    if not path.is_file():
        return []
    partial = path.with_name(path.name + ".part")
    names: list[str] = []
    with path.open(newline="") as file, partial.open("w", newline="") as kept:
        for row in _whole(file):
            if int(row["step"]) > step:
                continue
            if not names:
                names = list(row)
                csv.DictWriter(kept, names).writeheader()
            csv.DictWriter(kept, names).writerow(row)
    partial.replace(path)
    return names
