"""The loader of training tiles: images/s compared with plain JPEG decoding, and memory at 100,000 tiles."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.spread import spread
from trainer.config import AugmentSettings, JitterSettings, Stage
from trainer.data.landscape import write_landscape
from trainer.distill.settings import DistillSettings
from trainer.distill.task import DistillTask
from trainer.tiles.run import TileRequest, make_tiles
from trainer.tiles.settings import TileSettings
from trainer.tiles.shard_reader import ShardDataset
from trainer.training.loop import Steps

BATCH = 4
# Opens a shelf in a process of its own and says how much resident memory grew by that, in bytes.
MEASURE_READER = """
import sys, os, time
from pathlib import Path
from trainer.tiles.shard_reader import ShardDataset
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
ShardDataset(Path(sys.argv[2]))[0]
before, begin = resident(), time.monotonic()
shelf = ShardDataset(Path(sys.argv[1]))
took = time.monotonic() - begin
print(len(shelf), shelf.index_bytes, resident() - before, took)
"""


def training_loader(folder: Path, *, quick: bool) -> None:
    """Images/s of the shelf and of a distillation's whole loader, over Pillow decoding the same bytes in memory."""
    tiles = folder / "tiles"
    _make_tiles(tiles, side=3072 if quick else 7168)
    shelf = ShardDataset(tiles)
    cores, rounds = os.cpu_count() or 1, 1 if quick else 5
    # In memory, so that decoding alone is the bound.
    encoded = [shelf.encoded(number) for number in range(len(shelf))]
    bare, read, loaded = [], [], []
    for _ in range(rounds):
        # In turns, so that a machine that slows down slows all three.
        bare.append(_rate(len(encoded), lambda: [_decoded(data) for data in encoded]))
        read.append(_rate(len(shelf), lambda: [shelf[number] for number in range(len(shelf))]))
        loaded.append(_loader_rate(shelf, workers=cores, steps=2 * len(shelf) // BATCH))
    print(
        f"{len(shelf)} tiles of 1024 x 1024, JPEG of {np.mean([len(d) for d in encoded]) / 1e3:.0f} kB, {rounds} rounds"
    )
    print(f"Pillow, bytes in memory, one thread     {spread(bare)} images/s")
    print(f"shelf, from shards, one thread          {spread(read)} images/s")
    print(f"whole loader, {cores} workers                 {spread(loaded)} images/s (the paper's augmentation with it)")
    print(f"shelf / bare                            {spread(_ratios(read, bare))}")
    print(f"whole loader / bare x {cores} cores           {spread([r / cores for r in _ratios(loaded, bare)])}")
    _print_memory(folder, tiles, count=10_000 if quick else 100_000)


def _make_tiles(tiles: Path, *, side: int) -> None:
    if (tiles / "tiles.json").exists():
        return
    scene = tiles.with_name("tiles-scene.tif")
    write_landscape(scene, width=side, height=side, seed=11)
    # No tile is left out for being like another: made landscapes are much alike.
    make_tiles(TileRequest((scene,), tiles, TileSettings(size=1024, most_alike=-1)))


def _decoded(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def _loader_rate(shelf: ShardDataset, *, workers: int, steps: int) -> float:
    """The loop's own loader with the paper's augmentation, its start not counted."""
    settings = DistillSettings(
        name="loader",
        stages=(Stage(until=1.0, crop=1024, batch=BATCH),),
        max_steps=1,
        augment=AugmentSettings(scale=(1.0, 1.0), rotation=10, colour=None, jitter=JitterSettings()),
    )
    task = DistillTask(settings, shelf)
    drawn = Steps(task, settings.stages[0], rank=0, world=1, accumulate=1)
    loader: DataLoader[object] = DataLoader(drawn, batch_size=None, sampler=range(steps + workers), num_workers=workers)
    # A batch of each worker first: their start is not the loader's rate.
    batches = iter(loader)
    for _ in islice(batches, workers):
        pass
    return _rate(steps * BATCH, lambda: sum(1 for _ in batches))


def _print_memory(folder: Path, tiles: Path, *, count: int) -> None:
    many = folder / "many"
    _write_many(many, count)
    answer = subprocess.run(
        [sys.executable, "-c", MEASURE_READER, str(many), str(tiles)], check=True, capture_output=True, text=True
    ).stdout.split()
    shutil.rmtree(many)
    tiles_read, index, grown, seconds = int(answer[0]), int(answer[1]), int(answer[2]), float(answer[3])
    print(
        f"{tiles_read} tiles in shards: index {index / tiles_read:.0f} bytes a tile, "
        f"resident memory grew by {grown / tiles_read:.0f} bytes a tile, found in {seconds:.1f} s"
    )


def _write_many(folder: Path, count: int, per_shard: int = 1000) -> None:
    """Shards of that many pictures of 16 pixels: what an index costs has nothing to do with their size."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(data, "JPEG")
    for first in range(0, count, per_shard):
        with tarfile.open(folder / f"shard-{first:07d}.tar", "w") as shard:
            for number in range(first, min(first + per_shard, count)):
                member = tarfile.TarInfo(f"{number:09d}.jpg")
                member.size = len(data.getvalue())
                shard.addfile(member, io.BytesIO(data.getvalue()))


def _rate(count: int, work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return count / (time.monotonic() - begin)


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]
