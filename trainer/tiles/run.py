"""Makes shards of tiles from sources; a killed run resumes and ends with the same bytes."""

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
from trainer.tiles.contact_sheet import contact_sheet
from trainer.tiles.cut import Cuts
from trainer.tiles.index import merge
from trainer.tiles.reject import SMALL, UNREADABLE, Rejection, Statistics, judged
from trainer.tiles.report import Report
from trainer.tiles.run_folder import (
    Cursor,
    Progress,
    RunFolder,
    clear_leftovers,
    locked_run_folder,
    other_run,
    read_document,
)
from trainer.tiles.settings import TileSettings
from trainer.tiles.shard_writer import ShardWriter, jpeg_of, published, shard_name, tile_key
from trainer.tiles.sources import CONTACT, Imagery, find_sources, in_words, opened, size_of
from trainer.tiles.tally import SourceTally, Tally

INDEX, TOLD, REPORT = "index.parquet", "tiles.json", "report.md"


@dataclass(frozen=True)
class TileRequest:
    """The sources to cut, and the output folder."""

    sources: tuple[Path, ...]
    out: Path
    settings: TileSettings = field(default_factory=TileSettings)


def make_tiles(request: TileRequest, progress: Callable[[int, int], None] | None = None) -> Report:
    """Cuts every source into tiles and writes the accepted ones as shards; a finished folder is left unchanged.

    Args:
        request: the job. A source that cannot be read is listed in the report; the others are still cut.
        progress: called with (windows processed, all windows).

    Raises:
        DataRefused: no sources, or a missing one; the folder holds other tiles, or another process uses it; no tile
            was accepted (report.md has the reasons).
        StorageError: the disk is full or failed; the same command resumes.
    """
    for path in request.sources:
        if not path.exists():
            raise DataRefused(path, "no such file or folder", "give one that is there")
    files = find_sources(request.sources, request.out)
    if not files:
        named = ", ".join(str(path) for path in request.sources) or "nothing"
        raise DataRefused(named, "no GeoTIFF, JPEG or PNG in it", "give files, or folders that hold some")
    identity = _identity(files, request.settings)
    # Before the folder is locked, which would make .work anew.
    done = _finished(request.out, identity)
    if done is not None:
        clear_leftovers(request.out)
        return _with_tiles(Report(request.out, files, done))
    with locked_run_folder(request.out) as place:
        state = place.take_up(identity)
        _Job(place, files, request.settings, state, progress).go()
        return _with_tiles(_finish(place, files, identity, state))


def _with_tiles(report: Report) -> Report:
    """The report; raises DataRefused if no tile was accepted."""
    if report.tally.kept == 0:
        raise DataRefused(
            report.out, f"no tile was kept ({report.reasons() or 'there was none to look at'})",
            "see report.md in it; give other sources or settings, and another --out or remove this folder",
        )  # fmt: skip
    return report


class _Job:
    """One pass over the sources, from the position in ``state``."""

    def __init__(
        self,
        place: RunFolder,
        files: Sequence[Path],
        settings: TileSettings,
        state: Progress,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.place, self.files, self.settings, self.state = place, files, settings, state
        self.progress = progress or (lambda _done, _all: None)
        # Opens every header, which only a bar of progress needs.
        self.windows = [_window_count(path, settings) for path in files] if progress else []
        self.ahead, self.passed = sum(self.windows), sum(self.windows[: state.cursor.source])
        self.shard: ShardWriter | None = None
        self.rows: list[dict[str, Any]] = []
        self.touched: list[int] = []

    def go(self) -> None:
        """Processes all remaining sources, and publishes the last shard."""
        with ExitStack() as files:
            self._files = files
            # Sources in a fixed order, from where the last published shard
            # ended: that is what makes a resumed run equal.
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
                    # After the tile is kept or dropped, so that a shard's note never counts one that is in no shard.
                    self._move(Cursor(number, place + 1))
        # The source cannot be opened. Its trouble is noted, and the others are still cut.
        except (DataRefused, SceneRefused) as error:
            self.state.tally.of(number).problem = f"{error.problem}; {error.remedy}"
            self.state.tally.drop(number, UNREADABLE, error.problem, None)

    def _window(self, number: int, imagery: Imagery, window: Window) -> None:
        """Accepts or rejects one window."""
        try:
            tile = imagery.read(window)
        # A damaged block: this tile is lost, the next may be whole.
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
        # Numbered over all shards, so a tile that is made again after a kill gets its old key.
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
        """Advances the cursor; publishes the shard if it is full."""
        self.state.cursor = cursor
        if len(self.rows) >= self.settings.shard_tiles:
            self._commit()
        if self.windows:
            self.progress(self.passed + cursor.window, self.ahead)

    def _past(self, number: int) -> None:
        """Removes the unread windows of a damaged source from the total: its header may claim millions."""
        if self.windows:
            self.ahead += self.state.cursor.window - self.windows[number]
            self.passed += self.state.cursor.window

    def _commit(self) -> None:
        if self.shard is None:  # the last sources gave no tile; their counts are saved too
            self.shard = self._files.enter_context(ShardWriter(self.place.staged("shard")))
        # State and tally go with the shard: what a killed run kept in memory since then is made again.
        self.place.commit(self.shard, self.rows, self.state, self.touched)
        self.shard, self.rows = None, []
        # The source at hand goes on into the next shard, whose note must hold its counts too.
        self.touched = [self.touched[-1]] if self.touched else []

    def _touch(self, number: int) -> None:
        if number not in self.touched:
            self.touched.append(number)
        self.state.tally.of(number)


def _identity(files: Sequence[Path], settings: TileSettings) -> dict[str, Any]:
    """Identity of a run: its settings, and its sources by path, size and modification time."""
    return {"settings": asdict(settings), "sources": [_source_identity(path) for path in files]}


def _source_identity(path: Path) -> list[Any]:
    try:
        facts = path.stat()
    except OSError:
        return [str(path), None, None]
    # Size and time stand for the content, so that a start does not read all imagery.
    return [str(path), facts.st_size, facts.st_mtime_ns]


def _window_count(path: Path, settings: TileSettings) -> int:
    """Number of windows, for the progress bar; 0 where the file cannot be read."""
    try:
        width, height = size_of(path)
    except (DataRefused, SceneRefused):
        return 0
    return len(Cuts(width, height, size=settings.size, step=settings.step))


def _finished(out: Path, identity: dict[str, Any]) -> Tally | None:
    """The tally of a finished folder; None where it is not finished."""
    path = out / TOLD
    if not path.is_file():
        return None
    summary = read_document(path, "identity", "sources")
    if summary["identity"] != identity:
        raise other_run(out)
    tally = Tally()
    tally.sources = {int(number): SourceTally(**source) for number, source in summary["sources"].items()}
    return tally


def _finish(place: RunFolder, files: Sequence[Path], identity: dict[str, Any], state: Progress) -> Report:
    """Writes index, contact sheet and report; then tiles.json, which marks the folder as finished."""
    report = Report(place.out, files, state.tally)
    # Each by a rename, so a run that was killed here makes them once more from the shards.
    with published(place.out / INDEX, place.staged("index")) as path:
        merge(place.parts(state.shards), path)
    with published(place.out / CONTACT, place.staged("contact")) as path:
        contact_sheet(place.out, files, state.tally, path)
    with published(place.out / REPORT, place.staged("report")) as path:
        # File names may hold bytes that are no text.
        path.write_text(report.markdown(), encoding="utf-8", errors="backslashreplace")
    summary = {
        "identity": identity,
        "sources": {number: asdict(source) for number, source in sorted(state.tally.sources.items())},
    }
    with published(place.out / TOLD, place.staged("told")) as path:
        path.write_text(json.dumps(summary, indent=1))
    # Last: without tiles.json the shards could not be continued once these notes are gone.
    place.clear()
    return report
