"""What a run measured, step by step: metrics.csv, TensorBoard's files, and the curves as a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.csv"
CURVES = "curves.png"


class Record:
    """One row a step in ``folder``/metrics.csv, flushed, and the same for TensorBoard.

    A resumed run drops the rows after its checkpoint: those steps are made again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS
        kept = [row for row in read_record(folder) if int(row["step"]) <= step]
        self._names = list(kept[0]) if kept else []
        self._file = self._path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, self._names)
        if kept:
            self._writer.writeheader()
            self._writer.writerows(kept)
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
        curves_picture(read_record(self.folder), self.folder / CURVES)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


def read_record(folder: Path) -> list[dict[str, str]]:
    """The rows of ``folder``/metrics.csv, whole ones only; none where there is no file."""
    path = folder / METRICS
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]
