"""The output folder of a run, with the files from which a killed run resumes.

    OUT/tiles-000000.tar ...      shards, each published by a rename
    OUT/.work/run.json            identity of the run: its settings and sources
    OUT/.work/000000.parquet      index rows of a shard
    OUT/.work/000000.json         written last: the position in the sources when the shard was full

A shard without its .json is made again, with the same bytes. When the run is finished, .work is removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onboard.files import storage_error
from trainer.errors import DataRefused
from trainer.tiles.index import hashes_in, write_rows
from trainer.tiles.reject import SeenHashes
from trainer.tiles.shard_writer import ShardWriter, published, shard_name
from trainer.tiles.tally import DroppedTile, SourceTally, Tally


@dataclass(frozen=True)
class Cursor:
    """The next tile: number of its source, and number of its window there."""

    source: int = 0
    window: int = 0


@dataclass
class Progress:
    """State of a run: number of published shards, the next tile, hashes of accepted tiles, and the tally."""

    shards: int
    cursor: Cursor
    seen: SeenHashes
    tally: Tally


class RunFolder:
    """Writes shards and the files that belong to them. One process at a time: see :func:`locked_run_folder`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.inside = out / ".work"

    def staged(self, name: str) -> Path:
        """Temporary path of a file before it is published."""
        return self.inside / f"{name}.part"

    def parts(self, shards: int) -> list[Path]:
        """Index rows, shard by shard."""
        return [self.inside / f"{number:06d}.parquet" for number in range(shards)]

    def take_up(self, identity: dict[str, Any]) -> Progress:
        """State of an earlier run with the same settings and sources; the initial state in an empty folder.

        Raises:
            DataRefused: the folder belongs to another run, or its files are damaged.
        """
        identity_file = self.inside / "run.json"
        if identity_file.exists():
            if read_document(identity_file) != identity:
                raise other_run(self.out)
        # Shards without a run's notes are not ours to write over.
        elif any(self.out.glob("tiles-*.tar")):
            raise other_run(self.out)
        else:
            with published(identity_file, self.staged("run")) as path:
                path.write_text(json.dumps(identity))
        return self._progress()

    def commit(
        self, shard: ShardWriter, rows: Sequence[dict[str, Any]], progress: Progress, touched: Sequence[int]
    ) -> None:
        """Publishes a shard, its index rows, and the state after it. `touched`: sources processed since the last shard.

        Raises:
            StorageError: the disk is full or failed.
        """
        # In this order: a kill before the .json leaves files that the next run writes anew under the same names.
        number = progress.shards
        shard.publish(self.out / shard_name(number))
        with published(self.inside / f"{number:06d}.parquet", self.staged("rows")) as path:
            write_rows(path, rows)
        done = {
            "cursor": asdict(progress.cursor),
            "sources": {source: asdict(progress.tally.of(source)) for source in touched},
            # For the contact sheet, which a resumed run draws of both halves.
            "examples": [example.facts for example in progress.tally.examples],
        }
        with published(self.inside / f"{number:06d}.json", self.staged("done")) as path:
            path.write_text(json.dumps(done))
        progress.shards += 1

    def clear(self) -> None:
        """Removes the files that are needed only to resume; what cannot be removed goes with the next run."""
        shutil.rmtree(self.inside, ignore_errors=True)

    def _progress(self) -> Progress:
        progress = Progress(0, Cursor(), SeenHashes(), Tally())
        # Without a gap: a shard counts only if all before it do.
        while (path := self.inside / f"{progress.shards:06d}.json").exists():
            done = read_document(path, "cursor", "sources", "examples")
            progress.cursor = Cursor(**done["cursor"])
            progress.tally.sources.update((int(key), SourceTally(**value)) for key, value in done["sources"].items())
            progress.tally.examples = [DroppedTile.of(facts) for facts in done["examples"]]
            # In the order of the tiles, so that numbers of near-duplicates in the report stay the same.
            progress.seen.add(hashes_in(self.inside / f"{progress.shards:06d}.parquet"))
            progress.shards += 1
        return progress


def read_document(path: Path, *keys: str) -> dict[str, Any]:
    """Reads a JSON object that a run wrote, with at least these keys.

    Raises:
        DataRefused: the file is damaged; since it was written by one rename, the disk has lost data.
    """
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict) or not document.keys() >= set(keys):
            raise ValueError("not what a run writes there")
    except (OSError, ValueError) as error:
        raise DataRefused(
            path, f"damaged ({error})", "give another --out, or remove the folder of the tiles to start afresh"
        ) from error
    return document


def other_run(out: Path) -> DataRefused:
    """The refusal of a folder that holds other tiles."""
    return DataRefused(
        out, "holds tiles of other settings or sources", "give another --out, or remove this folder to start afresh"
    )


@contextmanager
def locked_run_folder(out: Path) -> Iterator[RunFolder]:
    """The run folder, created if missing and locked against other processes.

    Raises:
        DataRefused: another process uses it.
        StorageError: the folder cannot be made.
    """
    place = RunFolder(out)
    try:
        place.inside.mkdir(parents=True, exist_ok=True)
        # The folder itself is locked: a file for the lock would stay in it, and .work goes at the end.
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error(error, out) from error
    try:
        # The kernel drops it with the process, however that ends: a killed run leaves no lock behind.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield place
    except BlockingIOError as error:
        raise DataRefused(out, "another process makes tiles there", "wait for it, or give another --out") from error
    finally:
        os.close(descriptor)


def clear_leftovers(out: Path) -> None:
    """Removes .work of a finished folder, where a run was killed before it could; not while another process uses it."""
    if RunFolder(out).inside.is_dir():
        with suppress(DataRefused), locked_run_folder(out) as place:
            place.clear()
