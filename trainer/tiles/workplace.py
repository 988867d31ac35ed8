"""The folder a run writes to, and what it needs to go on after it was killed.

    OUT/tiles-000000.tar ...      shards, each put there by a rename
    OUT/.work/run.json            which settings and sources the run is of
    OUT/.work/000000.parquet      index rows of a shard
    OUT/.work/000000.json         written last: how far the sources were read when the shard was full

Work that no 000000.json speaks of is done again, and comes out the same. When all is written, .work goes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onboard.mapping.files import storage_error
from trainer.errors import DataRefused
from trainer.tiles.index import hashes_in, write_rows
from trainer.tiles.reject import SeenHashes
from trainer.tiles.shards import ShardWriter, published, shard_name
from trainer.tiles.tally import DroppedTile, SourceTally, Tally


@dataclass(frozen=True)
class Cursor:
    """The next tile: number of its source, and number of its window there."""

    source: int = 0
    window: int = 0


@dataclass
class Progress:
    """What is done: shards published, the next tile, every kept hash, and the tally."""

    shards: int
    cursor: Cursor
    seen: SeenHashes
    tally: Tally


class Workplace:
    """Writes shards with what belongs to them. Only one process may have it open, see :func:`workplace_in`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.inside = out / ".work"

    def staged(self, name: str) -> Path:
        """Where a file is written before it takes its place."""
        return self.inside / f"{name}.part"

    def parts(self, shards: int) -> list[Path]:
        """Index rows, shard by shard."""
        return [self.inside / f"{number:06d}.parquet" for number in range(shards)]

    def take_up(self, identity: dict[str, Any]) -> Progress:
        """What an earlier run of the same settings on the same sources has done; nothing, in a fresh folder.

        Raises:
            DataRefused: the folder holds the work of another run, or damaged notes of its own.
        """
        told = self.inside / "run.json"
        if told.exists():
            if read_told(told) != identity:
                raise other_run(self.out)
        elif any(self.out.glob("tiles-*.tar")):
            raise other_run(self.out)
        else:
            with published(told, self.staged("run")) as path:
                path.write_text(json.dumps(identity))
        return self._progress()

    def commit(
        self, shard: ShardWriter, rows: Sequence[dict[str, Any]], progress: Progress, touched: Sequence[int]
    ) -> None:
        """Publishes a shard, its index rows, and that both are done. `touched` are sources counted in since the last.

        Raises:
            StorageError: the disk is full or failed.
        """
        number = progress.shards
        shard.publish(self.out / shard_name(number))
        with published(self.inside / f"{number:06d}.parquet", self.staged("rows")) as path:
            write_rows(path, rows)
        done = {
            "cursor": asdict(progress.cursor),
            "sources": {source: asdict(progress.tally.of(source)) for source in touched},
            "examples": [example.facts for example in progress.tally.examples],
        }
        with published(self.inside / f"{number:06d}.json", self.staged("done")) as path:
            path.write_text(json.dumps(done))
        progress.shards += 1

    def clear(self) -> None:
        """Takes away what only a run that goes on would need."""
        shutil.rmtree(self.inside)

    def _progress(self) -> Progress:
        progress = Progress(0, Cursor(), SeenHashes(), Tally())
        while (path := self.inside / f"{progress.shards:06d}.json").exists():
            done = read_told(path, "cursor", "sources", "examples")
            progress.cursor = Cursor(**done["cursor"])
            progress.tally.sources.update((int(key), SourceTally(**value)) for key, value in done["sources"].items())
            progress.tally.examples = [DroppedTile.of(facts) for facts in done["examples"]]
            progress.seen.add(hashes_in(self.inside / f"{progress.shards:06d}.parquet"))
            progress.shards += 1
        return progress


def read_told(path: Path, *keys: str) -> dict[str, Any]:
    """What a run wrote down of itself, with these keys at least.

    Raises:
        DataRefused: the file is damaged: it is always put there whole, so a disk lost it.
    """
    try:
        told = json.loads(path.read_bytes())
        if not isinstance(told, dict) or not told.keys() >= set(keys):
            raise ValueError("not what a run writes there")
    except (OSError, ValueError) as error:
        raise DataRefused(
            path, f"damaged ({error})", "give another --out, or remove the folder of the tiles to start afresh"
        ) from error
    return told


def other_run(out: Path) -> DataRefused:
    """The refusal of a folder that holds other tiles."""
    return DataRefused(
        out, "holds tiles of other settings or sources", "give another --out, or remove this folder to start afresh"
    )


@contextmanager
def workplace_in(out: Path) -> Iterator[Workplace]:
    """A workplace that no other process has; the folder is made.

    Raises:
        DataRefused: another process works there.
        StorageError: the folder cannot be made.
    """
    place = Workplace(out)
    try:
        place.inside.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise storage_error(error, out) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield place
    except BlockingIOError as error:
        raise DataRefused(out, "another process makes tiles there", "wait for it, or give another --out") from error
    finally:
        os.close(descriptor)
