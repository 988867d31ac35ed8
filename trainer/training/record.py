"""The metrics of a run, step by step: metrics.csv, TensorBoard files, and curves as a picture."""

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
"""Largest number of evenly spaced rows that curves are drawn from: the paper's run has three million steps."""


class Record:
    """Writes one row per step to ``folder``/metrics.csv, flushed at once, and the same to TensorBoard.

    A resumed run removes the rows after its checkpoint, since those steps are repeated.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS
        # A killed run may have recorded steps beyond its last checkpoint. They
        # come again, and would stand in the file twice.
        self._names = _cut_after(self._path, step)
        self._file = self._path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, self._names)
        # TensorBoard hides what it has of these steps, for the same reason.
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._last = (0.0, 0)

    def add(self, step: int, facts: Mapping[str, Any], *, seconds: float) -> None:
        """Appends a step; ``facts`` must have the same names at every step, None for unknown values."""
        row: dict[str, Any] = {"step": step, "seconds": round(seconds, 3), **facts}
        elapsed, images = seconds - self._last[0], facts["images"] - self._last[1]
        # The first step after a start or a resumption has nothing to be measured from.
        row["images_per_s"] = round(images / elapsed, 3) if elapsed > 0 and self._last[1] else None
        self._last = (seconds, facts["images"])
        if not self._names:
            self._names = list(row)
            self._writer.fieldnames = self._names
            self._writer.writeheader()
        self._writer.writerow({name: "" if value is None else value for name, value in row.items()})
        # At once: a run that is killed has lost no finished step.
        self._file.flush()
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(name, value, step)

    def draw(self) -> None:
        """Draws every curve into ``folder``/curves.png."""
        from trainer.training.curves import curves_picture

        # The pictures are drawn from the file, so what is buffered has to be in it.
        self._file.flush()
        curves_picture(read_record(self.folder, most=DRAWN), self.folder / CURVES)

    def close(self) -> None:
        """Closes the files and ends TensorBoard's thread; errors of a full disk were raised earlier."""
        closes = [self._file.close, self._board.close]
        if self._board.file_writer is not None:
            closes.append(self._board.file_writer.close)  # a board whose flush fails leaves its writer open
        for close in closes:
            with suppress(OSError):
                close()


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Context for writes into a run's folder other than checkpoints.

    Raises:
        CheckpointNotWritten: the disk is full or failed.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointNotWritten(error.filename or path, error.strerror or str(error)) from error


def read_record(folder: Path, *, most: int | None = None) -> list[dict[str, str]]:
    """Complete rows of ``folder``/metrics.csv; empty where there is no file.

    Of more than ``most`` rows only every n-th is returned, and no more are held in memory.
    """
    path = folder / METRICS
    if not path.is_file():
        return []
    every = 1
    if most is not None:
        with path.open(newline="") as file:
            # Counted in a first pass, so that three million rows are never in memory together.
            every = max(1, -(-sum(1 for _ in file) // most))
    with path.open(newline="") as file:
        return list(_whole(chain(islice(file, 1), islice(file, every - 1, None, every))))


def _whole(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    # A killed run may leave half a line. It has too few cells, and csv gives None for those that are missing.
    return (row for row in csv.DictReader(lines) if None not in row.values() and None not in row)


def _cut_after(path: Path, step: int) -> list[str]:
    """Removes the rows after a step; returns the column names, empty where no row is left.

    The file is replaced by one rename.
    """
    if not path.is_file():
        return []
    partial = path.with_name(path.name + ".part")
    names: list[str] = []
    with path.open(newline="") as file, partial.open("w", newline="") as target:
        for row in _whole(file):
            if int(row["step"]) > step:
                continue
            if not names:
                names = list(row)
                csv.DictWriter(target, names).writeheader()
            csv.DictWriter(target, names).writerow(row)
    # Not synced: after a power cut curves may lack rows, but no weight depends on them.
    partial.replace(path)
    return names
