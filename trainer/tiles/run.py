"""Sources in, shards out: cuts, judges, keeps; goes on where a killed run stopped, and ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onboard.errors import SceneRefused
from onboard.scene.grid import Window
from trainer.errors import DataRefused
from trainer.tiles.contact import contact_sheet
from trainer.tiles.cut import Cuts
from trainer.tiles.index import merge
from trainer.tiles.reject import SMALL, UNREADABLE, Rejection, Statistics, judged
from trainer.tiles.report import Report
from trainer.tiles.settings import TileSettings
from trainer.tiles.shards import ShardWriter, jpeg_of, published, shard_name, tile_key
from trainer.tiles.sources import CONTACT, Imagery, find_sources, in_words, opened, size_of
from trainer.tiles.tally import SourceTally, Tally
from trainer.tiles.workplace import Cursor, Progress, Workplace, other_run, read_told, workplace_in

INDEX, TOLD, REPORT = "index.parquet", "tiles.json", "report.md"


@dataclass(frozen=True)
class TileRequest:
    """What to cut, and where to put it."""

    sources: tuple[Path, ...]
    out: Path
    settings: TileSettings = field(default_factory=TileSettings)


def make_tiles(request: TileRequest, progress: Callable[[int, int], None] | None = None) -> Report:
    """Cut every source into tiles and write those worth keeping as shards; a folder that is done is left as it is.

    Args:
        request: the job. A source that cannot be read is told of in the report and stops nothing.
        progress: called with (windows looked at, windows in all).

    Raises:
        DataRefused: no sources, or one that is not there; a folder that holds other tiles, or that another process
            works in; not one tile was kept, and report.md says why.
        StorageError: the disk is full or failed; the same command goes on.
    """
    for path in request.sources:
        if not path.exists():
            raise DataRefused(path, "no such file or folder", "give one that is there")
    files = find_sources(request.sources, request.out)
    if not files:
        named = ", ".join(str(path) for path in request.sources) or "nothing"
        raise DataRefused(named, "no GeoTIFF, JPEG or PNG in it", "give files, or folders that hold some")
    identity = _identity(files, request.settings)
    done = _finished(request.out, identity)
    if done is not None:
        return _with_tiles(Report(request.out, files, done))
    with workplace_in(request.out) as place:
        state = place.take_up(identity)
        _Job(place, files, request.settings, state, progress).go()
        return _with_tiles(_finish(place, files, identity, state))


def _with_tiles(report: Report) -> Report:
    """The report of a folder that something can be trained on."""
    if report.tally.kept == 0:
        raise DataRefused(
            report.out, f"no tile was kept ({report.reasons() or 'there was none to look at'})",
            "see report.md in it; give other sources or settings, and another --out or remove this folder",
        )  # fmt: skip
    return report


class _Job:
    """One pass over the sources, from wherever ``state`` is."""

    def __init__(
        self,
        place: Workplace,
        files: Sequence[Path],
        settings: TileSettings,
        state: Progress,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.place, self.files, self.settings, self.state = place, files, settings, state
        self.progress = progress or (lambda _done, _all: None)
        self.windows = [_window_count(path, settings) for path in files] if progress else []
        self.ahead, self.passed = sum(self.windows), sum(self.windows[: state.cursor.source])
        self.shard: ShardWriter | None = None
        self.rows: list[dict[str, Any]] = []
        self.touched: list[int] = []

    def go(self) -> None:
        """Through all sources to the end; what is written then is whole."""
        with ExitStack() as files:
            self._files = files
            for number in range(self.state.cursor.source, len(self.files)):
                self._source(number, first=self.state.cursor.window)
                self._past(number)
                self._move(Cursor(number + 1))
            if self.rows or self.touched:
                self._commit()

    def _source(self, number: int, *, first: int) -> None:
        path = self.files[number]
        self._touch(number)
        try:
            with opened(path) as imagery:
                cuts = Cuts(imagery.width, imagery.height, size=self.settings.size, step=self.settings.step)
                if len(cuts) == 0:
                    self.state.tally.drop(number, SMALL, f"{imagery.width} x {imagery.height} pixels", None)
                for place, window in enumerate(cuts.from_number(first), start=first):
                    self._window(number, imagery, window)
                    self._move(Cursor(number, place + 1))
        except (DataRefused, SceneRefused) as error:
            self.state.tally.of(number).problem = f"{error.problem}; {error.remedy}"
            self.state.tally.drop(number, UNREADABLE, error.problem, None)

    def _window(self, number: int, imagery: Imagery, window: Window) -> None:
        """Looks at a window and keeps it or drops it."""
        try:
            tile = imagery.read(window)
        except (DataRefused, SceneRefused) as error:
            self.state.tally.of(number).problem = f"{error.problem}; {error.remedy}"
            self.state.tally.drop(number, UNREADABLE, error.problem, window)
            return
        verdict = judged(tile, self.state.seen, self.settings)
        if isinstance(verdict, Rejection):
            self.state.tally.drop(number, verdict.reason, verdict.detail, window)
            return
        self._keep(number, window, imagery.gsd_m, verdict, jpeg_of(tile.pixels, self.settings.quality))

    def _keep(self, number: int, window: Window, gsd_m: float | None, known: Statistics, jpeg: bytes) -> None:
        key = tile_key(len(self.state.seen))
        row = {
            "key": key, "shard": shard_name(self.state.shards), "source": in_words(self.files[number]),
            "col": window.col, "row": window.row, "width": window.width, "height": window.height, "gsd_m": gsd_m,
            "valid_share": known.valid_share, "mean": list(known.mean), "deviation": list(known.deviation),
            "difference_hash": known.difference_hash,
        }  # fmt: skip
        if self.shard is None:
            self.shard = self._files.enter_context(ShardWriter(self.place.staged("shard")))
        facts = {name: row[name] for name in ("source", "col", "row", "width", "height", "gsd_m", "valid_share")}
        self.shard.add(key, jpeg, facts)
        self.rows.append(row)
        self.state.seen.add(np.array([known.difference_hash], dtype=np.uint64))
        self.state.tally.of(number).kept += 1

    def _move(self, cursor: Cursor) -> None:
        """The cursor goes on; a full shard is published with it."""
        self.state.cursor = cursor
        if len(self.rows) >= self.settings.shard_tiles:
            self._commit()
        if self.windows:
            self.progress(self.passed + cursor.window, self.ahead)

    def _past(self, number: int) -> None:
        """What a damaged source never gave, a lying header's millions say, counts no more."""
        if self.windows:
            self.ahead += self.state.cursor.window - self.windows[number]
            self.passed += self.state.cursor.window

    def _commit(self) -> None:
        if self.shard is None:  # the last sources gave nothing: that is told all the same
            self.shard = self._files.enter_context(ShardWriter(self.place.staged("shard")))
        self.place.commit(self.shard, self.rows, self.state, self.touched)
        self.shard, self.rows = None, []
        self.touched = [self.touched[-1]] if self.touched else []

    def _touch(self, number: int) -> None:
        if number not in self.touched:
            self.touched.append(number)
        self.state.tally.of(number)


def _identity(files: Sequence[Path], settings: TileSettings) -> dict[str, Any]:
    """What makes two runs the same: settings, and sources by path, size and time of change."""
    return {"settings": settings.facts, "sources": [_source_identity(path) for path in files]}


def _source_identity(path: Path) -> list[Any]:
    try:
        facts = path.stat()
    except OSError:
        return [str(path), None, None]
    return [str(path), facts.st_size, facts.st_mtime_ns]


def _window_count(path: Path, settings: TileSettings) -> int:
    """For the progress bar alone; 0 where the file cannot be read."""
    try:
        width, height = size_of(path)
    except (DataRefused, SceneRefused):
        return 0
    return len(Cuts(width, height, size=settings.size, step=settings.step))


def _finished(out: Path, identity: dict[str, Any]) -> Tally | None:
    """The tally of a folder that is done; None where it is not."""
    path = out / TOLD
    if not path.is_file():
        return None
    told = read_told(path, "identity", "sources")
    if told["identity"] != identity:
        raise other_run(out)
    tally = Tally()
    tally.sources = {int(number): SourceTally(**source) for number, source in told["sources"].items()}
    return tally


def _finish(place: Workplace, files: Sequence[Path], identity: dict[str, Any], state: Progress) -> Report:
    """Index, contact sheet and report; tiles.json, which says that all is there, last."""
    report = Report(place.out, files, state.tally)
    with published(place.out / INDEX, place.staged("index")) as path:
        merge(place.parts(state.shards), path)
    with published(place.out / CONTACT, place.staged("contact")) as path:
        contact_sheet(place.out, files, state.tally, path)
    with published(place.out / REPORT, place.staged("report")) as path:
        path.write_text(report.markdown(), encoding="utf-8", errors="backslashreplace")
    told = {
        "identity": identity,
        "sources": {number: asdict(source) for number, source in sorted(state.tally.sources.items())},
    }
    with published(place.out / TOLD, place.staged("told")) as path:
        path.write_text(json.dumps(told, indent=1))
    place.clear()
    return report
